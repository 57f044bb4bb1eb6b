//! Which process it is: the one that called connect(), whoever has the socket or the number by now, and its parents.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use pgusher_tests::cluster::Version;
use pgusher_tests::condition::{Seen, wait_until};
use pgusher_tests::process::Running;
use pgusher_tests::programs::{compiled, copy_of};
use pgusher_tests::stage::{Setup, Stage};
use serde_json::{Value, json};

use super::{disguise, identified, is_unknown, stoppable};
use crate::expect::{at, fact, fact_is, is_from};

fn runs_disguise(record: &Value) -> Result<()> {
    let path = compiled("disguise")?.display().to_string();
    fact_is(record, "exe", "verified", path)
}

fn ancestor(record: &Value, number: usize) -> &Value {
    at(record, &format!("/origin/ancestors/{number}"))
}

#[test]
fn a_socket_passed_on_after_connect_belongs_to_who_connected() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let mut client = disguise(stage, "pass-connected", &[])?;
        let receiver: u32 = client.wait_for_value("receiver")?.parse()?;
        ensure!(receiver != client.pid());
        let record = identified(stage, client.pid())?;
        client.finish()?.success()?;
        runs_disguise(&record)
    })
}

#[test]
fn a_socket_passed_on_before_connect_belongs_to_who_connected() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let mut client = disguise(stage, "pass-unconnected", &[])?;
        let receiver: u32 = client.wait_for_value("receiver")?.parse()?;
        let record = identified(stage, receiver)?;
        fact_is(&record, "parent_pid", "kernel", client.pid())?;
        client.finish()?.success()?;
        runs_disguise(&record)
    })
}

#[test]
fn a_process_that_took_the_number_of_the_one_that_connected_lends_nothing() -> Result<()> {
    stoppable().play(|stage| {
        let trusted = copy_of("disguise", "trusted")?.display().to_string();
        stage.pgusher.signal(Signal::SIGSTOP)?;
        let mut client = disguise(stage, "reuse", &[&trusted])?;
        let number: u32 = client.wait_for_value("reused")?.parse()?;
        let now = std::fs::read_link(format!("/proc/{number}/exe"))?;
        ensure!(now.ends_with("trusted"), "{number} runs {}", now.display());
        stage.pgusher.signal(Signal::SIGCONT)?;
        let record = identified(stage, number)?;
        client.finish()?.success()?;
        fact_is(&record, "comm", "kernel", "disguise")?;
        for name in ["exe", "cmdline", "cgroup"] {
            is_unknown(&record, name)?;
        }
        for name in ["groups", "capabilities", "namespaces"] {
            fact(&record, name, "kernel")?;
        }
        ensure!(record["origin"]["ancestors"] == json!([]), "{record}");
        Ok(())
    })
}

#[test]
fn the_parent_that_the_kernel_saw_is_verified_and_who_started_that_is_late() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let mut command = stage.cgroup.command("sh")?;
        // Two commands: the shell stays.
        command.args(["-c", r#""$@"; exit"#, "sh"]);
        command
            .arg(compiled("disguise")?)
            .args(["plain", &stage.cluster.port.to_string()]);
        let mut client = Running::start(&mut command)?;
        let pid: u32 = client.wait_for_value("connected")?.parse()?;
        let record = identified(stage, pid)?;
        let shell = client.pid();
        client.finish()?.success()?;
        fact_is(&record, "parent_pid", "kernel", shell)?;
        let parent = ancestor(&record, 0);
        ensure!(
            parent["grade"] == "verified"
                && parent["value"]["pid"] == shell
                && parent["value"]["comm"] == "sh",
            "{record}"
        );
        let grandparent = ancestor(&record, 1);
        let own = std::env::current_exe()?.display().to_string();
        ensure!(
            grandparent["grade"] == "late"
                && grandparent["value"]["pid"] == std::process::id()
                && grandparent["value"]["exe"] == own,
            "{record}"
        );
        Ok(())
    })
}

#[test]
fn a_parent_that_has_exited_is_a_number_and_the_foster_parent_is_late() -> Result<()> {
    stoppable().play(|stage| {
        stage.pgusher.signal(Signal::SIGSTOP)?;
        let mut client = disguise(stage, "orphan", &[])?;
        let pid: u32 = client.wait_for_value("connected")?.parse()?;
        client.signal(Signal::SIGKILL)?;
        wait_until("the parent is gone", || {
            Ok(Seen::when(!client.is_running()?, || "it runs".to_owned()))
        })?;
        stage.pgusher.signal(Signal::SIGCONT)?;
        let record = identified(stage, pid)?;
        fact_is(&record, "parent_pid", "kernel", client.pid())?;
        runs_disguise(&record)?;
        let foster = ancestor(&record, 0);
        ensure!(
            foster["grade"] == "late" && foster["value"]["pid"] != client.pid(),
            "{record}"
        );
        end(stage, client, pid)
    })
}

fn shows_its_tracer(mode: &str) -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let mut client = disguise(stage, mode, &[])?;
        let pid: u32 = client.wait_for_value("connected")?.parse()?;
        let record = identified(stage, pid)?;
        fact_is(&record, "tracer_pid", "kernel", client.pid())?;
        runs_disguise(&record)?;
        end(stage, client, pid)
    })
}

#[test]
fn a_traced_process_shows_its_tracer_and_is_itself() -> Result<()> {
    shows_its_tracer("traced")
}

#[test]
fn a_thread_that_nobody_traces_shows_who_traces_the_first() -> Result<()> {
    shows_its_tracer("traced-elsewhere")
}

#[test]
fn a_preloaded_library_connects_as_the_program_it_sits_in() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let library = stage.directory().join("preload.so");
        pgusher_tests::programs::compile_library("preload", &library)?;
        let victim = std::fs::canonicalize("/usr/bin/sort")?;
        let mut command = stage.cgroup.command(&victim)?;
        command
            .env("LD_PRELOAD", &library)
            .env("PRELOAD_PORT", stage.cluster.port.to_string());
        let mut client = Running::start(&mut command)?;
        let pid: u32 = client.wait_for_value("connected")?.parse()?;
        let record = identified(stage, pid)?;
        // Nothing on record tells: docs/threat-model.md says so.
        fact_is(&record, "exe", "verified", victim.display().to_string())?;
        is_unknown(&record, "tracer_pid")?;
        end(stage, client, pid)
    })
}

/// Closes standard input of a client and waits for the end of its session.
fn end(stage: &Stage, client: Running, pid: u32) -> Result<()> {
    client.finish()?;
    let trail = &stage.pgusher.trail;
    let ended = trail.wait_for_session("its end", |record| is_from(record, pid));
    ended.map(drop).context("the session goes on")
}
