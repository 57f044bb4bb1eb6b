//! What a process says of itself: recorded as its own words, and no way into what the kernel says.

use std::fs;

use anyhow::{Context, Result, ensure};
use pgusher_tests::cluster::Version;
use pgusher_tests::process::Running;
use pgusher_tests::programs::{compiled, copy_program, source};
use pgusher_tests::stage::{Setup, Stage};
use serde_json::{Value, json};

use super::{disguise, identified, is_unknown};
use crate::expect::{fact, fact_is};

#[test]
fn a_name_and_arguments_made_up_change_nothing_that_is_verified() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let mut client = disguise(stage, "name", &["--host=elsewhere"])?;
        client.wait_for_value("connected")?;
        let record = identified(stage, client.pid())?;
        client.finish()?.success()?;
        fact_is(&record, "comm", "kernel", "x\nUid:\t0\t0")?;
        fact_is(&record, "uid", "kernel", 0)?;
        fact_is(&record, "groups", "kernel", own_groups()?)?;
        let program = compiled("disguise")?.display().to_string();
        fact_is(&record, "exe", "verified", program)?;
        let arguments = fact(&record, "cmdline", "late")?;
        let first = arguments.get(0).context("a first argument")?;
        ensure!(*first == "/usr/bin/psql", "{record}");
        is_unknown(&record, "script")
    })
}

/// The supplementary groups of the test, which its clients inherit.
fn own_groups() -> Result<Value> {
    let groups = nix::unistd::getgroups()?;
    Ok(groups.into_iter().map(nix::unistd::Gid::as_raw).collect())
}

#[test]
fn a_name_that_is_no_text_hides_nothing() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let mut client = disguise(stage, "bytes", &[])?;
        client.wait_for_value("connected")?;
        let record = identified(stage, client.pid())?;
        client.finish()?.success()?;
        fact_is(&record, "comm", "kernel", "\\xff) R 1 \\xfe(")?;
        let program = compiled("disguise")?.display().to_string();
        fact_is(&record, "exe", "verified", program)?;
        let parent = &record["origin"]["ancestors"][0];
        ensure!(parent["grade"] == "verified", "{record}");
        Ok(())
    })
}

/// Runs a Python script that connects, named on the command line as `given`, in the stage's directory.
fn script(stage: &Stage, given: &str) -> Result<Value> {
    let interpreter = fs::canonicalize("/usr/bin/python3").context("install python3")?;
    let mut command = stage.cgroup.command(&interpreter)?;
    command
        .current_dir(stage.directory())
        .args(["-u", given, &stage.cluster.port.to_string()]);
    let mut client = Running::start(&mut command)?;
    client.wait_for_value("connected")?;
    let record = identified(stage, client.pid())?;
    client.finish()?.success()?;
    let path = interpreter.display().to_string();
    fact_is(&record, "exe", "verified", path)?;
    Ok(record)
}

#[test]
fn a_script_is_told_besides_its_interpreter() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let nightly = stage.directory().join("nightly.py");
        copy_program(&source("hold.py"), &nightly)?;
        let name = fs::read_link("/usr/bin/python3").context("install python3")?;
        let expected = json!({
            "interpreter": name.display().to_string(),
            "path": nightly.display().to_string(),
        });
        for given in ["./nightly.py", &nightly.display().to_string()] {
            let record = script(stage, given)?;
            fact_is(&record, "script", "late", expected.clone())?;
        }
        Ok(())
    })
}
