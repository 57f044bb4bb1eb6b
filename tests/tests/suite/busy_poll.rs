//! Threads that stay awake for the next message serve as others do, and sleep when there is none.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use pgusher_tests::cluster::Version;
use pgusher_tests::condition::{Seen, wait_until};
use pgusher_tests::pgusher::Pgusher;
use pgusher_tests::process::run;
use pgusher_tests::stage::Setup;
use pgusher_tests::wire;

/// How many short queries are asked in one go.
const QUERIES: u32 = 200;

/// What the kernel says of each thread that serves sessions: `S` where it sleeps, and how often it went to sleep by itself.
fn threads(pgusher: &Pgusher) -> Result<Vec<(char, u64)>> {
    let mut threads = Vec::new();
    for task in fs::read_dir(format!("/proc/{}/task", pgusher.pid()))? {
        // It may have ended since.
        let Ok(status) = fs::read_to_string(task?.path().join("status")) else {
            continue;
        };
        let value = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.map(str::trim).with_context(|| format!("no {key}"))
        };
        if value("Name:")? == "relay" {
            let state = value("State:")?.chars().next().context("no state")?;
            threads.push((state, value("voluntary_ctxt_switches:")?.parse()?));
        }
    }
    ensure!(!threads.is_empty(), "no thread serves sessions");
    Ok(threads)
}

fn naps(pgusher: &Pgusher) -> Result<u64> {
    Ok(threads(pgusher)?.iter().map(|(_, naps)| naps).sum())
}

#[test]
fn a_thread_stays_awake_between_messages_and_sleeps_where_there_are_none() -> Result<()> {
    let setup = Setup::with(Version::V15).arguments(&["--busy-poll=10ms", "--audit=statements"]);
    setup.play(|stage| {
        let mut session = stage.session()?;
        // Without it a thread goes to sleep twice for each: for the client, and for the server. A host that is slow
        // enough may make it sleep all the same, but not for ever.
        wait_until("a thread stays awake", || {
            let before = naps(&stage.pgusher)?;
            for number in 0..QUERIES {
                let answer = wire::ask(&mut session, &format!("select {number}"))?;
                ensure!(answer == number.to_string(), "{answer}");
            }
            let naps = naps(&stage.pgusher)? - before;
            Ok(Seen::when(naps < u64::from(QUERIES) / 2, || {
                format!("{naps} naps in {QUERIES} queries")
            }))
        })?;
        // Others come in while a thread stays awake for one, and their end is noticed.
        run(&mut stage.psql("select 1")?)?.success()?;
        stage.pgusher.trail.wait_for_sessions(1)?;
        wait_until("the threads sleep beside a session that is idle", || {
            let threads = threads(&stage.pgusher)?;
            let asleep = threads.iter().all(|(state, _)| *state == 'S');
            Ok(Seen::when(asleep, || format!("{threads:?}")))
        })?;
        let answer = wire::ask(&mut session, "select 42")?;
        ensure!(answer == "42", "{answer}");
        Ok(())
    })
}
