//! A pgusher that does not run although it lives: stopped by a signal, by a debugger, by the freezer.

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use pgusher_tests::cluster::Version;
use pgusher_tests::condition::{Seen, wait_until};
use pgusher_tests::stage::{Setup, Stage};
use pgusher_tests::wire;

use super::{comes_through, goes_direct, wait_until_closed};

fn with(when_down: &str) -> Setup {
    Setup::with(Version::V15)
        .argument(format!("--when-down={when_down}"))
        // More than a few heartbeats: on a busy machine one or two come late.
        .argument("--stall-timeout=4s")
}

/// Waits until it is intercepted again; what was refused or went direct meanwhile was declared so.
fn wait_until_intercepted(stage: &Stage) -> Result<()> {
    wait_until("connects are intercepted again", || {
        match comes_through(stage) {
            Ok(()) => Ok(Seen::Holds(())),
            Err(error) => Ok(Seen::NotYet(format!("{error:#}"))),
        }
    })
}

#[test]
fn closed_refuses_until_it_goes_on() -> Result<()> {
    with("closed").play(|stage| {
        let mut open = stage.session()?;
        stage.pgusher.signal(Signal::SIGSTOP)?;
        wait_until_closed(stage)?;
        stage.pgusher.signal(Signal::SIGCONT)?;
        wait_until_intercepted(stage)?;
        ensure!(wire::ask(&mut open, "select 'still'")? == "still");
        let unserved = stage.pgusher.counter("/kernel/unserved")?;
        ensure!(unserved >= 2, "{unserved}");
        Ok(())
    })
}

#[test]
fn open_goes_direct_until_it_goes_on() -> Result<()> {
    with("open").play(|stage| {
        let mut open = stage.session()?;
        stage.pgusher.signal(Signal::SIGSTOP)?;
        // A connect that came before it counts as hung waits in its queue, and is served when it goes on.
        let waiting = stage.dial()?;
        wait_until("connects go direct", || {
            let stream = stage.dial()?;
            let is_direct = stage.cluster.sees(stream.local_addr()?)?;
            Ok(Seen::when(is_direct, || "it waits for pgusher".to_owned()))
        })?;
        goes_direct(stage)?;
        stage.pgusher.signal(Signal::SIGCONT)?;
        wait_until_intercepted(stage)?;
        ensure!(wire::ask(&mut open, "select 'still'")? == "still");
        let mut waiting = waiting;
        wire::log_in(&mut waiting, "app_trust")?;
        ensure!(wire::ask(&mut waiting, "select 'served'")? == "served");
        Ok(())
    })
}
