//! Clients of servers' unix sockets: intercepted, identified and connected as if they had connected themselves.

mod credentials;
mod names;
mod policies;
mod serving;

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use pgusher_tests::cgroup::TestCgroup;
use pgusher_tests::cluster::{VERSIONS, Version};
use pgusher_tests::kernel;
use pgusher_tests::process::{Finished, Running, run};
use pgusher_tests::programs::source;
use pgusher_tests::stage::{Setup, Stage};

use crate::expect::{accepted_session, at, fact_is, field_is, is_from};

/// The distribution's interpreter, which every user may run.
const PYTHON: &str = "/usr/bin/python3";

/// `psql` through the server's socket, intercepted.
fn psql(stage: &Stage, sql: &str) -> Result<Command> {
    let mut command = stage.psql(sql)?;
    command.env("PGHOST", stage.cluster.socket_host());
    Ok(command)
}

/// The path of the server's socket on this host.
fn socket_path(stage: &Stage) -> String {
    let name = format!(".s.PGSQL.{}", stage.cluster.port);
    let path = stage.cluster.socket_directory().join(name);
    path.display().to_string()
}

/// `clients/unix.py`, intercepted.
fn client(stage: &Stage, way: &str, path: &str) -> Result<Command> {
    let mut command = stage.cgroup.command(PYTHON)?;
    command.arg(source("unix.py")).args([way, path]);
    Ok(command)
}

/// `clients/unix_server.py`, when it listens.
fn server(way: &str, path: &str) -> Result<Running> {
    let mut command = Command::new(PYTHON);
    command.arg(source("unix_server.py")).args([way, path]);
    let mut server = Running::start(&mut command)?;
    server.wait_for_value("ready")?;
    Ok(server)
}

/// The record of the session of this client.
fn record_of(stage: &Stage, client: &Finished) -> Result<serde_json::Value> {
    let pid: u32 = client.value("pid_own")?.parse()?;
    let trail = &stage.pgusher.trail;
    trail.wait_for_session("the client's", |record| is_from(record, pid))
}

fn redirected(stage: &Stage) -> Result<u64> {
    stage.pgusher.counter("/kernel/unix_redirected")
}

#[test]
fn descriptors_are_refused_before_they_arrive() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let finished = run(&mut client(stage, "rights", &socket_path(stage))?)?;
        ensure!(
            finished.value("refused")? == "Operation not permitted",
            "{finished:?}"
        );
        // What was said with it was not said.
        ensure!(finished.value("answer")? == "42", "{finished:?}");
        accepted_session(&record_of(stage, &finished)?, "postgres")
    })
}

#[test]
fn a_session_is_on_record_with_its_process_and_the_sockets_path() -> Result<()> {
    for version in VERSIONS {
        Setup::with(version).play(|stage| {
            let answer = run(&mut psql(stage, "select inet_client_addr() is null")?)?;
            ensure!(answer.success()? == "t", "{answer:?}");
            ensure!(redirected(stage)? == 1);
            let record = stage.pgusher.trail.only_session()?;
            accepted_session(&record, "postgres")?;
            field_is(&record, "/destination/path", socket_path(stage))?;
            field_is(&record, "/destination/port", stage.cluster.port)?;
            ensure!(at(&record, "/client").is_null(), "{record}");
            let psql = stage.cluster.program_path("psql").canonicalize()?;
            fact_is(&record, "exe", "verified", psql.display().to_string())
        })?;
    }
    Ok(())
}

#[test]
fn a_client_sees_the_path_it_dialled() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let path = socket_path(stage);
        for (way, dialled) in [
            ("ask", path.clone()),
            ("relative", format!(".s.PGSQL.{}", stage.cluster.port)),
        ] {
            let finished = run(&mut client(stage, way, &path)?)?;
            finished.success()?;
            ensure!(finished.value("answer")? == "42", "{finished:?}");
            ensure!(finished.value("peer")? == dialled, "{finished:?}");
            let record = record_of(stage, &finished)?;
            field_is(&record, "/destination/path", path.clone())?;
        }
        ensure!(redirected(stage)? == 2);
        Ok(())
    })
}

#[test]
fn a_client_cancels_its_own_query() -> Result<()> {
    Setup::with(Version::V15)
        .policy(
            "enforce",
            "permit (principal, action == Action::\"connect\", resource);",
        )
        .play(|stage| {
            let finished = run(&mut client(stage, "cancel", &socket_path(stage))?)?;
            ensure!(finished.value("sqlstate")? == "57014", "{finished:?}");
            let cancels = |record: &serde_json::Value| record["kind"] == "cancel";
            let trail = &stage.pgusher.trail;
            let record = trail.wait_for_session("the cancel request", cancels)?;
            field_is(&record, "/policy/policies/0", "pgusher.own-cancel")
        })
}

