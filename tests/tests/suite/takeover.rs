//! One pgusher takes over from another: nothing that was there breaks, and nothing new fails.

mod inheritance;
mod refused;

use std::fs;

use anyhow::{Context, Result, ensure};
use pgusher_tests::bpf_fs;
use pgusher_tests::cluster::{Version, free_port};
use pgusher_tests::condition::{Seen, wait_until};
use pgusher_tests::kernel;
use pgusher_tests::pgusher::Pgusher;
use pgusher_tests::process::Running;
use pgusher_tests::programs::c_client;
use pgusher_tests::stage::{Setup, Stage};
use pgusher_tests::wire;

/// Sessions that run queries throughout.
const SESSIONS: u64 = 4;

/// It ends by itself once its sessions have, and leaves nothing.
fn ends_well(mut predecessor: Pgusher) -> Result<()> {
    let held = predecessor.held()?;
    let finished = predecessor.wait_for_end()?;
    ensure!(finished.status.code() == Some(0), "{finished:?}");
    held.wait_until_gone()
}

/// [`Stage::take_over`], until the successor knows of the session that its predecessor serves, and whose it is.
fn take_over_with_a_session(stage: &mut Stage) -> Result<Pgusher> {
    let predecessor = stage.take_over()?;
    let count = "/predecessors/sessions";
    stage
        .pgusher
        .wait_for_counter(count, |sessions| sessions == 1)?;
    Ok(predecessor)
}

/// How many connect hooks are attached, and every hook.
fn redirecting(stage: &Stage) -> Result<(usize, Vec<String>)> {
    let hooks = kernel::attached(stage.cgroup.path())?;
    let redirecting = hooks.iter().filter(|hook| hook.contains("connect"));
    Ok((redirecting.count(), hooks))
}

/// A client that connects 200 times a second and sessions that ask without a pause, while pgusher is replaced three times.
fn nothing_fails(when_down: &str) -> Result<()> {
    Setup::with(Version::V15)
        .argument(format!("--when-down={when_down}"))
        .play(|stage| {
            let (alone, _) = redirecting(stage)?;
            let connection = stage.conninfo("app_trust");
            let mut client = c_client(&stage.cgroup, "hammer")?;
            client.args([&connection, "200", &SESSIONS.to_string()]);
            let mut hammer = Running::start(&mut client)?;
            hammer.wait_for_value("ready")?;
            let mut predecessors = Vec::new();
            for _ in 0..3 {
                predecessors.push(stage.take_over()?);
                stage
                    .pgusher
                    .wait_for_counter("/sessions/total", |total| total > 100)?;
            }
            let [first, ..] = predecessors.as_mut_slice() else {
                anyhow::bail!("nobody was replaced");
            };
            ensure!(first.is_running()?, "the first left its sessions");
            let (hooks, left) = redirecting(stage)?;
            ensure!(hooks == alone, "{left:?}");
            let pinned = bpf_fs::generations(stage.cgroup.path())?.len();
            ensure!(pinned == usize::from(when_down == "closed"), "{pinned}");

            let finished = hammer.finish()?;
            let number = |key| -> Result<u64> { Ok(finished.value(key)?.parse()?) };
            ensure!(
                number("failed")? == 0 && number("broken")? == 0,
                "{finished:?}"
            );
            ensure!(number("queries")? > SESSIONS, "{finished:?}");
            for predecessor in predecessors {
                ends_well(predecessor)?;
            }
            // Each is on record once, whoever served it: none went direct.
            let expected = usize::try_from(number("connects")? + SESSIONS)?;
            stage.pgusher.trail.wait_for_sessions(expected)?;
            wait_until("the last one knows that all have ended", || {
                let left = stage.pgusher.status()?;
                let pids = left.pointer("/predecessors/pids");
                let is_alone = pids == Some(&serde_json::json!([]));
                Ok(Seen::when(is_alone, || left.to_string()))
            })
        })
}

#[test]
fn no_connect_fails_and_no_session_breaks() -> Result<()> {
    nothing_fails("open")
}

#[test]
fn nor_where_it_is_closed_when_pgusher_is_down() -> Result<()> {
    nothing_fails("closed")
}

