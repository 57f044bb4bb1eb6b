//! Servers that cannot be reached: clients are told so that they try their next host.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use pgusher_tests::authority::LocalAuthority;
use pgusher_tests::cluster::{VERSIONS, Version, free_port};
use pgusher_tests::condition::{Seen, wait_until};
use pgusher_tests::dialer::read_to_close;
use pgusher_tests::process::run;
use pgusher_tests::stage::{Setup, Stage};
use pgusher_tests::wire;
use serde_json::Value;

use crate::expect::{accepted_session, at, field_is};
use crate::tls::{minted, terminate};

#[test]
fn a_refused_connect_is_reported_as_cannot_connect_now() -> Result<()> {
    let dead = free_port()?;
    for version in VERSIONS {
        Setup::with(version).port(dead).play(|stage| {
            let mut stream = stage.dialer()?.dial(dead)?;
            stream.write_all(&wire::startup("postgres")?)?;
            let error = wire::read_message(&mut stream)?;
            ensure!(
                error.kind == b'E' && error.field(b'C').as_deref() == Some("57P03"),
                "{error:?}"
            );
            ensure!(error.field(b'S').as_deref() == Some("FATAL"), "{error:?}");
            ensure!(
                read_to_close(&mut stream)?.0.is_empty(),
                "more than one message"
            );
            drop(stream);
            let record = stage.pgusher.trail.only_session()?;
            field_is(&record, "/close", "upstream_unreachable")?;
            field_is(&record, "/destination/port", dead)
        })?;
    }
    Ok(())
}

#[test]
fn psql_tries_its_next_host_when_one_is_down() -> Result<()> {
    let dead = free_port()?;
    for version in VERSIONS {
        Setup::with(version).port(dead).play(|stage| {
            for mode in ["disable", "prefer"] {
                let connection = format!(
                    "host=127.0.0.1,127.0.0.1 port={dead},{} user=app_trust dbname=postgres sslmode={mode}",
                    stage.cluster.port
                );
                let finished = run(&mut stage.psql_to(&connection, "select inet_server_port()")?)?;
                let port = finished.success().with_context(|| format!("sslmode={mode}"))?;
                ensure!(port == stage.cluster.port.to_string(), "{finished:?}");
            }
            let sessions = stage.pgusher.trail.wait_for_sessions(4)?;
            let unreachable = sessions.iter().filter(|record| record["close"] == "upstream_unreachable");
            ensure!(unreachable.count() >= 2, "{sessions:?}");
            let plain = sessions.iter().find(|record| record["login"]["outcome"] == "accepted");
            accepted_session(plain.context("no accepted session")?, "app_trust")
        })?;
    }
    Ok(())
}

