//! How connections end: each end, orderly or not, reaches the other side as what it was.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use pgusher_tests::cluster::{Cluster, VERSIONS, Version};
use pgusher_tests::dialer::{Close, read_to_close};
use pgusher_tests::pgusher::sockets;
use pgusher_tests::process::Running;
use pgusher_tests::stage::{Setup, Stage};
use pgusher_tests::wire::{self, FAKE_LOGIN};
use socket2::SockRef;

use crate::expect::field_is;

fn wait_until_backend_gone(cluster: &Cluster, backend: &str) -> Result<()> {
    cluster.wait_for_rows(
        &format!("select count(*) from pg_stat_activity where pid = {backend}"),
        "0",
    )
}

/// A stage whose second port is a fake server, with one logged-in connection: client's end and server's end.
fn with_fake_server(
    test: impl FnOnce(&mut Stage, TcpStream, TcpStream) -> Result<()>,
) -> Result<()> {
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = server.local_addr()?.port();
    Setup::with(Version::V15).port(port).play(|stage| {
        let mut client = stage.dialer()?.dial(port)?;
        client.write_all(&wire::startup("postgres")?)?;
        let mut accepted = wire::accept(&server)?;
        accepted.write_all(FAKE_LOGIN)?;
        wire::read_through(&mut client, b'Z')?;
        test(stage, client, accepted)
    })
}

/// Closes with a RST.
fn reset(stream: TcpStream) -> Result<()> {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    drop(stream);
    Ok(())
}

#[test]
fn a_reset_by_the_client_resets_the_server() -> Result<()> {
    with_fake_server(|stage, client, mut accepted| {
        reset(client)?;
        ensure!(
            read_to_close(&mut accepted)?.1 == Close::Reset,
            "the server sees an orderly end"
        );
        field_is(
            &stage.pgusher.trail.only_session()?,
            "/close",
            "client_reset",
        )
    })
}

#[test]
fn a_reset_by_the_server_resets_the_client() -> Result<()> {
    with_fake_server(|stage, mut client, accepted| {
        reset(accepted)?;
        ensure!(
            read_to_close(&mut client)?.1 == Close::Reset,
            "the client sees an orderly end"
        );
        field_is(
            &stage.pgusher.trail.only_session()?,
            "/close",
            "server_reset",
        )
    })
}

#[test]
fn an_end_by_the_server_ends_the_client_in_order() -> Result<()> {
    with_fake_server(|stage, mut client, mut accepted| {
        accepted.write_all(b"last words")?;
        drop(accepted);
        let (bytes, close) = read_to_close(&mut client)?;
        ensure!(
            bytes == b"last words" && close == Close::Ended,
            "{bytes:?} and {close:?}"
        );
        drop(client);
        field_is(
            &stage.pgusher.trail.only_session()?,
            "/close",
            "server_closed",
        )
    })
}

#[test]
fn an_end_by_the_client_leaves_the_other_direction_open() -> Result<()> {
    with_fake_server(|stage, mut client, mut accepted| {
        client.write_all(b"a question")?;
        client.shutdown(Shutdown::Write)?;
        let (bytes, close) = read_to_close(&mut accepted)?;
        ensure!(
            bytes == b"a question" && close == Close::Ended,
            "{bytes:?} and {close:?}"
        );
        accepted.write_all(b"a long answer")?;
        drop(accepted);
        let (bytes, close) = read_to_close(&mut client)?;
        ensure!(
            bytes == b"a long answer" && close == Close::Ended,
            "{bytes:?} and {close:?}"
        );
        field_is(
            &stage.pgusher.trail.only_session()?,
            "/close",
            "client_closed",
        )
    })
}

#[test]
fn an_end_by_the_server_leaves_the_other_direction_open() -> Result<()> {
    with_fake_server(|_, mut client, mut accepted| {
        accepted.shutdown(Shutdown::Write)?;
        ensure!(
            read_to_close(&mut client)?.1 == Close::Ended,
            "no orderly end"
        );
        client.write_all(b"still sent")?;
        drop(client);
        let (bytes, close) = read_to_close(&mut accepted)?;
        ensure!(
            bytes == b"still sent" && close == Close::Ended,
            "{bytes:?} and {close:?}"
        );
        Ok(())
    })
}

#[test]
fn a_client_that_stays_after_the_server_left_is_closed_in_the_end() -> Result<()> {
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = server.local_addr()?.port();
    Setup::with(Version::V15)
        .port(port)
        .argument("--half-closed-timeout=1s")
        .play(|stage| {
            let mut client = stage.dialer()?.dial(port)?;
            client.write_all(&wire::startup("postgres")?)?;
            drop(wire::accept(&server)?);
            ensure!(read_to_close(&mut client)?.0.is_empty());
            let record = stage.pgusher.trail.only_session()?;
            field_is(&record, "/close", "half_closed_timeout")?;
            field_is(&record, "/login/outcome", "unanswered")
        })
}

