//! `when_down = "open"`: what is down is not there.

use anyhow::{Result, ensure};
use pgusher_tests::bpf_fs;
use pgusher_tests::cluster::Version;
use pgusher_tests::kernel;
use pgusher_tests::stage::Setup;

use super::{goes_direct, is_intercepted};

const PERMIT: &str = "permit (principal, action, resource);";

#[test]
fn it_holds_where_policies_are_enforced_if_the_operator_says_so() -> Result<()> {
    Setup::with(Version::V15)
        .policy("enforce", PERMIT)
        .argument("--when-down=open")
        .play(|stage| {
            is_intercepted(stage)?;
            ensure!(bpf_fs::generations(stage.cgroup.path())?.is_empty());
            let held = stage.pgusher.held()?;
            stage.kill()?;
            held.wait_until_gone()?;
            kernel::wait_until_nothing_attached(stage.cgroup.path())?;
            goes_direct(stage)
        })
}

#[test]
fn it_is_the_default_where_nothing_is_enforced() -> Result<()> {
    Setup::with(Version::V15)
        .policy("observe", PERMIT)
        .play(|stage| {
            is_intercepted(stage)?;
            let status = stage.pgusher.status()?;
            ensure!(status["when_down"] == "open", "{status}");
            stage.kill()?;
            kernel::wait_until_nothing_attached(stage.cgroup.path())?;
            goes_direct(stage)
        })
}

#[test]
fn what_an_instance_that_was_closed_left_behind_is_removed() -> Result<()> {
    Setup::with(Version::V15)
        .argument("--when-down=closed")
        .play(|stage| {
            drop(stage.session()?);
            stage.kill()?;
            ensure!(bpf_fs::generations(stage.cgroup.path())?.len() == 1);
            stage
                .arguments
                .retain(|argument| !argument.starts_with("--when-down"));
            stage.restart()?;
            is_intercepted(stage)?;
            ensure!(bpf_fs::generations(stage.cgroup.path())?.is_empty());
            stage.kill()?;
            kernel::wait_until_nothing_attached(stage.cgroup.path())?;
            goes_direct(stage)
        })
}
