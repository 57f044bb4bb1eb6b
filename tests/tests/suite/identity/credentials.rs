//! Whose process it is: ids, groups and privileges as they were at connect().

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use pgusher_tests::cluster::Version;
use pgusher_tests::process::Running;
use pgusher_tests::programs::{compiled, copy_of};
use pgusher_tests::stage::{Setup, Stage};
use serde_json::{Value, json};

use super::{connect, disguise, identified, is_at_most_late, stoppable};
use crate::expect::{fact, fact_is};

/// A user id without a name of its own that the tests give up root for.
const NOBODY: u32 = 65534;

/// Starts `disguise plain` through a program that changes ids.
fn plain_through(stage: &Stage, program: &str, arguments: &[&str]) -> Result<Running> {
    let mut command = stage.cgroup.command(program)?;
    command.args(arguments).arg(compiled("disguise")?);
    Running::start(command.args(["plain", &stage.cluster.port.to_string()]))
}

/// The record of a client that says `connected=PID`, and its end.
fn record_of(stage: &Stage, mut client: Running) -> Result<Value> {
    let pid: u32 = client.wait_for_value("connected")?.parse()?;
    let record = identified(stage, pid)?;
    client.finish()?.success()?;
    Ok(record)
}

fn capabilities(record: &Value) -> Result<Vec<String>> {
    let found = fact(record, "capabilities", "kernel")?;
    let names = found.as_array().context("capabilities are a list")?;
    let names = names.iter().filter_map(Value::as_str);
    Ok(names.map(str::to_owned).collect())
}

#[test]
fn groups_and_privileges_are_those_that_connected() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let ids = ["--reuid=65534", "--regid=65534", "--groups=4,12345,0"];
        let more = ["--no-new-privs", "--inh-caps=-all", "--"];
        let client = plain_through(stage, "setpriv", &[ids.as_slice(), &more].concat())?;
        let record = record_of(stage, client)?;
        fact_is(&record, "uid", "kernel", NOBODY)?;
        fact_is(&record, "euid", "kernel", NOBODY)?;
        fact_is(&record, "gid", "kernel", NOBODY)?;
        fact_is(&record, "egid", "kernel", NOBODY)?;
        fact_is(&record, "user", "late", "nobody")?;
        fact_is(&record, "group", "late", "nogroup")?;
        fact_is(&record, "groups", "kernel", json!([0, 4, 12345]))?;
        fact_is(&record, "group_names", "late", json!(["root", "adm"]))?;
        fact_is(&record, "no_new_privs", "kernel", true)?;
        fact_is(&record, "seccomp", "kernel", "disabled")?;
        ensure!(capabilities(&record)?.is_empty(), "{record}");
        Ok(())
    })
}

/// The hook has room for 32.
#[test]
fn more_groups_than_are_captured_are_read_and_verified() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        for (count, grade) in [(32, "kernel"), (33, "verified")] {
            let groups: Vec<u32> = (1000..1000 + count).collect();
            let list: Vec<_> = groups.iter().map(ToString::to_string).collect();
            let list = format!("--groups={}", list.join(","));
            let client = plain_through(stage, "setpriv", &["--", "setpriv", &list])?;
            let record = record_of(stage, client)?;
            fact_is(&record, "groups", grade, json!(groups))?;
            ensure!(capabilities(&record)?.len() > 1, "{record}");
        }
        Ok(())
    })
}

#[test]
fn a_setuid_program_acts_with_its_owners_ids_and_is_its_callers() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let program = copy_of("disguise", "setuid")?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o6755))?;
        let mut command = stage.cgroup.command("setpriv")?;
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command
            .arg(&program)
            .args(["plain", &stage.cluster.port.to_string()]);
        let record = record_of(stage, Running::start(&mut command)?)?;
        fact_is(&record, "uid", "kernel", NOBODY)?;
        fact_is(&record, "euid", "kernel", 0)?;
        fact_is(&record, "gid", "kernel", NOBODY)?;
        fact_is(&record, "egid", "kernel", 0)?;
        fact_is(&record, "group", "late", "nogroup")?;
        fact_is(&record, "effective_group", "late", "root")?;
        fact_is(&record, "groups", "kernel", json!([]))?;
        ensure!(!capabilities(&record)?.is_empty(), "{record}");
        Ok(())
    })
}

