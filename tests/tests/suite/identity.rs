//! Who connected is what the kernel saw at connect: neither exec nor exit nor a thread changes it afterwards.
//!
//! A stopped pgusher accepts nothing while the kernel completes connects: so a test decides what has happened
//! to the client before pgusher looks at it.

mod again;
mod credentials;
mod executable;
mod kinship;
mod places;
mod pretence;

use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use pgusher_tests::cluster::Version;
use pgusher_tests::condition::{Seen, wait_until};
use pgusher_tests::process::{Running, run};
use pgusher_tests::programs::{c_client, compiled, copy_of, copy_program};
use pgusher_tests::stage::{Setup, Stage};
use serde_json::Value;

use crate::expect::{accepted_session, at, fact, fact_is, is_from};

/// Has connects wait for a pgusher that is stopped, however long a test takes for what it does meanwhile.
pub(crate) const PATIENT: &str = "--stall-timeout=1h";

/// A stage whose pgusher may be stopped.
fn stoppable() -> Setup {
    Setup::with(Version::V15).argument(PATIENT)
}

/// Starts `clients/connect.c` on the stage's server.
fn connect(stage: &Stage, mode: &str, more: &[&str]) -> Result<Running> {
    let mut command = c_client(&stage.cgroup, "connect")?;
    Running::start(
        command
            .args([mode, "127.0.0.1", &stage.cluster.port.to_string()])
            .args(more),
    )
}

/// Starts `clients/disguise.c` on the stage's server.
fn disguise(stage: &Stage, mode: &str, more: &[&str]) -> Result<Running> {
    let mut command = c_client(&stage.cgroup, "disguise")?;
    Running::start(
        command
            .args([mode, &stage.cluster.port.to_string()])
            .args(more),
    )
}

/// Waits for the record of the connection of process `pid`, which may go on.
fn identified(stage: &Stage, pid: u32) -> Result<Value> {
    let trail = &stage.pgusher.trail;
    trail.wait_for(&format!("the beginning of {pid}'s session"), |record| {
        record["type"] == "session_start" && is_from(record, pid)
    })
}

/// Checks that a fact is not there, or not of any grade that would be worth something.
fn is_at_most_late(record: &Value, name: &str) -> Result<()> {
    let grade = at(record, &format!("/origin/{name}/grade"));
    ensure!(grade.is_null() || *grade == "late", "{name} in {record}");
    Ok(())
}

/// Checks that nobody knows.
fn is_unknown(record: &Value, name: &str) -> Result<()> {
    let fact = at(record, &format!("/origin/{name}"));
    ensure!(fact.is_null(), "{name} is {fact} in {record}");
    Ok(())
}

/// Checks that the executable on record is `clients/connect.c`, verified.
fn runs_connect(record: &Value) -> Result<()> {
    let path = compiled("connect")?.display().to_string();
    fact_is(record, "exe", "verified", path)
}

#[test]
fn a_thread_has_the_identity_of_its_process() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let client = connect(stage, "thread", &[])?;
        let pid = client.pid();
        client.finish()?.success()?;
        let record = stage.pgusher.trail.only_session()?;
        fact_is(&record, "pid", "kernel", pid)?;
        runs_connect(&record)
    })
}

#[test]
fn a_program_that_replaces_the_one_that_connected_lends_no_name() -> Result<()> {
    stoppable().play(|stage| {
        let impostor = copy_of("connect", "impostor")?.display().to_string();
        stage.pgusher.signal(Signal::SIGSTOP)?;
        let mut client = connect(stage, "exec", &[&impostor])?;
        client.wait_for_value("replaced")?;
        stage.pgusher.signal(Signal::SIGCONT)?;
        client.say("go on")?;
        let pid = client.pid();
        let finished = client.finish()?;
        ensure!(finished.value("answer")? == "42", "{finished:?}");

        let record = stage.pgusher.trail.only_session()?;
        accepted_session(&record, "postgres")?;
        fact_is(&record, "pid", "kernel", pid)?;
        fact_is(&record, "comm", "kernel", "connect")?;
        is_at_most_late(&record, "exe")?;
        is_at_most_late(&record, "cmdline")?;
        fact(&record, "capabilities", "kernel")?;
        let inode = fact(&record, "exe_inode", "kernel")?
            .as_u64()
            .context("a number")?;
        let connected =
            std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(compiled("connect")?)?);
        ensure!(
            inode == connected,
            "inode {inode} is not that of the program that connected: {record}"
        );
        Ok(())
    })
}

