//! `when_down = "closed"`: nobody connects before somebody serves again, or an operator has it detached.

use std::fs;
use std::net::TcpListener;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use pgusher_tests::bpf_fs;
use pgusher_tests::cluster::{Version, free_port};
use pgusher_tests::condition::{Seen, wait_until};
use pgusher_tests::kernel;
use pgusher_tests::pgusher::{binary, detach, status_of};
use pgusher_tests::process::{Running, run};
use pgusher_tests::programs::c_client;
use pgusher_tests::stage::{Setup, Stage};
use pgusher_tests::wire;

use super::{goes_direct, is_closed, is_intercepted, wait_until_closed};

fn closed() -> Setup {
    Setup::with(Version::V15).argument("--when-down=closed")
}

#[test]
fn it_is_the_default_where_policies_are_enforced() -> Result<()> {
    Setup::with(Version::V15)
        .policy("enforce", "permit (principal, action, resource);")
        .play(|stage| {
            is_intercepted(stage)?;
            let status = stage.pgusher.status()?;
            ensure!(status["when_down"] == "closed", "{status}");
            stage.kill()?;
            is_closed(stage)
        })
}

#[test]
fn a_killed_pgusher_is_a_server_that_is_down_until_the_next_start() -> Result<()> {
    closed().play(|stage| {
        is_intercepted(stage)?;
        stage.kill()?;
        is_closed(stage)?;
        let psql = run(&mut stage.psql("select 1")?)?;
        let stderr = psql.failure()?;
        ensure!(stderr.contains("Connection refused"), "{stderr}");
        stage.restart()?;
        is_intercepted(stage)?;
        ensure!(bpf_fs::generations(stage.cgroup.path())?.len() == 1);
        // Twice here, and twice by psql, which tries again without encryption.
        let outage = stage
            .pgusher
            .trail
            .wait_for("the outage", |record| record["type"] == "outage")?;
        let refused = outage["refused"].as_u64().context("a number")?;
        ensure!(refused >= 3, "{outage}");
        Ok(())
    })
}

#[test]
fn no_connect_goes_direct_while_pgusher_starts_again() -> Result<()> {
    closed().play(|stage| {
        let connection = stage.conninfo("app_trust");
        let mut client = c_client(&stage.cgroup, "hammer")?;
        let mut hammer = Running::start(client.args([&connection, "200", "0"]))?;
        hammer.wait_for_value("ready")?;
        for _ in 0..3 {
            stage.kill()?;
            stage.restart()?;
            stage
                .pgusher
                .wait_for_counter("/sessions/total", |total| total > 20)?;
        }
        let finished = hammer.finish()?;
        stage.settle()?;
        let number = |key| -> Result<usize> { Ok(finished.value(key)?.parse()?) };
        let (connects, failed) = (number("connects")?, number("failed")?);
        ensure!(failed > 0, "no connect met an outage: {finished:?}");
        let begun = stage.pgusher.trail.records()?;
        let begun = begun
            .iter()
            .filter(|record| record["type"] == "session_start");
        let begun = begun.count();
        // What failed may have begun, what succeeded must have.
        ensure!(
            begun >= connects - failed && begun <= connects,
            "{begun} sessions on record, {finished:?}"
        );
        // Those that were killed with their sessions open have no end on record.
        stage.forget_trail()
    })
}

#[test]
fn whoever_takes_the_port_of_a_dead_listener_gets_nothing() -> Result<()> {
    // One that nobody else is given meanwhile.
    let own_port = format!("--listen-port={}", free_port()?);
    closed().argument(own_port).play(|stage| {
        is_intercepted(stage)?;
        let listeners = stage.pgusher.listeners()?;
        stage.kill()?;
        let impostors: Vec<TcpListener> = listeners
            .iter()
            .map(TcpListener::bind)
            .collect::<Result<_, _>>()?;
        is_closed(stage)?;
        // It is anybody's port now, for whoever means it.
        for impostor in &impostors {
            stage.dialer()?.dial_address(impostor.local_addr()?)?;
        }
        Ok(())
    })
}

#[test]
fn whoever_gets_the_process_id_of_a_dead_pgusher_is_nobody_special() -> Result<()> {
    closed().play(|stage| {
        is_intercepted(stage)?;
        let pid = stage.pgusher.pid().to_string();
        stage.kill()?;
        let port = stage.cluster.port.to_string();
        wait_until("a process has pgusher's number", || {
            let mut client = c_client(&stage.cgroup, "disguise")?;
            let finished = run(client.args(["numbered", &port, &pid]))?;
            // Somebody else may have it for a while.
            if finished.stdout.contains("taken=") {
                return Ok(Seen::NotYet(finished.stdout));
            }
            ensure!(finished.value("number")? == pid, "{finished:?}");
            let error = finished.value("error")?;
            ensure!(error.ends_with("Connection refused"), "{finished:?}");
            Ok(Seen::Holds(()))
        })
    })
}