#[test]
fn ids_given_up_after_connect_are_still_those_that_connected() -> Result<()> {
    stoppable().play(|stage| {
        stage.pgusher.signal(Signal::SIGSTOP)?;
        let mut client = disguise(stage, "drop-ids", &[])?;
        client.wait_for_value("dropped")?;
        stage.pgusher.signal(Signal::SIGCONT)?;
        let record = identified(stage, client.pid())?;
        client.finish()?.success()?;
        fact_is(&record, "uid", "kernel", 0)?;
        fact_is(&record, "euid", "kernel", 0)?;
        // Those of root, who connected, whatever it has become.
        ensure!(!capabilities(&record)?.is_empty(), "{record}");
        for name in ["groups", "no_new_privs", "seccomp"] {
            fact(&record, name, "kernel")?;
        }
        Ok(())
    })
}

#[test]
fn a_thread_with_ids_of_its_own_connects_with_those() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let record = record_of(stage, disguise(stage, "thread-as-nobody", &[])?)?;
        fact_is(&record, "uid", "kernel", NOBODY)?;
        fact_is(&record, "euid", "kernel", NOBODY)?;
        // /proc would speak of the first thread, which is root.
        ensure!(capabilities(&record)?.is_empty(), "{record}");
        Ok(())
    })
}

#[test]
fn a_setuid_program_run_on_the_connected_socket_lends_no_privileges() -> Result<()> {
    stoppable().play(|stage| {
        let privileged = copy_of("connect", "privileged")?;
        fs::set_permissions(&privileged, fs::Permissions::from_mode(0o4755))?;
        stage.pgusher.signal(Signal::SIGSTOP)?;
        let mut command = stage.cgroup.command("setpriv")?;
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command.arg(compiled("connect")?);
        let port = stage.cluster.port.to_string();
        command.args(["exec", "127.0.0.1", &port]).arg(&privileged);
        let mut client = Running::start(&mut command)?;
        client.wait_for_value("replaced")?;
        stage.pgusher.signal(Signal::SIGCONT)?;
        client.say("go on")?;
        client.finish()?.success()?;
        let record = stage.pgusher.trail.only_session()?;
        fact_is(&record, "euid", "kernel", NOBODY)?;
        is_at_most_late(&record, "exe")?;
        fact_is(&record, "groups", "kernel", json!([]))?;
        ensure!(capabilities(&record)?.is_empty(), "{record}");
        Ok(())
    })
}

#[test]
fn root_of_a_user_namespace_is_who_made_the_namespace() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
        let namespace = ["unshare", "--user", "--map-root-user"];
        let script = r#"test "$(id -u)" = 0 && exec "$@""#;
        let shell = ["sh", "-c", script, "sh"];
        let arguments = [nobody.as_slice(), &namespace, &shell].concat();
        let record = record_of(stage, plain_through(stage, "setpriv", &arguments)?)?;
        fact_is(&record, "uid", "kernel", NOBODY)?;
        fact_is(&record, "euid", "kernel", NOBODY)?;
        fact_is(&record, "user", "late", "nobody")?;
        // All of them, good for nothing outside.
        let capabilities = capabilities(&record)?;
        ensure!(
            capabilities.iter().any(|name| name == "cap_sys_admin"),
            "{record}"
        );
        fact_is(&record, "other_namespaces", "kernel", json!(["user"]))
    })
}

#[test]
fn a_client_that_goes_on_after_the_opening_keeps_the_identity_of_its_connect() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let client = connect(stage, "blocking", &[])?;
        let pid = client.pid();
        client.finish()?.success()?;
        let (begun, ended) = (identified(stage, pid)?, stage.pgusher.trail.only_session()?);
        ensure!(begun["origin"] == ended["origin"], "{begun} and {ended}");
        Ok(())
    })
}
