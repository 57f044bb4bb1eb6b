//! While pgusher is down, and when another takes over: as with TCP.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use pgusher_tests::bpf_fs;
use pgusher_tests::cluster::Version;
use pgusher_tests::condition::{Seen, wait_until};
use pgusher_tests::kernel;
use pgusher_tests::pgusher::detach;
use pgusher_tests::process::{Running, run};
use pgusher_tests::stage::{Setup, Stage};

use super::{client, own_listeners, record_of, redirected, server, socket_path};
use crate::expect::field_is;

fn closed() -> Setup {
    Setup::with(Version::V15).argument("--when-down=closed")
}

/// A new session through the socket is served, and comes through pgusher.
fn is_intercepted(stage: &Stage) -> Result<()> {
    let before = redirected(stage)?;
    let finished = run(&mut client(stage, "ask", &socket_path(stage))?)?;
    ensure!(finished.value("answer")? == "42", "{finished:?}");
    ensure!(redirected(stage)? == before + 1, "it went direct");
    record_of(stage, &finished)?;
    Ok(())
}

/// Why a new connect fails.
fn refusal(stage: &Stage) -> Result<String> {
    let finished = run(&mut client(stage, "dial", &socket_path(stage))?)?;
    Ok(finished.value("error")?.to_owned())
}

fn is_closed(stage: &Stage) -> Result<()> {
    let error = refusal(stage)?;
    ensure!(error == "Connection refused", "{error}");
    Ok(())
}

#[test]
fn closed_and_killed_it_is_a_server_that_is_down_until_the_next_start() -> Result<()> {
    closed().play(|stage| {
        is_intercepted(stage)?;
        stage.kill()?;
        is_closed(stage)?;
        stage.restart()?;
        is_intercepted(stage)?;
        ensure!(bpf_fs::generations(stage.cgroup.path())?.len() == 1);
        let is_outage = |record: &serde_json::Value| record["type"] == "outage";
        let outage = stage.pgusher.trail.wait_for("the outage", is_outage)?;
        field_is(&outage, "/refused", 1)
    })
}

#[test]
fn closed_and_hung_it_is_one_too_once_it_was_silent_for_too_long() -> Result<()> {
    let setup = closed().argument("--stall-timeout=4s");
    setup.play(|stage| {
        is_intercepted(stage)?;
        stage.pgusher.signal(Signal::SIGSTOP)?;
        wait_until("connects are refused", || {
            let finished = run(&mut client(stage, "dial", &socket_path(stage))?)?;
            let is_refused = finished.stdout.contains("error=Connection refused");
            Ok(Seen::when(is_refused, || finished.stdout.clone()))
        })?;
        stage.pgusher.signal(Signal::SIGCONT)?;
        wait_until("connects are redirected again", || {
            let finished = run(&mut client(stage, "ask", &socket_path(stage))?)?;
            let is_served = finished.stdout.contains("answer=42");
            Ok(Seen::when(is_served, || finished.stdout.clone()))
        })?;
        Ok(())
    })
}

#[test]
fn open_and_killed_they_go_direct() -> Result<()> {
    let setup = Setup::with(Version::V15).argument("--when-down=open");
    setup.play(|stage| {
        is_intercepted(stage)?;
        stage.kill()?;
        kernel::wait_until_nothing_attached(stage.cgroup.path())?;
        let finished = run(&mut client(stage, "ask", &socket_path(stage))?)?;
        ensure!(finished.value("answer")? == "42", "{finished:?}");
        Ok(())
    })
}

#[test]
fn whoever_takes_the_name_of_a_dead_listener_gets_nothing() -> Result<()> {
    closed().play(|stage| {
        is_intercepted(stage)?;
        let names = own_listeners(stage)?;
        let name = names.first().context("no listener")?;
        stage.kill()?;
        let _impostor = server("name", name)?;
        is_closed(stage)?;
        // It is anybody's name now, for whoever means it.
        let finished = run(&mut client(stage, "dial", name)?)?;
        ensure!(finished.value("connected")? == "yes", "{finished:?}");
        Ok(())
    })
}

#[test]
fn detach_opens_the_way_and_leaves_nothing() -> Result<()> {
    closed().play(|stage| {
        is_intercepted(stage)?;
        let cgroup = stage.cgroup.path().to_path_buf();
        let pins = bpf_fs::generations(&cgroup)?;
        let [pinned] = pins.as_slice() else {
            anyhow::bail!("{pins:?}");
        };
        ensure!(pinned.join("pgusher_connect_unix").exists(), "{pinned:?}");
        let held = stage.pgusher.held()?;
        stage.kill()?;
        is_closed(stage)?;
        detach(&cgroup)?.success()?;
        held.wait_until_gone()?;
        kernel::wait_until_nothing_attached(&cgroup)?;
        ensure!(!bpf_fs::pins_of(&cgroup)?.exists());
        let finished = run(&mut client(stage, "ask", &socket_path(stage))?)?;
        ensure!(finished.value("answer")? == "42", "{finished:?}");
        Ok(())
    })
}

#[test]
fn a_takeover_keeps_a_session_and_serves_new_ones() -> Result<()> {
    for when_down in ["open", "closed"] {
        let setup = Setup::with(Version::V15).argument(format!("--when-down={when_down}"));
        setup.play(|stage| {
            let mut open = Running::start(&mut client(stage, "hold", &socket_path(stage))?)?;
            open.wait_for_value("logged_in")?;
            let mut predecessor = stage.take_over()?;
            is_intercepted(stage)?;
            stage
                .pgusher
                .wait_for_counter("/predecessors/sessions", |sessions| sessions == 1)?;
            ensure!(predecessor.is_running()?, "it left its session");
            open.finish()?.success()?;
            let held = predecessor.held()?;
            let finished = predecessor.wait_for_end()?;
            ensure!(finished.status.code() == Some(0), "{finished:?}");
            held.wait_until_gone()?;
            is_intercepted(stage)
        })?;
    }
    Ok(())
}

#[test]
fn a_query_in_the_old_process_is_cancelled_through_the_new_one() -> Result<()> {
    let permit = "permit (principal, action == Action::\"connect\", resource);";
    let setup = Setup::with(Version::V15).policy("enforce", permit);
    setup.play(|stage| {
        let mut sleeping = Running::start(&mut client(stage, "late", &socket_path(stage))?)?;
        sleeping.wait_for_value("asleep")?;
        let mut predecessor = stage.take_over()?;
        // With that it knows whose query it is.
        let known = "/predecessors/sessions";
        stage
            .pgusher
            .wait_for_counter(known, |sessions| sessions == 1)?;
        sleeping.say("now")?;
        let finished = sleeping.finish()?;
        ensure!(finished.value("sqlstate")? == "57014", "{finished:?}");
        let is_request = |record: &serde_json::Value| record["kind"] == "cancel";
        let trail = &stage.pgusher.trail;
        let request = trail.wait_for_session("the cancel request", is_request)?;
        field_is(&request, "/policy/policies/0", "pgusher.own-cancel")?;
        predecessor.wait_for_end()?;
        Ok(())
    })
}
