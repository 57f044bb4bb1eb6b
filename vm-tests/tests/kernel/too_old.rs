//! A kernel that lacks what pgusher cannot do without: it says so before anything else, in one sentence.

use std::process::Command;

use anyhow::{Result, ensure};
use pgusher_tests::cgroup::TestCgroup;
use pgusher_tests::kernel;
use pgusher_tests::pgusher::{arguments, binary};
use pgusher_tests::process::run;
use tempfile::TempDir;
use vm_tests::facts;

/// The sentence, without the version of the kernel it begins with.
const REFUSAL: &str =
    "is too old: pgusher needs Linux 5.14 or newer (SO_NETNS_COOKIE); see docs/kernels.md";

#[test]
fn run_refuses_and_attaches_nothing() -> Result<()> {
    let (cgroup, directory) = (TestCgroup::create()?, TempDir::new()?);
    let finished =
        run(Command::new(binary()?).args(arguments(&cgroup, &[5432], directory.path())))?;
    let message = finished.failure()?;
    ensure!(message.contains(REFUSAL), "{message}");
    ensure!(kernel::attached(cgroup.path())?.is_empty());
    facts::tell("pgusher", "refused: too old")?;
    Ok(())
}

#[test]
fn doctor_says_what_run_says() -> Result<()> {
    let finished = run(Command::new(binary()?).arg("doctor"))?;
    ensure!(finished.status.code() == Some(1), "{finished:?}");
    let lines: Vec<&str> = finished.stdout.lines().collect();
    let said = lines
        .iter()
        .find(|line| line.starts_with("MISSING  kernel "));
    ensure!(
        said.is_some_and(|line| line.contains(REFUSAL)),
        "{finished:?}"
    );
    Ok(())
}
