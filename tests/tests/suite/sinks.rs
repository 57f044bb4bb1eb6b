//! Where audit records go, and what happens to sessions when they cannot.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use pgusher_tests::cgroup::TestCgroup;
use pgusher_tests::cluster::{Cluster, Version};
use pgusher_tests::condition::{Seen, wait_until};
use pgusher_tests::pgusher::trail::Trail;
use pgusher_tests::pgusher::{Pgusher, arguments, binary};
use pgusher_tests::process::run;
use pgusher_tests::stage::{Setup, Stage};
use serde_json::Value;
use tempfile::TempDir;

use crate::expect::at;

/// Runs one query through pgusher.
fn one_session(cgroup: &TestCgroup, cluster: &Cluster) -> Result<()> {
    let finished = run(cluster
        .client(cgroup, "psql")?
        .args(["-XqAt", "-c", "select 1"]))?;
    ensure!(finished.success()? == "1", "{finished:?}");
    Ok(())
}

/// A pgusher without a stage: with an audit sink that is no file of the test's.
pub(crate) struct Sunk {
    pub(crate) pgusher: Pgusher,
    pub(crate) cgroup: TestCgroup,
    pub(crate) cluster: &'static Cluster,
    _directory: TempDir,
}

/// Starts pgusher with another audit sink and `more` arguments, by way of `wrapper`: a command that runs
/// its arguments.
pub(crate) fn start_with(wrapper: &[&str], sink: &str, more: &[&str]) -> Result<Sunk> {
    let cluster = Cluster::shared(Version::V15)?;
    let cgroup = TestCgroup::create()?;
    let directory = TempDir::new()?;
    let mut words: Vec<String> = wrapper.iter().map(ToString::to_string).collect();
    words.push(binary()?.display().to_string());
    let mut all = arguments(&cgroup, &[cluster.port], directory.path());
    all.retain(|argument| !argument.starts_with("--audit-sink"));
    words.extend(all);
    words.push(format!("--audit-sink={sink}"));
    words.extend(more.iter().map(ToString::to_string));
    let (program, rest) = words.split_first().context("a command")?;
    let mut command = cgroup.command(program)?;
    let pgusher = Pgusher::start_command(command.args(rest), directory.path())?;
    Ok(Sunk {
        pgusher,
        cgroup,
        cluster,
        _directory: directory,
    })
}

pub(crate) fn records_of(text: &str) -> Result<Vec<Value>> {
    text.lines()
        .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
        .collect()
}

#[test]
fn records_go_to_standard_output_when_asked() -> Result<()> {
    let mut sunk = start_with(&[], "stdout", &[])?;
    one_session(&sunk.cgroup, sunk.cluster)?;
    sunk.pgusher
        .wait_for_counter("/sessions/active", |active| active == 0)?;
    sunk.pgusher.signal(Signal::SIGTERM)?;
    let finished = sunk.pgusher.wait_for_end()?;
    let records = records_of(finished.success()?)?;
    for wanted in ["coverage", "session_start", "session"] {
        ensure!(
            records.iter().any(|record| record["type"] == wanted),
            "no {wanted} in {records:?}"
        );
    }
    Ok(())
}

/// Moves the audit file away, or removes it, and returns where it is now.
fn audit_continues_after(change: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    Setup::with(Version::V15).play(|stage: &mut Stage| {
        one_session(&stage.cgroup, stage.cluster)?;
        stage.pgusher.trail.only_session()?;
        let begun = fs::read_to_string(stage.pgusher.trail.path())?;
        change(stage.pgusher.trail.path())?;
        one_session(&stage.cgroup, stage.cluster)?;
        stage
            .pgusher
            .wait_for_counter("/sessions/active", |active| active == 0)?;
        let record = stage.pgusher.trail.only_session()?;
        ensure!(
            !begun.contains(&record.to_string()),
            "the new file begins with old records"
        );
        Ok(())
    })
}

#[test]
fn a_removed_audit_file_is_created_anew() -> Result<()> {
    audit_continues_after(|path| Ok(fs::remove_file(path)?))
}

#[test]
fn a_rotated_audit_file_is_created_anew() -> Result<()> {
    audit_continues_after(|path| Ok(fs::rename(path, path.with_extension("1"))?))
}

#[test]
fn the_audit_file_belongs_to_its_owner_alone() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        one_session(&stage.cgroup, stage.cluster)?;
        stage.pgusher.trail.only_session()?;
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &fs::metadata(stage.pgusher.trail.path())?.permissions(),
        );
        ensure!(mode & 0o077 == 0, "mode {mode:o}");
        Ok(())
    })
}

