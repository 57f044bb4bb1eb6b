//! Limits reached: the refusal has a reason, what matters still works, and room that comes back is used.

use std::io::Write;
use std::net::TcpStream;
use std::process::Command;

use anyhow::{Result, ensure};
use pgusher_tests::cluster::{VERSIONS, Version};
use pgusher_tests::condition::{Seen, wait_until};
use pgusher_tests::dialer::read_to_close;
use pgusher_tests::process::run;
use pgusher_tests::stage::{Setup, Stage};
use pgusher_tests::wire;

use crate::expect::field_is;

/// Opens and logs in `count` sessions.
fn sessions(stage: &Stage, count: usize) -> Result<Vec<(TcpStream, Vec<u8>)>> {
    let open = |_| -> Result<(TcpStream, Vec<u8>)> {
        let mut stream = stage.dial()?;
        let key = wire::log_in(&mut stream, "app_trust")?;
        Ok((stream, key))
    };
    (0..count).map(open).collect()
}

#[test]
fn one_session_too_many_is_refused_until_another_ends() -> Result<()> {
    Setup::with(Version::V15)
        .argument("--max-sessions=3")
        .play(|stage| {
            let mut open = sessions(stage, 3)?;
            let mut refused = stage.dial()?;
            refused.write_all(&wire::startup("app_trust")?)?;
            let error = wire::read_message(&mut refused)?;
            ensure!(
                error.kind == b'E' && error.field(b'C').as_deref() == Some("53300"),
                "{error:?}"
            );
            ensure!(
                read_to_close(&mut refused)?.0.is_empty(),
                "more than one message"
            );
            drop(refused);
            let record = stage
                .pgusher
                .trail
                .wait_for_session("a refusal", |_| true)?;
            field_is(&record, "/close", "too_many_sessions")?;
            field_is(&record, "/startup/user", "app_trust")?;
            stage
                .pgusher
                .wait_for_counter("/sessions/refused", |refused| refused == 1)?;

            open.pop();
            stage
                .pgusher
                .wait_for_counter("/sessions/active", |active| active == 2)?;
            open.extend(sessions(stage, 1)?);
            Ok(())
        })
}

#[test]
fn a_cancel_request_passes_when_there_is_no_room_for_sessions() -> Result<()> {
    for version in VERSIONS {
        Setup::with(version)
            .argument("--max-sessions=1")
            .play(|stage| {
                for (mut stream, key) in sessions(stage, 1)? {
                    let backend = wire::ask(&mut stream, "select pg_backend_pid()")?;
                    stream.write_all(&wire::query("select pg_sleep(600)")?)?;
                    let sleeping =
                        format!("select wait_event from pg_stat_activity where pid = {backend}");
                    stage.cluster.wait_for_rows(&sleeping, "PgSleep")?;
                    let mut cancel = stage.dial()?;
                    cancel.write_all(&wire::packet(wire::CANCEL_REQUEST, &key)?)?;
                    ensure!(
                        read_to_close(&mut cancel)?.0.is_empty(),
                        "a cancel request is answered"
                    );
                    let result = wire::read_through(&mut stream, b'E')?;
                    let sqlstate = result.last().and_then(|error| error.field(b'C'));
                    ensure!(sqlstate.as_deref() == Some("57014"), "{result:?}");
                }
                let trail = &stage.pgusher.trail;
                let record =
                    trail.wait_for_session("the cancel", |record| record["kind"] == "cancel")?;
                field_is(&record, "/login/outcome", "unanswered")
            })?;
    }
    Ok(())
}

/// Sets the soft limit of open descriptors of a running pgusher.
fn limit_descriptors(stage: &Stage, soft: usize) -> Result<()> {
    let limit = format!("--nofile={soft}:");
    run(Command::new("prlimit").args(["--pid", &stage.pgusher.pid().to_string(), &limit]))?
        .success()?;
    Ok(())
}

#[test]
fn pgusher_recovers_after_it_ran_out_of_descriptors() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        // What the limit leaves is enough for a few sessions of two sockets each.
        let idle = stage.pgusher.descriptors()?;
        limit_descriptors(stage, idle + 9)?;
        let mut waiting = Vec::new();
        for _ in 0..20 {
            let mut stream = stage.dial()?;
            stream.write_all(&wire::startup("app_trust")?)?;
            waiting.push(stream);
        }
        wait_until("no descriptor is left", || {
            let open = stage.pgusher.descriptors()?;
            Ok(Seen::when(open >= idle + 8, || {
                format!("{open} descriptors, {idle} when idle")
            }))
        })?;
        ensure!(stage.pgusher.is_running()?, "pgusher ended");

        limit_descriptors(stage, 10_000)?;
        drop(waiting);
        stage
            .pgusher
            .wait_for_counter("/sessions/active", |active| active == 0)?;
        let finished = run(&mut stage.psql("select 1")?)?;
        ensure!(finished.success()? == "1", "{finished:?}");
        wait_until("the descriptors are closed", || {
            let open = stage.pgusher.descriptors()?;
            Ok(Seen::when(open <= idle, || {
                format!("{open} descriptors, {idle} when idle")
            }))
        })
    })
}

#[test]
fn the_servers_own_limit_is_reported_in_its_words() -> Result<()> {
    for version in VERSIONS {
        Setup::with(version).play(|stage| {
            let mut stream = stage.dial()?;
            stream.write_all(
                &[
                    wire::startup("app_crowded")?,
                    wire::message(b'p', b"correct horse\0")?,
                ]
                .concat(),
            )?;
            let (answer, _) = read_to_close(&mut stream)?;
            drop(stream);
            ensure!(
                answer.windows(6).any(|window| window == b"C53300"),
                "{}",
                answer.escape_ascii()
            );
            let record = stage.pgusher.trail.only_session()?;
            field_is(&record, "/login/sqlstate", "53300")?;
            field_is(&record, "/close", "server_closed")
        })?;
    }
    Ok(())
}
