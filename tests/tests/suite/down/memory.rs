//! A pgusher that the kernel kills because its memory has run out.

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use pgusher_tests::cgroup::memory::MemoryGroup;
use pgusher_tests::cluster::Version;
use pgusher_tests::condition::{Seen, wait_until};
use pgusher_tests::process::ended_by;
use pgusher_tests::stage::{Setup, Stage};

use super::{goes_direct, is_closed, is_intercepted};

/// What it may use above what it used when the limit was set.
const LEFT: u64 = 4 << 20;

/// Opens connections, which need memory, until the kernel has killed pgusher.
fn run_out_of_memory(stage: &mut Stage) -> Result<()> {
    let group = MemoryGroup::create(&stage.cgroup)?;
    stage.kill()?;
    stage.restart_below(&group.wrapper().each_ref().map(String::as_str))?;
    is_intercepted(stage)?;
    group.limit(group.used()? + LEFT)?;
    let mut open = Vec::new();
    wait_until("the kernel kills pgusher", || {
        if stage.pgusher.is_running()? {
            // It may be killed in the midst of it.
            open.extend(stage.dial());
        }
        let is_running = stage.pgusher.is_running()?;
        Ok(Seen::when(!is_running, || {
            format!("{} connections", open.len())
        }))
    })?;
    let finished = stage.pgusher.wait_for_end()?;
    ensure!(ended_by(&finished, Signal::SIGKILL), "{finished:?}");
    Ok(())
}

#[test]
fn closed_refuses_what_comes_then() -> Result<()> {
    Setup::with(Version::V15)
        .argument("--when-down=closed")
        .play(|stage| {
            run_out_of_memory(stage)?;
            is_closed(stage)?;
            stage.restart()?;
            is_intercepted(stage)?;
            stage.forget_trail()
        })
}

#[test]
fn open_lets_it_go_direct() -> Result<()> {
    Setup::with(Version::V15)
        .argument("--when-down=open")
        .play(|stage| {
            run_out_of_memory(stage)?;
            goes_direct(stage)
        })
}