#[test]
fn the_answer_arrives_after_the_client_has_ended_its_side() -> Result<()> {
    for version in VERSIONS {
        Setup::with(version).play(|stage| {
            let mut stream = stage.dial()?;
            wire::log_in(&mut stream, "app_trust")?;
            stream.write_all(&wire::query("select 'late', pg_sleep(0.2)")?)?;
            stream.shutdown(Shutdown::Write)?;
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest)?;
            let answered = rest.windows(4).any(|window| window == b"late");
            ensure!(answered, "no answer but {}", rest.escape_ascii());
            field_is(
                &stage.pgusher.trail.only_session()?,
                "/close",
                "client_closed",
            )
        })?;
    }
    Ok(())
}

#[test]
fn the_backend_of_a_client_that_was_killed_goes_away() -> Result<()> {
    for version in VERSIONS {
        Setup::with(version).play(|stage| {
            let mut psql = Running::start(stage.client("psql")?.args(["-XqAt"]))?;
            psql.say("select pg_backend_pid() as backend \\gset")?;
            psql.say("\\echo backend=:backend")?;
            let backend = psql.wait_for_value("backend")?;
            // A server notices a client that is gone when it writes: so it writes for ever.
            psql.say("do $$ begin loop raise notice 'still there?'; perform pg_sleep(0.01); end loop; end $$;")?;
            let busy = format!("select state from pg_stat_activity where pid = {backend}");
            stage.cluster.wait_for_rows(&busy, "active")?;
            psql.signal(Signal::SIGKILL)?;
            wait_until_backend_gone(stage.cluster, &backend)?;
            let record = stage.pgusher.trail.only_session()?;
            ensure!(record["close"] == "client_closed" || record["close"] == "client_reset", "{record}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn an_idle_backend_of_a_client_that_was_killed_goes_away() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let mut psql = Running::start(stage.client("psql")?.args(["-XqAt"]))?;
        psql.say("begin; select pg_backend_pid() as backend \\gset")?;
        psql.say("\\echo backend=:backend")?;
        let backend = psql.wait_for_value("backend")?;
        psql.signal(Signal::SIGKILL)?;
        wait_until_backend_gone(stage.cluster, &backend)
    })
}

/// What a client reads when its backend ends in the middle of a long result.
fn words_of_a_terminated_backend(
    stage: &Stage,
    mut stream: TcpStream,
    end: &str,
) -> Result<(String, Close)> {
    wire::log_in(&mut stream, "app_trust")?;
    let backend = wire::ask(&mut stream, "select pg_backend_pid()")?;
    stream.write_all(&wire::query("select pg_sleep(600)")?)?;
    let sleeping = format!("select wait_event from pg_stat_activity where pid = {backend}");
    stage.cluster.wait_for_rows(&sleeping, "PgSleep")?;
    stage.cluster.sql(&end.replace("BACKEND", &backend))?;
    let (bytes, close) = read_to_close(&mut stream)?;
    Ok((bytes.escape_ascii().to_string(), close))
}

#[test]
fn a_terminated_backend_says_the_same_as_without_pgusher() -> Result<()> {
    for version in VERSIONS {
        Setup::with(version).play(|stage| {
            let end = "select pg_terminate_backend(BACKEND)";
            let direct = words_of_a_terminated_backend(stage, stage.cluster.connect()?, end)?;
            let through = words_of_a_terminated_backend(stage, stage.dial()?, end)?;
            ensure!(
                direct == through,
                "{direct:?} without, {through:?} through pgusher"
            );
            ensure!(direct.0.contains("57P01"), "{direct:?}");
            field_is(
                &stage.pgusher.trail.only_session()?,
                "/close",
                "server_closed",
            )
        })?;
    }
    Ok(())
}

#[test]
fn a_server_that_dies_in_a_result_cuts_it_for_the_client() -> Result<()> {
    with_fake_server(|stage, mut client, mut accepted| {
        // The head of a DataRow of 1,000 bytes, and then nobody.
        accepted.write_all(b"D\0\0\x03\xe8half a ro")?;
        reset(accepted)?;
        let (bytes, close) = read_to_close(&mut client)?;
        ensure!(
            close == Close::Reset,
            "the cut result looks complete: {bytes:?}"
        );
        field_is(
            &stage.pgusher.trail.only_session()?,
            "/close",
            "server_reset",
        )
    })
}

#[test]
fn both_legs_send_small_messages_at_once_and_probe_a_silent_peer() -> Result<()> {
    with_fake_server(|stage, client, server| {
        let legs = sockets::connected(stage.pgusher.pid())?;
        ensure!(legs.len() == 2, "{legs:?}");
        for leg in &legs {
            ensure!(leg.tcp_nodelay()?, "{leg:?} waits for more to send");
            ensure!(
                leg.keepalive()?,
                "{leg:?} does not notice a peer that vanished"
            );
        }
        drop((client, server));
        Ok(())
    })
}