#[test]
fn a_stopped_pgusher_refuses_new_connects_and_lets_sessions_end() -> Result<()> {
    closed().play(|stage| {
        let mut open = stage.session()?;
        stage.pgusher.signal(Signal::SIGTERM)?;
        wait_until_closed(stage)?;
        ensure!(wire::ask(&mut open, "select 'still'")? == "still");
        ensure!(stage.pgusher.is_running()?, "pgusher left an open session");
        drop(open);
        let finished = stage.pgusher.wait_for_end()?;
        ensure!(finished.status.success(), "{finished:?}");
        is_closed(stage)?;
        stage.restart()?;
        is_intercepted(stage)
    })
}

#[test]
fn detach_opens_the_way_and_only_when_nobody_runs() -> Result<()> {
    closed().play(|stage| {
        is_intercepted(stage)?;
        let cgroup = stage.cgroup.path().to_path_buf();
        let finished = detach(&cgroup)?;
        let stderr = finished.failure()?;
        ensure!(stderr.contains("stop it first"), "{stderr}");
        is_intercepted(stage)?;
        let held = stage.pgusher.held()?;
        stage.kill()?;
        is_closed(stage)?;
        let finished = status_of(stage.pgusher.admin_socket())?;
        let stderr = finished.failure()?;
        ensure!(stderr.contains("pgusher detach"), "{stderr}");
        let finished = detach(&cgroup)?;
        let stdout = finished.success()?;
        ensure!(stdout.contains("connects go direct"), "{stdout}");
        held.wait_until_gone()?;
        kernel::wait_until_nothing_attached(&cgroup)?;
        ensure!(!bpf_fs::pins_of(&cgroup)?.exists());
        goes_direct(stage)?;
        let finished = detach(&cgroup)?;
        let stdout = finished.success()?;
        ensure!(stdout.contains("nothing was left"), "{stdout}");
        Ok(())
    })
}

/// What another version pinned: its programs under names of its own, and nothing we know of.
fn make_foreign(stage: &Stage) -> Result<()> {
    let generations = bpf_fs::generations(stage.cgroup.path())?;
    let [ours] = generations.as_slice() else {
        anyhow::bail!("{generations:?}");
    };
    let foreign = ours.with_file_name("v9_9_9-0123456789abcdef-1-1");
    fs::rename(ours, &foreign)?;
    fs::rename(foreign.join("counters"), foreign.join("tallies"))?;
    Ok(fs::rename(
        foreign.join("pgusher_connect4"),
        foreign.join("connect_four"),
    )?)
}

#[test]
fn what_another_version_pinned_is_replaced_as_a_whole() -> Result<()> {
    closed().play(|stage| {
        is_intercepted(stage)?;
        let alone = kernel::attached(stage.cgroup.path())?.len();
        stage.kill()?;
        make_foreign(stage)?;
        is_closed(stage)?;
        stage.restart()?;
        is_intercepted(stage)?;
        let generations = bpf_fs::generations(stage.cgroup.path())?;
        ensure!(generations.len() == 1, "{generations:?}");
        ensure!(
            !generations
                .iter()
                .any(|path| path.ends_with("v9_9_9-0123456789abcdef-1-1")),
            "{generations:?}"
        );
        let hooks = kernel::attached(stage.cgroup.path())?;
        ensure!(hooks.len() == alone, "{hooks:?}");
        Ok(())
    })
}

#[test]
fn a_start_that_fails_leaves_it_closed() -> Result<()> {
    closed().play(|stage| {
        is_intercepted(stage)?;
        stage.kill()?;
        let finished = run(stage.run_again()?.arg("--policy=/nowhere/at/all"))?;
        finished.failure()?;
        is_closed(stage)?;
        // One that gets further: its programs are loaded by then.
        let mut no_trail = stage.cgroup.command(binary()?)?;
        let arguments = stage.arguments.iter();
        no_trail.args(arguments.filter(|argument| !argument.starts_with("--audit-sink")));
        let finished = run(no_trail.arg("--audit-sink=file:/nowhere/at/all"))?;
        finished.failure()?;
        is_closed(stage)
    })
}

#[test]
fn the_doctor_tells_what_a_dead_pgusher_left_attached() -> Result<()> {
    closed().play(|stage| {
        is_intercepted(stage)?;
        let cgroup = stage.cgroup.path().to_path_buf();
        let ask = || -> Result<String> {
            let finished = run(Command::new(binary()?).arg("doctor"))?;
            let folder = bpf_fs::pins_of(&cgroup)?;
            let name = folder.file_name().context("a name")?.to_string_lossy();
            let mut lines = finished.stdout.lines();
            let line = lines
                .find(|line| line.contains("pinned"))
                .context("no line")?;
            // Those of other tests are in it, too, with names that may begin with this one.
            let mut words = line.split([' ', ',', '(', ')']);
            Ok(if words.any(|word| word == name) {
                line.to_owned()
            } else {
                String::new()
            })
        };
        let line = ask()?;
        ensure!(line.is_empty(), "{line}");
        stage.kill()?;
        let line = ask()?;
        ensure!(line.contains("pgusher detach"), "{line}");
        Ok(())
    })
}
