//! Takeovers that do not happen: whoever runs goes on.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use pgusher_tests::bpf_fs;
use pgusher_tests::cgroup::TestCgroup;
use pgusher_tests::cluster::Version;
use pgusher_tests::condition::{Seen, wait_until};
use pgusher_tests::kernel;
use pgusher_tests::pgusher::{arguments, binary};
use pgusher_tests::process::{Running, run};
use pgusher_tests::stage::{Setup, Stage};
use pgusher_tests::wire;

/// A successor that does not come to be, with these words; whoever runs goes on, and nothing else is attached.
fn fails(stage: &Stage, command: &mut Command, words: &str) -> Result<()> {
    let before = kernel::attached(stage.cgroup.path())?;
    let finished = run(command)?;
    let stderr = finished.failure()?;
    ensure!(stderr.contains(words), "{stderr}");
    let after = kernel::attached(stage.cgroup.path())?;
    ensure!(after == before, "{before:?} became {after:?}");
    drop(stage.session()?);
    Ok(())
}

#[test]
fn a_second_instance_that_does_not_take_over_is_told_how_to() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let mut second = stage.run_again()?;
        fails(stage, &mut second, "pgusher run --takeover")
    })
}

#[test]
fn a_successor_that_cannot_start_changes_nothing() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let mut open = stage.session()?;
        let mut no_policy = stage.run_again()?;
        no_policy.args(["--takeover", "--policy=/nowhere/at/all"]);
        fails(stage, &mut no_policy, "/nowhere/at/all")?;
        // By the time that this one fails it has asked, and its programs are loaded.
        let mut no_trail = stage.cgroup.command(binary()?)?;
        let arguments = stage.arguments.iter();
        no_trail.args(arguments.filter(|argument| !argument.starts_with("--audit-sink")));
        no_trail.args(["--takeover", "--audit-sink=file:/nowhere/at/all"]);
        fails(stage, &mut no_trail, "/nowhere/at/all")?;
        ensure!(wire::ask(&mut open, "select 'still'")? == "still");
        // And the next one succeeds.
        let predecessor = stage.take_over()?;
        drop((open, stage.session()?));
        super::ends_well(predecessor)
    })
}

#[test]
fn a_cgroup_of_its_own_is_not_taken_over() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let other = TestCgroup::create()?;
        let ports = [stage.cluster.port];
        let mut successor = stage.run_again()?;
        successor = {
            let mut command = other.command(successor.get_program())?;
            command.args(arguments(&other, &ports, stage.directory()));
            command.arg("--takeover");
            command
        };
        fails(stage, &mut successor, "attached to another cgroup")?;
        kernel::wait_until_nothing_attached(other.path())
    })
}

#[test]
fn an_instance_that_hangs_is_not_waited_for() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        stage.pgusher.signal(Signal::SIGSTOP)?;
        let finished = run(stage.run_again()?.arg("--takeover"))?;
        stage.pgusher.signal(Signal::SIGCONT)?;
        let stderr = finished.failure()?;
        ensure!(stderr.contains("does not answer"), "{stderr}");
        // It hung for longer than it may: connects go direct until its next heartbeat.
        wait_until("it serves again", || {
            let before = stage.redirected()?;
            drop(stage.session()?);
            Ok(Seen::when(stage.redirected()? > before, || {
                "a connect went direct".to_owned()
            }))
        })
    })
}

/// A successor that has got as far as this line of its log.
fn on_its_way(stage: &Stage, line: &str) -> Result<Running> {
    let successor = Running::start(stage.run_again()?.arg("--takeover"))?;
    wait_until(line, || {
        let log = successor.stderr()?;
        Ok(Seen::when(log.contains(line), || log.clone()))
    })?;
    Ok(successor)
}

#[test]
fn whoever_stops_answering_half_way_goes_on_as_if_nobody_had_asked() -> Result<()> {
    Setup::with(Version::V15)
        .argument("--when-down=closed")
        .play(|stage| {
            let mut open = stage.session()?;
            let hooks = kernel::attached(stage.cgroup.path())?;
            let successor = on_its_way(stage, "loading the BPF programs")?;
            stage.pgusher.signal(Signal::SIGSTOP)?;
            let finished = successor.finish()?;
            stage.pgusher.signal(Signal::SIGCONT)?;
            ensure!(
                finished.failure()?.contains("does not answer"),
                "{finished:?}"
            );
            // It hung for longer than it may, and is down until its next heartbeat.
            wait_until("it serves again", || match stage.session() {
                Ok(_) => Ok(Seen::Holds(())),
                Err(error) => Ok(Seen::NotYet(format!("{error:#}"))),
            })?;
            ensure!(wire::ask(&mut open, "select 'still'")? == "still");
            ensure!(kernel::attached(stage.cgroup.path())? == hooks);
            ensure!(bpf_fs::generations(stage.cgroup.path())?.len() == 1);
            // It is closed as before when that one is down.
            drop(open);
            stage.settle()?;
            stage.kill()?;
            let error = stage.dial().err().context("a connect went through")?;
            ensure!(format!("{error:#}").contains("refused"), "{error:#}");
            Ok(())
        })
}

