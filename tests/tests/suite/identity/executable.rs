//! Which program it is: the file that runs, not what lies at its path by now, and not what another namespace shows.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use pgusher_tests::cluster::Version;
use pgusher_tests::process::{Running, run};
use pgusher_tests::programs::{compiled, copy_of, copy_program};
use pgusher_tests::stage::{Setup, Stage};
use serde_json::Value;

use super::{PATIENT, connect, identified, is_at_most_late, is_unknown, stoppable};
use crate::expect::{fact, fact_is};

/// The settings that have executables hashed.
const HASHED: &str = "[identity]\nexe_sha256 = true\n";

fn hashing() -> Setup {
    Setup::with(Version::V15).file(HASHED)
}

/// What `sha256sum` says.
fn sha256(path: &Path) -> Result<String> {
    let finished = run(Command::new("sha256sum").arg(path))?;
    let sum = finished.success()?.split(' ').next();
    Ok(sum.context("sha256sum prints a sum")?.to_owned())
}

/// Starts `disguise plain` as the program at `path`.
fn plain_at(stage: &Stage, path: &Path) -> Result<Running> {
    let mut command = stage.cgroup.command(path)?;
    let mut client = Running::start(command.args(["plain", &stage.cluster.port.to_string()]))?;
    client.wait_for_value("connected")?;
    Ok(client)
}

#[test]
fn the_hash_is_that_of_the_program_and_only_there_if_it_is_asked_for() -> Result<()> {
    let program = compiled("disguise")?;
    hashing().play(|stage| {
        for _ in 0..2 {
            let client = plain_at(stage, &program)?;
            let record = identified(stage, client.pid())?;
            client.finish()?.success()?;
            fact_is(&record, "exe_sha256", "verified", sha256(&program)?)?;
            fact_is(&record, "exe_deleted", "verified", false)?;
        }
        Ok(())
    })?;
    Setup::with(Version::V15).play(|stage| {
        let client = plain_at(stage, &program)?;
        let record = identified(stage, client.pid())?;
        client.finish()?.success()?;
        is_unknown(&record, "exe_sha256")
    })
}

#[test]
fn a_replaced_program_is_hashed_as_the_one_that_runs() -> Result<()> {
    hashing().argument(PATIENT).play(|stage| {
        let path = stage.directory().join("program");
        let next = stage.directory().join("next");
        copy_program(&compiled("disguise")?, &path)?;
        copy_program(&compiled("connect")?, &next)?;
        stage.pgusher.signal(Signal::SIGSTOP)?;
        let client = plain_at(stage, &path)?;
        fs::rename(&next, &path)?;
        stage.pgusher.signal(Signal::SIGCONT)?;
        let record = identified(stage, client.pid())?;
        client.finish()?.success()?;
        fact_is(&record, "exe", "late", path.display().to_string())?;
        fact_is(&record, "exe_deleted", "late", true)?;
        let running = sha256(&compiled("disguise")?)?;
        fact_is(&record, "exe_sha256", "verified", running)
    })
}

#[test]
fn a_deleted_program_is_shown_where_it_was() -> Result<()> {
    stoppable().play(|stage| {
        let path = stage.directory().join("program");
        copy_program(&compiled("disguise")?, &path)?;
        stage.pgusher.signal(Signal::SIGSTOP)?;
        let client = plain_at(stage, &path)?;
        fs::remove_file(&path)?;
        stage.pgusher.signal(Signal::SIGCONT)?;
        let record = identified(stage, client.pid())?;
        client.finish()?.success()?;
        fact_is(&record, "exe", "late", path.display().to_string())?;
        fact_is(&record, "exe_deleted", "late", true)
    })
}

#[test]
fn a_program_that_replaces_the_one_that_connected_is_not_hashed() -> Result<()> {
    hashing().argument(PATIENT).play(|stage| {
        let impostor = copy_of("connect", "hashed-impostor")?.display().to_string();
        stage.pgusher.signal(Signal::SIGSTOP)?;
        let mut client = connect(stage, "exec", &[&impostor])?;
        client.wait_for_value("replaced")?;
        stage.pgusher.signal(Signal::SIGCONT)?;
        client.say("go on")?;
        client.finish()?.success()?;
        let record = stage.pgusher.trail.only_session()?;
        is_at_most_late(&record, "exe")?;
        is_unknown(&record, "exe_sha256")
    })
}

/// The record of `clients/disguise.c`, run by a script (program and port are its arguments) in a mount namespace.
fn connected_from_own_mounts(stage: &Stage, script: &str) -> Result<Value> {
    let mut command = stage.cgroup.command("unshare")?;
    command.args(["--mount", "sh", "-c", script, "sh"]);
    command
        .arg(compiled("disguise")?)
        .arg(stage.cluster.port.to_string());
    let mut client = Running::start(&mut command)?;
    client.wait_for_value("connected")?;
    let record = identified(stage, client.pid())?;
    client.finish()?.success()?;
    Ok(record)
}

#[test]
fn a_program_on_what_is_mounted_elsewhere_has_no_hash_and_no_verified_path() -> Result<()> {
    hashing().play(|stage| {
        let script =
            r#"mount -t tmpfs none /mnt && cp "$1" /mnt/psql && exec /mnt/psql plain "$2""#;
        let record = connected_from_own_mounts(stage, script)?;
        fact_is(&record, "exe", "late", "/mnt/psql")?;
        is_unknown(&record, "exe_sha256")
    })
}

#[test]
fn a_program_mounted_over_another_is_hashed_as_itself() -> Result<()> {
    hashing().play(|stage| {
        let script = r#"mount --bind "$1" /usr/bin/env && exec /usr/bin/env plain "$2""#;
        let record = connected_from_own_mounts(stage, script)?;
        fact_is(&record, "exe", "late", "/usr/bin/env")?;
        let own = sha256(&compiled("disguise")?)?;
        fact_is(&record, "exe_sha256", "verified", own)
    })
}

#[test]
fn a_program_on_a_file_system_that_does_not_answer_hides_nothing_else() -> Result<()> {
    hashing().argument(PATIENT).play(|stage| {
        stage.pgusher.signal(Signal::SIGSTOP)?;
        let mut command = stage.cgroup.command("unshare")?;
        command.arg("--mount").arg(compiled("held_up")?);
        command.arg(compiled("disguise")?);
        let port = stage.cluster.port.to_string();
        let mut server = Running::start(command.args(["plain", &port]))?;
        let pid: u32 = server.wait_for_value("connected")?.parse()?;
        server.signal(Signal::SIGSTOP)?;
        stage.pgusher.signal(Signal::SIGCONT)?;
        let record = identified(stage, pid)?;
        server.signal(Signal::SIGCONT)?;
        server.finish()?.success()?;

        fact_is(&record, "exe", "late", "/mnt/program")?;
        fact_is(&record, "user", "late", "root")?;
        fact(&record, "groups", "kernel")?;
        fact(&record, "capabilities", "kernel")?;
        fact(&record, "cgroup", "verified")?;
        // What a file system of its own has to answer for, and what comes after it.
        is_unknown(&record, "exe_sha256")?;
        is_unknown(&record, "cmdline")
    })
}