#[test]
fn a_session_goes_on_in_the_old_process_and_shows_the_server() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let mut open = stage.session()?;
        let peer = open.peer_addr()?;
        let mut predecessor = stage.take_over()?;
        ensure!(open.peer_addr()? == peer, "its peer is another one now");
        let mut new = stage.session()?;
        for stream in [&mut open, &mut new] {
            ensure!(wire::ask(stream, "select 'through'")? == "through");
        }
        ensure!(predecessor.is_running()?);
        let pid = u64::from(predecessor.pid());
        stage
            .pgusher
            .wait_for_counter("/predecessors/sessions", |sessions| sessions == 1)?;
        let first = stage.pgusher.counter("/predecessors/pids/0")?;
        ensure!(first == pid, "{first} is not {pid}");
        drop(open);
        ends_well(predecessor)?;
        ensure!(wire::ask(&mut new, "select 'still'")? == "still");
        Ok(())
    })
}

/// Threads that the runtime may have started for a while, for what blocks.
const PASSING_THREADS: usize = 4;

/// What an instance has: descriptors, threads, eBPF objects, pins, files in its directory.
fn belongings(stage: &Stage) -> Result<[usize; 7]> {
    let held = stage.pgusher.held()?;
    Ok([
        stage.pgusher.descriptors()?,
        usize::try_from(stage.pgusher.threads()?)?,
        held.count("prog"),
        held.count("map"),
        held.count("link"),
        bpf_fs::generations(stage.cgroup.path())?.len(),
        fs::read_dir(stage.directory())?.count(),
    ])
}

#[test]
fn the_tenth_has_no_more_than_the_first() -> Result<()> {
    // Other tests' namespaces come and go, and each has listeners.
    Setup::with(Version::V15)
        .arguments(&["--when-down=closed", "--max-namespaces=0"])
        .play(|stage| {
            let mut first = None;
            for _ in 0..10 {
                drop(stage.session()?);
                stage.settle()?;
                let expected = match first {
                    Some(expected) => expected,
                    None => {
                        let mut found = belongings(stage)?;
                        found[1] += PASSING_THREADS;
                        *first.insert(found)
                    }
                };
                wait_until("it has what the first had", || {
                    let found = belongings(stage)?;
                    let is_no_more = found.iter().zip(expected).all(|(now, then)| *now <= then);
                    Ok(Seen::when(is_no_more, || {
                        format!("{found:?}, the first {expected:?}")
                    }))
                })?;
                ends_well(stage.take_over()?)?;
            }
            drop(stage.session()?);
            Ok(())
        })
}

#[test]
fn a_fixed_port_is_the_successors_when_it_starts_anew() -> Result<()> {
    let port = free_port()?;
    Setup::with(Version::V15)
        .argument(format!("--listen-port={port}"))
        .play(|stage| {
            let is_fixed = |stage: &Stage| -> Result<bool> {
                let listeners = stage.pgusher.listeners()?;
                Ok(listeners.iter().all(|address| address.port() == port))
            };
            ensure!(is_fixed(stage)?);
            let predecessor = stage.take_over()?;
            ensure!(!is_fixed(stage)?);
            drop(stage.session()?);
            ends_well(predecessor)?;
            stage.settle()?;
            stage.kill()?;
            stage.restart()?;
            ensure!(is_fixed(stage)?);
            drop(stage.session()?);
            Ok(())
        })
}

#[test]
fn with_nobody_to_take_over_from_it_is_a_start() -> Result<()> {
    Setup::with(Version::V15)
        .argument("--takeover")
        .play(|stage| {
            drop(stage.session()?);
            stage.kill()?;
            stage.restart()?;
            drop(stage.session()?);
            stage.forget_trail()
        })
}

#[test]
fn a_successor_that_dies_leaves_what_was_declared() -> Result<()> {
    Setup::with(Version::V15)
        .argument("--when-down=closed")
        .argument("--adopt=reset")
        .play(|stage| {
            let mut open = stage.session()?;
            let predecessor = stage.take_over()?;
            stage.kill()?;
            let error = stage.dial().err().context("a connect went through")?;
            ensure!(format!("{error:#}").contains("refused"), "{error:#}");
            ensure!(wire::ask(&mut open, "select 'still'")? == "still");
            // The next one hears nothing of the first, which serves its session none the less, and finds its note.
            stage.restart()?;
            drop(stage.session()?);
            ensure!(wire::ask(&mut open, "select 'still'")? == "still");
            drop(open);
            ends_well(predecessor)
        })
}