#[test]
fn a_process_that_has_exited_is_known_by_what_the_kernel_saw() -> Result<()> {
    stoppable().play(|stage| {
        stage.pgusher.signal(Signal::SIGSTOP)?;
        let mut client = connect(stage, "orphaned", &[])?;
        let pid: u32 = client.wait_for_value("pid")?.parse()?;
        ensure!(pid == client.pid());
        // Its child goes on with the socket.
        wait_until("the process that connected has exited", || {
            Ok(Seen::when(!client.is_running()?, || "it runs".to_owned()))
        })?;
        stage.pgusher.signal(Signal::SIGCONT)?;
        client.say("go on")?;
        client.wait_for_line("answer=42")?;

        let record = stage.pgusher.trail.only_session()?;
        accepted_session(&record, "postgres")?;
        fact_is(&record, "pid", "kernel", pid)?;
        fact_is(&record, "uid", "kernel", 0)?;
        fact_is(&record, "comm", "kernel", "connect")?;
        for name in ["exe", "cmdline"] {
            ensure!(
                record["origin"][name]["grade"] != "verified",
                "{name} of a process that is gone: {record}"
            );
        }
        Ok(())
    })
}

#[test]
fn the_user_is_the_one_who_connected() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let mut command = stage.cgroup.command("setpriv")?;
        command
            .args(["--reuid=65534", "--regid=12345", "--clear-groups"])
            .arg(compiled("connect")?);
        let finished =
            run(command.args(["blocking", "127.0.0.1", &stage.cluster.port.to_string()]))?;
        finished.success()?;
        let record = stage.pgusher.trail.only_session()?;
        fact_is(&record, "uid", "kernel", 65534)?;
        fact_is(&record, "gid", "kernel", 12345)?;
        ensure!(record["origin"]["user"]["value"] == "nobody", "{record}");
        Ok(())
    })
}

#[test]
fn a_process_in_a_pid_namespace_is_known_by_its_outer_number() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let mut command = stage.cgroup.command("unshare")?;
        command.args(["--pid", "--fork"]).arg(compiled("connect")?);
        let finished =
            run(command.args(["blocking", "127.0.0.1", &stage.cluster.port.to_string()]))?;
        ensure!(finished.value("pid_own")? == "1", "{finished:?}");
        let record = stage.pgusher.trail.only_session()?;
        let pid = fact(&record, "pid", "kernel")?
            .as_u64()
            .context("a number")?;
        ensure!(pid > 1, "the inner number was recorded: {record}");
        runs_connect(&record)
    })
}

#[test]
fn a_program_whose_file_was_deleted_is_never_taken_for_the_file_in_its_place() -> Result<()> {
    stoppable().play(|stage| {
        let path = stage.directory().join("short-lived");
        copy_program(&compiled("connect")?, &path)?;
        stage.pgusher.signal(Signal::SIGSTOP)?;
        let mut command = stage.cgroup.command(&path)?;
        let client = Running::start(command.args([
            "blocking",
            "127.0.0.1",
            &stage.cluster.port.to_string(),
        ]))?;
        wait_until("the client has connected", || {
            let sockets = run(Command::new("ss").args(["-Htnp", "state", "established"]))?;
            let mine = format!("pid={},", client.pid());
            Ok(Seen::when(sockets.stdout.contains(&mine), || {
                sockets.stdout.clone()
            }))
        })?;
        std::fs::remove_file(&path)?;
        copy_program(&compiled("libpq")?, &path)?;
        stage.pgusher.signal(Signal::SIGCONT)?;
        client.finish()?.success()?;
        let record = stage.pgusher.trail.only_session()?;
        let exe = &record["origin"]["exe"];
        ensure!(
            *exe != serde_json::json!({"value": path, "grade": "verified"}),
            "the new file is named: {record}"
        );
        Ok(())
    })
}

#[test]
fn a_program_mounted_over_another_is_not_verified_under_its_name() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let script =
            r#"mount --bind "$1" /usr/bin/env && exec /usr/bin/env blocking 127.0.0.1 "$2""#;
        let mut command = stage.cgroup.command("unshare")?;
        command.args(["--mount", "sh", "-c", script, "sh"]);
        command
            .arg(compiled("connect")?)
            .arg(stage.cluster.port.to_string());
        let finished = run(&mut command)?;
        ensure!(finished.value("answer")? == "42", "{finished:?}");
        let record = stage.pgusher.trail.only_session()?;
        let exe = fact(&record, "exe", "late")?.as_str().context("a path")?;
        ensure!(exe.ends_with("/usr/bin/env"), "{record}");
        Ok(())
    })
}
