//! Threads that stay awake for the next message serve as others do, and sleep when there is none.

use std::fs;

use anyhow::{Result, ensure};
use pgusher_tests::cluster::Version;
use pgusher_tests::condition::{Seen, wait_until};
use pgusher_tests::pgusher::Pgusher;
use pgusher_tests::process::run;
use pgusher_tests::stage::Setup;
use pgusher_tests::wire;

/// What the kernel says of each thread that serves sessions: `R` while it runs, `S` while it sleeps.
fn states(pgusher: &Pgusher) -> Result<Vec<char>> {
    let mut states = Vec::new();
    for task in fs::read_dir(format!("/proc/{}/task", pgusher.pid()))? {
        let stat = fs::read_to_string(task?.path().join("stat"))?;
        if let Some((_, behind)) = stat.split_once("(relay) ") {
            states.extend(behind.chars().next());
        }
    }
    Ok(states)
}

#[test]
fn sessions_are_served_and_threads_without_work_sleep() -> Result<()> {
    let setup = Setup::with(Version::V15).arguments(&["--busy-poll=10ms", "--audit=statements"]);
    setup.play(|stage| {
        let mut idle = stage.session()?;
        for number in 0..200 {
            let answer = wire::ask(&mut idle, &format!("select {number}"))?;
            ensure!(answer == number.to_string(), "{answer}");
        }
        // Others come in while a thread stays awake for one, and its end is noticed.
        run(&mut stage.psql("select 1")?)?.success()?;
        stage.pgusher.trail.wait_for_sessions(1)?;
        wait_until("the threads sleep beside a session that is idle", || {
            let states = states(&stage.pgusher)?;
            let asleep = states.iter().all(|state| *state == 'S');
            Ok(Seen::when(asleep && !states.is_empty(), || {
                format!("{states:?}")
            }))
        })?;
        let answer = wire::ask(&mut idle, "select 42")?;
        ensure!(answer == "42", "{answer}");
        Ok(())
    })
}