#[test]
fn one_takes_over_at_a_time() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let first = on_its_way(stage, "taking over from")?;
        first.signal(Signal::SIGSTOP)?;
        let mut second = stage.run_again()?;
        second.arg("--takeover");
        fails(stage, &mut second, "another takeover is under way")?;
        first.signal(Signal::SIGKILL)?;
        first.finish()?;
        // The place is free again once it is known to be dead.
        let predecessor = wait_until("the next one takes over", || match stage.take_over() {
            Ok(predecessor) => Ok(Seen::Holds(predecessor)),
            Err(error) => Ok(Seen::NotYet(format!("{error:#}"))),
        })?;
        drop(stage.session()?);
        super::ends_well(predecessor)
    })
}

/// A predecessor that ends while its successor loads.
fn ends_meanwhile(signal: Signal, when_down: &str) -> Result<()> {
    Setup::with(Version::V15)
        .argument(format!("--when-down={when_down}"))
        .play(|stage| {
            drop(stage.session()?);
            stage.settle()?;
            let alone = kernel::attached(stage.cgroup.path())?.len();
            let mut command = stage.run_again()?;
            command.arg("--takeover");
            let pid = nix::unistd::Pid::from_raw(i32::try_from(stage.pgusher.pid())?);
            let log = stage.pgusher.log()?;
            ensure!(log.contains("interception attached"), "{log}");
            let mut predecessor =
                stage
                    .pgusher
                    .replace_by_after(&mut command, "loading the BPF programs", || {
                        Ok(nix::sys::signal::kill(pid, signal)?)
                    })?;
            predecessor.wait_for_end()?;
            drop(stage.session()?);
            let hooks = kernel::attached(stage.cgroup.path())?;
            ensure!(hooks.len() == alone, "{hooks:?}");
            let pinned = bpf_fs::generations(stage.cgroup.path())?.len();
            ensure!(pinned == usize::from(when_down == "closed"), "{pinned}");
            Ok(())
        })
}

#[test]
fn a_predecessor_that_is_killed_meanwhile_is_replaced_all_the_same() -> Result<()> {
    ends_meanwhile(Signal::SIGKILL, "open")?;
    ends_meanwhile(Signal::SIGKILL, "closed")
}

#[test]
fn a_predecessor_that_is_stopped_meanwhile_is_replaced_all_the_same() -> Result<()> {
    ends_meanwhile(Signal::SIGTERM, "open")?;
    ends_meanwhile(Signal::SIGTERM, "closed")
}

#[test]
fn one_that_ends_already_is_waited_for() -> Result<()> {
    Setup::with(Version::V15)
        .argument("--when-down=closed")
        .play(|stage| {
            let open = stage.session()?;
            stage.pgusher.signal(Signal::SIGTERM)?;
            wait_until("it stops", || {
                let log = stage.pgusher.log()?;
                Ok(Seen::when(log.contains("stopping: "), || log))
            })?;
            let mut command = stage.run_again()?;
            command.arg("--takeover");
            let ends = "the running pgusher ends";
            let mut predecessor = stage.pgusher.replace_by_after(&mut command, ends, || {
                drop(open);
                Ok(())
            })?;
            predecessor.wait_for_end()?;
            drop(stage.session()?);
            Ok(())
        })
}

#[test]
fn a_successor_that_is_killed_half_way_leaves_whoever_runs_in_place() -> Result<()> {
    Setup::with(Version::V15)
        .argument("--when-down=closed")
        .play(|stage| {
            let mut open = stage.session()?;
            for line in ["taking over from", "loading the BPF programs"] {
                let successor = on_its_way(stage, line)?;
                successor.signal(Signal::SIGKILL)?;
                successor.finish()?;
                drop(stage.session()?);
            }
            ensure!(wire::ask(&mut open, "select 'still'")? == "still");
            // And the next one succeeds.
            let predecessor = stage.take_over()?;
            drop((open, stage.session()?));
            super::ends_well(predecessor)
        })
}
