//! From the first hook to the last: what pgusher finds at start, and what happens to sessions when it ends.

use std::io::ErrorKind::{Interrupted, WouldBlock};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use pgusher_tests::cgroup::TestCgroup;
use pgusher_tests::cluster::{Cluster, Version};
use pgusher_tests::condition::{Seen, wait_until};
use pgusher_tests::dialer::read_to_close;
use pgusher_tests::kernel;
use pgusher_tests::pgusher::Pgusher;
use pgusher_tests::process::{ended_by, run};
use pgusher_tests::stage::{Setup, Stage};
use pgusher_tests::wire;
use serde_json::Value;
use tempfile::TempDir;

use crate::expect::{at, field_is};

/// A new connection reaches the server without pgusher.
fn goes_direct(stage: &Stage) -> Result<()> {
    let mut stream = stage.session()?;
    let peer = wire::ask(
        &mut stream,
        "select host(inet_client_addr()) || ' ' || inet_client_port()",
    )?;
    let own = stream.local_addr()?;
    ensure!(
        peer == format!("{} {}", own.ip(), own.port()),
        "the server sees {peer}, the client is {own}"
    );
    let records = stage.pgusher.trail.records()?;
    let is_it = |record: &Value| *at(record, "/client/port") == own.port();
    ensure!(
        !records.iter().any(is_it),
        "the connection is on record: {records:?}"
    );
    Ok(())
}

#[test]
fn whoever_keeps_a_connection_with_the_admin_socket_keeps_nothing_else() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        drop(stage.session()?);
        stage.settle()?;
        let mut kept = UnixStream::connect(stage.pgusher.admin_socket())?;
        kept.write_all(b"GET /v1/status HTTP/1.1\r\nHost: pgusher\r\n\r\n")?;
        let mut answer = [0; 12];
        kept.read_exact(&mut answer)?;
        ensure!(&answer == b"HTTP/1.1 200", "{}", answer.escape_ascii());
        stage.pgusher.signal(Signal::SIGTERM)?;
        let finished = stage.pgusher.wait_for_end()?;
        ensure!(finished.status.code() == Some(0), "{finished:?}");
        let log = stage.pgusher.log()?;
        ensure!(!log.contains("the audit sink is stuck"), "{log}");
        Ok(())
    })
}

#[test]
fn sigterm_detaches_first_and_lets_sessions_end_by_themselves() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let mut open = stage.session()?;
        let dialled = open.peer_addr()?;
        let held = stage.pgusher.held()?;
        stage.pgusher.signal(Signal::SIGTERM)?;
        kernel::wait_until_no_connect_is_intercepted(stage.cgroup.path())?;
        goes_direct(stage)?;
        ensure!(
            wire::ask(&mut open, "select 'still'")? == "still",
            "the open session ended"
        );
        ensure!(stage.pgusher.is_running()?, "pgusher left an open session");
        ensure!(open.peer_addr()? == dialled, "its peer is another one now");
        drop(open);
        let finished = stage.pgusher.wait_for_end()?;
        ensure!(finished.status.code() == Some(0), "{finished:?}");
        held.wait_until_gone()?;
        field_is(
            &stage.pgusher.trail.only_session()?,
            "/close",
            "client_closed",
        )
    })
}

#[test]
fn sessions_that_outlast_the_drain_timeout_are_closed() -> Result<()> {
    Setup::with(Version::V15)
        .argument("--drain-timeout=1s")
        .play(|stage| {
            let mut open = stage.session()?;
            stage.pgusher.signal(Signal::SIGTERM)?;
            read_to_close(&mut open)?;
            let finished = stage.pgusher.wait_for_end()?;
            ensure!(finished.status.code() == Some(0), "{finished:?}");
            field_is(&stage.pgusher.trail.only_session()?, "/close", "shutdown")
        })
}

#[test]
fn a_second_signal_ends_everything_at_once() -> Result<()> {
    Setup::with(Version::V15)
        .argument("--drain-timeout=1h")
        .play(|stage| {
            let mut open = stage.session()?;
            let held = stage.pgusher.held()?;
            stage.pgusher.signal(Signal::SIGINT)?;
            kernel::wait_until_no_connect_is_intercepted(stage.cgroup.path())?;
            ensure!(wire::ask(&mut open, "select 'still'")? == "still");
            stage.pgusher.signal(Signal::SIGTERM)?;
            let finished = stage.pgusher.wait_for_end()?;
            ensure!(finished.status.code() == Some(1), "{finished:?}");
            read_to_close(&mut open)?;
            held.wait_until_gone()
        })
}

