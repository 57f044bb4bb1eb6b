//! Servers that cannot be reached: clients are told so that they try their next host.

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context, Result, ensure};
use pgusher_tests::cluster::{VERSIONS, Version, free_port};
use pgusher_tests::dialer::read_to_close;
use pgusher_tests::process::run;
use pgusher_tests::stage::Setup;
use pgusher_tests::wire;

use crate::expect::{accepted_session, field_is};

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
    // A listener whose queue is full answers no more connects.
    let busy = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    busy.bind(&std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    busy.listen(0)?;
    let busy = TcpListener::from(busy);
    let port = busy.local_addr()?.port();
    let queued = std::net::TcpStream::connect(busy.local_addr()?)?;
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