#[test]
fn a_sink_that_fails_is_counted_and_sessions_go_on_where_records_may_be_dropped() -> Result<()> {
    let mut sunk = start_with(
        &[],
        "file:/dev/full",
        &["--audit-overflow=drop", "--audit-queue=2"],
    )?;
    for _ in 0..5 {
        one_session(&sunk.cgroup, sunk.cluster)?;
    }
    sunk.pgusher
        .wait_for_counter("/audit/failures", |failures| failures > 0)?;
    sunk.pgusher
        .wait_for_counter("/audit/dropped", |dropped| dropped > 0)?;
    ensure!(
        sunk.pgusher.counter("/audit/written")? == 0,
        "{}",
        sunk.pgusher.status()?
    );
    ensure!(
        sunk.pgusher.counter("/kernel/redirected")? == 5,
        "{}",
        sunk.pgusher.status()?
    );
    sunk.pgusher.signal(Signal::SIGTERM)?;
    sunk.pgusher.wait_for_end()?;
    Ok(())
}

#[test]
fn no_record_is_lost_by_a_sink_that_fails_for_a_while() -> Result<()> {
    let directory = TempDir::new()?;
    let (here, away) = (directory.path().join("here"), directory.path().join("away"));
    fs::create_dir(&here)?;
    let sink = format!("file:{}", here.join("audit.jsonl").display());
    let mut sunk = start_with(&[], &sink, &["--audit-overflow=block"])?;
    fs::rename(&here, &away)?;
    for _ in 0..5 {
        one_session(&sunk.cgroup, sunk.cluster)?;
    }
    sunk.pgusher
        .wait_for_counter("/audit/failures", |failures| failures > 0)?;
    ensure!(
        sunk.pgusher.counter("/audit/dropped")? == 0,
        "{}",
        sunk.pgusher.status()?
    );
    fs::rename(&away, &here)?;
    let trail = Trail::at(here.join("audit.jsonl"));
    trail.wait_for_sessions(5)?;
    sunk.pgusher.signal(Signal::SIGTERM)?;
    ensure!(sunk.pgusher.wait_for_end()?.status.success());
    Ok(())
}

/// Gives the process a /run of its own with a journal in it, and runs its arguments.
pub(crate) const WITH_A_JOURNAL: &str = r#"
mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal
/lib/systemd/systemd-journald </dev/null >/dev/null 2>&1 &
until test -S /run/systemd/journal/socket; do :; done
exec "$@"
"#;

#[test]
fn records_go_to_the_journal_when_asked() -> Result<()> {
    let wrapper = ["unshare", "--mount", "sh", "-c", WITH_A_JOURNAL, "sh"];
    let mut sunk = start_with(&wrapper, "journald", &[]).context("install systemd")?;
    one_session(&sunk.cgroup, sunk.cluster)?;
    let record = wait_until("the journal has the session", || {
        let records = journal(&sunk)?;
        let found = records.iter().find(|record| record["type"] == "session");
        Ok(Seen::some_or(found.cloned(), || format!("{records:?}")))
    })?;
    ensure!(record["origin"]["comm"]["value"] == "psql", "{record}");
    sunk.pgusher.signal(Signal::SIGTERM)?;
    ensure!(sunk.pgusher.wait_for_end()?.status.success());
    Ok(())
}

/// The records in the journal of a pgusher that was started [`WITH_A_JOURNAL`].
pub(crate) fn journal(sunk: &Sunk) -> Result<Vec<Value>> {
    let pid = sunk.pgusher.pid().to_string();
    let mut journalctl = std::process::Command::new("nsenter");
    journalctl.args(["--mount", "--root", "--target", &pid, "journalctl"]);
    journalctl.args(["--directory=/run/log/journal", "--output=json"]);
    journalctl.args(["--quiet", "--all"]);
    let entries = run(&mut journalctl)?;
    Ok(entries.stdout.lines().filter_map(record_in_entry).collect())
}

/// The record that a journal entry carries as its message.
fn record_in_entry(line: &str) -> Option<Value> {
    let entry: Value = serde_json::from_str(line).ok()?;
    at(&entry, "/PGUSHER_AUDIT").as_str()?;
    serde_json::from_str(at(&entry, "/MESSAGE").as_str()?).ok()
}

#[test]
fn a_sink_that_never_works_does_not_hold_up_the_exit() -> Result<()> {
    let mut sunk = start_with(&[], "file:/dev/full", &["--audit-overflow=block"])?;
    one_session(&sunk.cgroup, sunk.cluster)?;
    sunk.pgusher
        .wait_for_counter("/audit/failures", |failures| failures > 0)?;
    sunk.pgusher.signal(Signal::SIGTERM)?;
    let ended = sunk.pgusher.wait_for_end()?;
    ensure!(ended.status.success(), "{ended:?}");
    Ok(())
}
