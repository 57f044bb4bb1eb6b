//! Others on the hooks: their programs go on running, before ours and after it, and a second pgusher stays away.

use std::process::Command;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use pgusher_tests::cgroup::TestCgroup;
use pgusher_tests::cluster::{Cluster, Version};
use pgusher_tests::kernel;
use pgusher_tests::pgusher::{Pgusher, arguments, binary};
use pgusher_tests::process::run;
use pgusher_tests::programs::c_client;
use pgusher_tests::stage::Setup;
use tempfile::TempDir;
use vm_tests::facts;
use vm_tests::foreign::Foreign;

/// Connects inside the cgroup over IPv4; whatever is attached there, the server answers.
fn connect(cgroup: &TestCgroup, cluster: &Cluster) -> Result<()> {
    let port = cluster.port.to_string();
    let finished = run(c_client(cgroup, "connect")?.args(["blocking", "127.0.0.1", &port]))?;
    ensure!(finished.value("answer")? == "42", "{finished:?}");
    let peer = finished.value("peer")?;
    ensure!(
        peer.contains("127.0.0.1") && peer.contains(&port),
        "{finished:?}"
    );
    Ok(())
}

#[test]
fn programs_attached_before_and_after_go_on_running() -> Result<()> {
    let cluster = Cluster::shared(Version::V15)?;
    let (cgroup, directory) = (TestCgroup::create()?, TempDir::new()?);
    let before = Foreign::attach(cgroup.path())?;
    let mut pgusher = Pgusher::start(&cgroup, &[cluster.port], directory.path(), &[])?;
    let after = Foreign::attach(cgroup.path())?;
    // pgusher's own connects while it starts were seen by the first of them alone.
    let at_first = before.runs()?;
    let runs = || -> Result<(u64, u64)> { Ok((before.runs()? - at_first, after.runs()?)) };

    // One connect is the client's, one pgusher's own, to the server: it lives in the same cgroup.
    connect(&cgroup, cluster)?;
    let redirected = pgusher.counter("/kernel/redirected")?;
    ensure!(redirected == 1, "{redirected} connects were redirected");
    let counts = runs()?;
    ensure!(counts == (2, 2), "they ran {counts:?} times");

    pgusher.signal(Signal::SIGTERM)?;
    pgusher.wait_for_end()?;
    connect(&cgroup, cluster)?;
    let counts = runs()?;
    ensure!(
        counts == (3, 3),
        "they ran {counts:?} times without pgusher"
    );
    let attached = kernel::attached(cgroup.path())?;
    ensure!(attached.len() == 2, "{attached:?} are attached");

    drop((before, after));
    kernel::wait_until_nothing_attached(cgroup.path())?;
    Ok(facts::tell("others on the same hook", "before and after")?)
}

#[test]
fn a_program_that_is_there_first_may_leave_first() -> Result<()> {
    let cluster = Cluster::shared(Version::V15)?;
    let (cgroup, directory) = (TestCgroup::create()?, TempDir::new()?);
    let before = Foreign::attach(cgroup.path())?;
    let mut pgusher = Pgusher::start(&cgroup, &[cluster.port], directory.path(), &[])?;
    drop(before);
    connect(&cgroup, cluster)?;
    let redirected = pgusher.counter("/kernel/redirected")?;
    ensure!(redirected == 1, "{redirected} connects were redirected");
    pgusher.signal(Signal::SIGTERM)?;
    pgusher.wait_for_end()?;
    kernel::wait_until_nothing_attached(cgroup.path())
}

#[test]
fn a_second_pgusher_is_refused_and_disturbs_nothing() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let attached = kernel::attached(stage.cgroup.path())?;
        let directory = TempDir::new()?;
        let second = arguments(&stage.cgroup, &[stage.cluster.port], directory.path());
        let finished = run(Command::new(binary()?).args(second))?;
        let message = finished.failure()?;
        ensure!(
            message.contains("another pgusher is attached to cgroup"),
            "{message}"
        );
        ensure!(kernel::attached(stage.cgroup.path())? == attached);
        connect(&stage.cgroup, stage.cluster)?;
        ensure!(stage.redirected()? == 1, "{}", stage.pgusher.status()?);
        Ok(facts::tell("a second pgusher", "refused")?)
    })
}