#[test]
fn a_killed_pgusher_leaves_nothing_attached() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let mut open = stage.session()?;
        let held = stage.pgusher.held()?;
        stage.pgusher.signal(Signal::SIGKILL)?;
        let finished = stage.pgusher.wait_for_end()?;
        ensure!(ended_by(&finished, Signal::SIGKILL), "{finished:?}");
        kernel::wait_until_nothing_attached(stage.cgroup.path())?;
        held.wait_until_gone()?;
        read_to_close(&mut open)?;
        goes_direct(stage)
    })
}

#[test]
fn a_restarted_pgusher_serves_at_once() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        drop(stage.session()?);
        stage.pgusher.trail.only_session()?;
        stage.pgusher.signal(Signal::SIGKILL)?;
        stage.pgusher.wait_for_end()?;
        // The socket file of the killed one is still there.
        let ports = [stage.cluster.port];
        stage.pgusher = Pgusher::start(&stage.cgroup, &ports, stage.directory(), &[])?;
        ensure!(run(&mut stage.psql("select 1")?)?.success()? == "1");
        ensure!(
            stage.redirected()? == 1,
            "not intercepted after the restart"
        );
        stage.pgusher.trail.wait_for_sessions(2)?;
        Ok(())
    })
}

#[test]
fn readiness_is_told_to_the_service_manager() -> Result<()> {
    let cluster = Cluster::shared(Version::V15)?;
    let directory = TempDir::new()?;
    let cgroup = TestCgroup::create()?;
    let notified = directory.path().join("notify.sock");
    let manager = std::os::unix::net::UnixDatagram::bind(&notified)?;
    manager.set_nonblocking(true)?;
    let mut command = cgroup.command(pgusher_tests::pgusher::binary()?)?;
    command.args(pgusher_tests::pgusher::arguments(
        &cgroup,
        &[cluster.port],
        directory.path(),
    ));
    let mut pgusher =
        Pgusher::start_command(command.env("NOTIFY_SOCKET", &notified), directory.path())?;
    let text = wait_until("pgusher tells that it is ready", || {
        let running = pgusher.is_running()?;
        ensure!(running, "pgusher ended: {}", pgusher.log()?);
        let mut message = [0_u8; 256];
        match manager.recv(&mut message) {
            Ok(length) => Ok(Seen::Holds(
                String::from_utf8_lossy(message.get(..length).unwrap_or_default()).into_owned(),
            )),
            // A receive that is interrupted, as a frozen process's is, says as little as one that finds nothing.
            Err(error) if matches!(error.kind(), WouldBlock | Interrupted) => Ok(Seen::NotYet(
                format!("{error}; its log: {}", pgusher.log()?),
            )),
            Err(error) => Err(error.into()),
        }
    })?;
    ensure!(text.lines().any(|line| line == "READY=1"), "{text}");
    pgusher.signal(Signal::SIGTERM)?;
    let finished = pgusher.wait_for_end()?;
    ensure!(finished.status.success(), "{finished:?}");
    kernel::wait_until_nothing_attached(cgroup.path())
}

#[test]
fn two_instances_on_two_cgroups_do_not_disturb_each_other() -> Result<()> {
    Setup::with(Version::V15).play(|first| {
        Setup::with(Version::V15).play(|second| {
            drop(first.session()?);
            drop(second.session()?);
            first.pgusher.trail.only_session()?;
            second.pgusher.trail.only_session()?;
            Ok(())
        })?;
        drop(first.session()?);
        wait_until("the first instance has two records", || {
            let sessions = first.pgusher.trail.sessions()?;
            Ok(Seen::when(sessions.len() == 2, || format!("{sessions:?}")))
        })
    })
}

#[test]
fn a_query_in_flight_is_not_lost_when_pgusher_is_told_to_end() -> Result<()> {
    Setup::with(Version::V18).play(|stage| {
        let mut open = stage.session()?;
        open.write_all(&wire::query("select 'finished' from pg_sleep(0.5)")?)?;
        stage.pgusher.signal(Signal::SIGTERM)?;
        let messages = wire::read_through(&mut open, b'Z')?;
        ensure!(
            messages
                .iter()
                .any(|message| message.body.ends_with(b"finished")),
            "{messages:?}"
        );
        drop(open);
        ensure!(stage.pgusher.wait_for_end()?.status.success());
        Ok(())
    })
}
