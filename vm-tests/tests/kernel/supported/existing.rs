//! Sessions that are older than pgusher, where the operator wants them reset.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use pgusher_tests::cgroup::TestCgroup;
use pgusher_tests::cluster::{Cluster, Version};
use pgusher_tests::kernel;
use pgusher_tests::pgusher::Pgusher;
use pgusher_tests::psql::Psql;
use serde_json::Value;
use tempfile::TempDir;
use vm_tests::facts;

#[test]
fn a_session_of_before_is_reset_or_left_and_told_of() -> Result<()> {
    let cluster = Cluster::shared(Version::V15)?;
    let cgroup = TestCgroup::create()?;
    let mut session = Psql::start(&mut cluster.client(&cgroup, "psql")?)?;
    let directory = TempDir::new()?;
    let more = ["--adopt=reset".to_owned()];
    let mut pgusher = Pgusher::start(&cgroup, &[cluster.port], directory.path(), &more)?;
    let is_coverage = |record: &Value| record["type"] == "coverage";
    let coverage = pgusher.trail.wait_for("a coverage record", is_coverage)?;
    let outcome = coverage.pointer("/connections/0/outcome");
    let outcome = outcome.with_context(|| format!("nothing of before: {coverage}"))?;
    let fact = if outcome == "reset" {
        session.finds_itself_lost()?;
        "reset"
    } else {
        ensure!(outcome == "left", "{coverage}");
        session.is_served("after")?;
        let log = pgusher.log()?;
        ensure!(log.contains("CONFIG_INET_DIAG_DESTROY"), "{log}");
        "left, and told of"
    };
    pgusher.signal(Signal::SIGTERM)?;
    ensure!(pgusher.wait_for_end()?.status.success());
    kernel::wait_until_nothing_attached(cgroup.path())?;
    Ok(facts::tell(
        "sessions of before, with `adopt = \"reset\"`",
        fact,
    )?)
}