#[test]
fn psql_that_requires_encryption_tries_its_next_host_too() -> Result<()> {
    let dead = free_port()?;
    for version in VERSIONS {
        let modes: &[&str] = match version {
            Version::V15 => &["sslmode=require"],
            Version::V18 => &["sslmode=require", "sslmode=require sslnegotiation=direct"],
        };
        Setup::with(version).port(dead).play(|stage| {
            for (index, mode) in modes.iter().enumerate() {
                let connection = format!(
                    "host=127.0.0.1,127.0.0.1 port={dead},{} user=app_trust dbname=postgres {mode}",
                    stage.cluster.port
                );
                let finished = run(&mut stage.psql_to(&connection, "select inet_server_port()")?)?;
                let port = finished.success().with_context(|| (*mode).to_owned())?;
                ensure!(port == stage.cluster.port.to_string(), "{finished:?}");
                let sessions = stage.pgusher.trail.wait_for_sessions(2 * index + 2)?;
                let refused = sessions
                    .iter()
                    .skip(2 * index)
                    .find(|record| record["close"] == "upstream_unreachable")
                    .context("no refusal on record")?;
                let expected = if mode.contains("direct") {
                    "direct_tls_terminated"
                } else {
                    "tls_terminated"
                };
                field_is(refused, "/encryption", expected)?;
                field_is(refused, "/startup/user", "app_trust")?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn psql_shows_the_reason_when_its_only_host_is_down() -> Result<()> {
    let dead = free_port()?;
    for version in VERSIONS {
        Setup::with(version).port(dead).play(|stage| {
            let connection = format!(
                "host=127.0.0.1 port={dead} user=app_trust dbname=postgres sslmode=disable"
            );
            let finished = run(&mut stage.psql_to(&connection, "select 1")?)?;
            let message = finished.failure()?;
            ensure!(
                message.contains("FATAL") && message.contains(&dead.to_string()),
                "{message}"
            );
            let ready = run(stage.client("pg_isready")?.env("PGPORT", dead.to_string()))?;
            // 1: the server rejects connections; 2 would be: no answer.
            ensure!(ready.status.code() == Some(1), "{ready:?}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_server_that_does_not_answer_the_connect_is_reported_after_the_dial_timeout() -> Result<()> {
    let (busy, queued) = busy_server()?;
    let port = busy.local_addr()?.port();
    Setup::with(Version::V15)
        .port(port)
        .argument("--dial-timeout=1s")
        .play(|stage| {
            let mut stream = stage.dialer()?.dial(port)?;
            stream.write_all(&wire::startup("postgres")?)?;
            let error = wire::read_message(&mut stream)?;
            ensure!(error.field(b'C').as_deref() == Some("57P03"), "{error:?}");
            drop(stream);
            field_is(
                &stage.pgusher.trail.only_session()?,
                "/close",
                "upstream_unreachable",
            )
        })?;
    drop(queued);
    Ok(())
}

/// How many connections went through a stage of setting sessions up.
fn passed(stage: &Stage, name: &str) -> Result<u64> {
    let status = stage.pgusher.status()?;
    let stages = at(&status, "/setup").as_array().context("no stages")?;
    let named = stages.iter().find(|one| one["stage"] == name);
    named
        .and_then(|one| one["count"].as_u64())
        .with_context(|| format!("{name} is not in {status}"))
}

#[test]
fn a_server_is_dialled_while_its_client_is_identified_unless_that_decides_about_it() -> Result<()> {
    let all = "permit (principal, action, resource);";
    let authority = LocalAuthority::init()?;
    let ends_here = terminate(&minted(&authority));
    let plain = || Setup::with(Version::V15);
    let setups = [
        ("no policy", plain(), true, 1),
        ("observed", plain().policy("observe", ""), true, 1),
        ("enforced", plain().policy("enforce", all), true, 0),
        ("denied", plain().policy("enforce", ""), false, 0),
        // A client's handshake with pgusher comes before the server.
        ("terminated", plain().file(ends_here), true, 0),
    ];
    for (name, setup, is_dialled, ahead) in setups {
        setup.play(|stage| {
            let connection = "dbname=postgres sslmode=disable";
            let finished = run(&mut stage.psql_to(connection, "select 1")?)?;
            ensure!(finished.status.success() == is_dialled, "{finished:?}");
            // A machine that is busy may be so slow that the server is left and dialled anew.
            let found = (passed(stage, "dial")? >= 1, passed(stage, "held_up")?);
            ensure!(found == (is_dialled, ahead), "{name}: {found:?}");
            Ok(())
        })?;
    }
    Ok(())
}

/// A listener that answers no more connects, and the one that waits in its queue.
fn busy_server() -> Result<(TcpListener, TcpStream)> {
    let busy = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    busy.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    busy.listen(0)?;
    let busy = TcpListener::from(busy);
    let queued = TcpStream::connect(busy.local_addr()?)?;
    Ok((busy, queued))
}

/// Whether somebody waits for an answer from that port of the loopback address.
fn is_dialled(port: u16) -> Result<bool> {
    const SYN_SENT: &str = "02";
    let remote = format!("0100007F:{port:04X}");
    let sockets = std::fs::read_to_string("/proc/net/tcp")?;
    Ok(sockets.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(2);
        fields.next() == Some(&remote) && fields.next() == Some(SYN_SENT)
    }))
}

#[test]
fn a_session_that_ends_while_its_server_is_dialled_has_on_record_what_it_was_to_be() -> Result<()> {
    let (busy, queued) = busy_server()?;
    let port = busy.local_addr()?.port();
    Setup::with(Version::V15)
        .port(port)
        .policy("observe", "")
        .arguments(&["--dial-timeout=1h", "--drain-timeout=5s"])
        .play(|stage| {
            let mut stream = stage.dialer()?.dial(port)?;
            stream.write_all(&wire::startup("postgres")?)?;
            let is_first = |record: &Value| record["type"] == "session_start";
            stage.pgusher.trail.wait_for("the first record", is_first)?;
            wait_until("the server is dialled", || {
                Ok(Seen::when(is_dialled(port)?, || "it is not".to_owned()))
            })?;
            stage.pgusher.signal(Signal::SIGTERM)?;
            stage.pgusher.wait_for_end()?.success()?;
            let record = stage.pgusher.trail.only_session()?;
            field_is(&record, "/close", "shutdown")?;
            field_is(&record, "/kind", "session")?;
            field_is(&record, "/startup/user", "postgres")?;
            field_is(&record, "/policy/decision", "deny")
        })?;
    drop(queued);
    Ok(())
}