#[test]
fn a_hundred_megabytes_arrive_unchanged_both_ways() -> Result<()> {
    const ROWS: &str = "select repeat(md5(i::text), 32) as line from generate_series(1, 100000) i";
    Setup::with(Version::V15).play(|stage| {
        let host = stage.cluster.socket_host().display().to_string();
        let script = format!(
            "set -o pipefail; psql() {{ /usr/bin/psql -Xqv ON_ERROR_STOP=1 \"$@\"; }}; \
             psql -c 'copy ({ROWS}) to stdout' | \
             psql -c 'create temp table copied (line text)' -c 'copy copied from stdin' \
             -c 'copy copied to stdout' | sha256sum"
        );
        let sum = |cgroup: &TestCgroup| -> Result<String> {
            let mut command = cgroup.command("bash")?;
            stage.cluster.point_at(&mut command);
            command.env("PGHOST", &host).args(["-c", &script]);
            Ok(run(&mut command)?.success()?.to_owned())
        };
        let through = sum(&stage.cgroup)?;
        ensure!(redirected(stage)? == 2);
        ensure!(through == sum(&TestCgroup::create()?)?, "{through}");
        for record in stage.pgusher.trail.wait_for_sessions(2)? {
            let bytes = at(&record, "/bytes_to_client").as_u64();
            ensure!(bytes > Some(102_000_000), "{record}");
        }
        Ok(())
    })
}

#[test]
fn an_end_in_one_direction_leaves_the_other_open() -> Result<()> {
    const PORT: u16 = 61_201;
    Setup::with(Version::V15).port(PORT).play(|stage| {
        let path = stage.directory().join(format!(".s.PGSQL.{PORT}"));
        let path = path.display().to_string();
        let mut server = server("echo", &path)?;
        let finished = run(&mut client(stage, "half", &path)?)?;
        ensure!(
            finished.value("heard")? == "b'a long answer'",
            "{finished:?}"
        );
        ensure!(server.wait_for_value("heard")? == "b'a question'");
        let record = record_of(stage, &finished)?;
        field_is(&record, "/close", "client_closed")
    })
}

#[test]
fn a_client_that_is_gone_takes_its_session_along() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let path = socket_path(stage);
        let mut command = client(stage, "abort", &path)?;
        let mut aborting = Running::start(&mut command)?;
        aborting.wait_for_value("logged_in")?;
        aborting.say("go")?;
        let record = record_of(stage, &aborting.finish()?)?;
        field_is(&record, "/close", "client_reset")?;
        // One that does not even wait for an answer is on record all the same.
        let finished = run(&mut client(stage, "forget", &path)?)?;
        let record = record_of(stage, &finished)?;
        ensure!(!at(&record, "/origin").is_null(), "{record}");
        Ok(())
    })
}

#[test]
fn sessions_outlive_the_hooks_and_new_connects_go_direct() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let path = socket_path(stage);
        let mut open = Running::start(&mut client(stage, "hold", &path)?)?;
        open.wait_for_value("logged_in")?;
        stage.pgusher.signal(Signal::SIGTERM)?;
        kernel::wait_until_no_connect_is_intercepted(stage.cgroup.path())?;
        run(&mut client(stage, "ask", &path)?)?.success()?;
        ensure!(stage.pgusher.is_running()?, "pgusher left an open session");
        open.finish()?.success()?;
        let finished = stage.pgusher.wait_for_end()?;
        ensure!(finished.status.success(), "{finished:?}");
        stage.pgusher.trail.only_session()?;
        Ok(())
    })
}

#[test]
fn a_listener_of_pgushers_is_nobodys_to_dial() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        run(&mut psql(stage, "select 1")?)?.success()?;
        let names = own_listeners(stage)?;
        ensure!(names.len() == 1, "{names:?}");
        for name in names {
            let finished = run(&mut client(stage, "dial", &name)?)?;
            let error = finished.value("error")?;
            ensure!(error == "Operation not permitted", "{error}");
        }
        ensure!(stage.pgusher.counter("/kernel/own_listener")? == 1);
        Ok(())
    })
}

/// The abstract names that pgusher listens under in our network namespace; what it accepted has the same.
fn own_listeners(stage: &Stage) -> Result<BTreeSet<String>> {
    let process = std::path::PathBuf::from(format!("/proc/{}", stage.pgusher.pid()));
    let mut sockets = Vec::new();
    for entry in std::fs::read_dir(process.join("fd"))? {
        // A descriptor may be closed meanwhile.
        let link = std::fs::read_link(entry?.path()).unwrap_or_default();
        sockets.push(link.display().to_string());
    }
    let table = std::fs::read_to_string(process.join("net/unix"))?;
    let lines = table.lines().map(|line| line.split_whitespace().collect());
    let named = lines.filter_map(|fields: Vec<&str>| Some((*fields.get(6)?, *fields.get(7)?)));
    let own = named.filter(|(inode, name)| {
        name.starts_with('@') && sockets.contains(&format!("socket:[{inode}]"))
    });
    Ok(own.map(|(_, name)| name.to_owned()).collect())
}

#[test]
fn switched_off_they_go_direct_and_are_counted() -> Result<()> {
    Setup::with(Version::V15)
        .argument("--unix-sockets=off")
        .play(|stage| {
            run(&mut psql(stage, "select 1")?)?.success()?;
            let status = stage.pgusher.status()?;
            field_is(&status, "/unix_sockets/state", "off")?;
            field_is(&status, "/kernel/unix_redirected", 0)?;
            field_is(&status, "/coverage/unix_sockets", 1)?;
            ensure!(stage.pgusher.trail.sessions()?.is_empty());
            // Something has to be intercepted.
            run(&mut stage.psql("select 1")?)?.success()?;
            Ok(())
        })
}
