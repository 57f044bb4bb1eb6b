//! Sessions on the fast path: who is joined, and that nothing else is different.

use std::fmt::Write as _;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use pgusher_tests::cluster::Version;
use pgusher_tests::netns::{Link, NetNs};
use pgusher_tests::process::{Running, run};
use pgusher_tests::stage::{Setup, Stage};
use pgusher_tests::wire;
use serde_json::Value;

use crate::expect::{accepted_session, at, field_is};

/// Results of every size around each limit of the fast path, short ones between them.
const SIZES: [u32; 12] = [
    1, 100, 8_000, 16_000, 17_000, 64_000, 70_000, 128_000, 140_000, 500_000, 3, 2_000_000,
];

/// Enough messages for a session to be joined, then what is to be tried.
fn script() -> String {
    let mut script = String::new();
    for number in 0..12 {
        let _ = writeln!(script, "select {number};");
    }
    for (number, size) in SIZES.into_iter().cycle().take(60).enumerate() {
        let _ = writeln!(
            script,
            "select {number}, repeat(chr(65 + {number} % 26), {size});"
        );
        let _ = writeln!(
            script,
            "select length('{}');",
            "y".repeat(size as usize / 3)
        );
    }
    script
}

/// psql, which reads without blocking, with the statements on its standard input.
fn psql(stage: &Stage, script: &str) -> Result<String> {
    let file = stage.directory().join("script.sql");
    std::fs::write(&file, script)?;
    let mut command = stage.psql("")?;
    command.args(["-f", &file.to_string_lossy()]);
    Ok(run(&mut command)?.success()?.to_owned())
}

fn counts(stage: &Stage) -> Result<Value> {
    let status = stage.pgusher.status()?;
    Ok(status.get("fast_path").context("no fast path")?.clone())
}

fn count(stage: &Stage, name: &str) -> Result<u64> {
    stage.pgusher.counter(&format!("/fast_path/{name}"))
}

/// Whether there is none for the one reason that `auto` may have on a kernel of today.
fn is_impossible(stage: &Stage) -> Result<bool> {
    let counts = counts(stage)?;
    if *at(&counts, "/state") != "impossible" {
        return Ok(false);
    }
    let reason = at(&counts, "/reason").to_string();
    ensure!(reason.contains("FIONREAD"), "{reason}");
    Ok(true)
}

#[test]
fn sessions_are_joined_as_declared_and_say_the_same() -> Result<()> {
    let mut answers = Vec::new();
    for (arguments, joined) in [
        (vec![], None),
        (
            vec!["--fast-path=auto"],
            Some(["client_legs", "server_legs"].as_slice()),
        ),
        (vec!["--fast-path=full"], Some(&["direct"])),
        (
            vec!["--fast-path=full", "--audit=statements"],
            Some(&["client_legs", "server_legs"]),
        ),
    ] {
        let setup = Setup::with(Version::V15).arguments(&arguments);
        setup.play(|stage| {
            let output = psql(stage, &script())?;
            let record = stage.pgusher.trail.only_session()?;
            accepted_session(&record, "postgres")?;
            let bytes = ["bytes_to_server", "bytes_to_client"].map(|name| record[name].as_u64());
            answers.push((output, bytes));
            match joined {
                None => field_is(&counts(stage)?, "/state", "off"),
                // Where taking part shows already.
                Some(_) if is_impossible(stage)? => {
                    ensure!(arguments == ["--fast-path=auto"], "{}", counts(stage)?);
                    Ok(())
                }
                Some(joined) => {
                    for name in joined {
                        ensure!(
                            count(stage, name)? == 1,
                            "{arguments:?}: {}",
                            counts(stage)?
                        );
                    }
                    ensure!(
                        count(stage, "redirected")? > 20,
                        "{arguments:?}: {}",
                        counts(stage)?
                    );
                    ensure!(
                        count(stage, "left_alone")? == 0,
                        "{arguments:?}: {}",
                        counts(stage)?
                    );
                    Ok(())
                }
            }
        })?;
    }
    let (first, others) = answers.split_first().context("no answers")?;
    let expected: u64 = SIZES.into_iter().cycle().take(60).map(u64::from).sum();
    ensure!(first.1.iter().all(Option::is_some), "{:?}", first.1);
    ensure!(first.0.len() as u64 > expected, "{} bytes", first.0.len());
    for (number, other) in others.iter().enumerate() {
        ensure!(first.0 == other.0, "output {number} differs");
        ensure!(
            first.1 == other.1,
            "{number}: {:?}, not {:?}",
            other.1,
            first.1
        );
    }
    Ok(())
}

#[test]
fn a_session_that_nobody_can_see_into_is_joined_too() -> Result<()> {
    Setup::with(Version::V15)
        .argument("--fast-path=full")
        .play(|stage| {
            let mut command = stage.psql_to("dbname=postgres sslmode=require", "select 1")?;
            for number in 0..20 {
                command.args(["-c", &format!("select {number}")]);
            }
            run(&mut command)?.success()?;
            ensure!(count(stage, "direct")? == 1, "{}", counts(stage)?);
            ensure!(count(stage, "redirected")? > 10, "{}", counts(stage)?);
            Ok(())
        })
}

#[test]
fn such_a_session_is_not_joined_directly_where_its_permit_can_be_taken_back() -> Result<()> {
    let all = "permit (principal, action, resource);";
    let setup = Setup::with(Version::V15).policy("enforce", all);
    setup.argument("--fast-path=full").play(|stage| {
        let mut command = stage.psql_to("dbname=postgres sslmode=require", "select 1")?;
        for number in 0..20 {
            command.args(["-c", &format!("select {number}")]);
        }
        run(&mut command)?.success()?;
        ensure!(count(stage, "direct")? == 0, "{}", counts(stage)?);
        ensure!(count(stage, "client_legs")? == 1, "{}", counts(stage)?);
        Ok(())
    })
}

#[test]
fn a_client_that_reads_in_blocking_mode_is_left_alone() -> Result<()> {
    for mode in ["auto", "full"] {
        Setup::with(Version::V15)
            .argument(format!("--fast-path={mode}"))
            .play(|stage| {
                let mut session = stage.session()?;
                for number in 0..20 {
                    let answer = wire::ask(&mut session, &format!("select {number}"))?;
                    ensure!(answer == number.to_string(), "{answer}");
                }
                if mode == "auto" && is_impossible(stage)? {
                    return Ok(());
                }
                ensure!(count(stage, "client_legs")? == 0, "{}", counts(stage)?);
                ensure!(count(stage, "direct")? == 0, "{}", counts(stage)?);
                ensure!(count(stage, "server_legs")? == 1, "{}", counts(stage)?);
                ensure!(count(stage, "left_alone")? == 1, "{}", counts(stage)?);
                Ok(())
            })?;
    }
    Ok(())
}

#[test]
fn short_sessions_are_not_joined() -> Result<()> {
    Setup::with(Version::V15)
        .argument("--fast-path=full")
        .play(|stage| {
            run(&mut stage.psql("select 1")?)?.success()?;
            for name in ["client_legs", "server_legs", "direct", "left_alone"] {
                ensure!(count(stage, name)? == 0, "{}", counts(stage)?);
            }
            Ok(())
        })
}

#[test]
fn a_server_elsewhere_leaves_the_clients_connection_to_be_joined() -> Result<()> {
    Setup::elsewhere()
        .argument("--fast-path=full")
        .play(|stage| {
            let client = NetNs::create()?;
            let link = Link::between(&client, stage.cluster.namespace()?)?;
            let [server, _] = &link.server;
            let session = || -> Result<()> {
                let mut command = in_namespace(stage, &client, server)?;
                for number in 0..20 {
                    command.args(["-c", &format!("select {number}")]);
                }
                run(&mut command)?.success().map(drop)
            };
            // The first opens listeners there; those in namespaces that were there at start are counted already.
            let before = stage.pgusher.counter("/namespaces/opened")?;
            session()?;
            stage
                .pgusher
                .wait_for_counter("/namespaces/opened", |opened| opened > before)?;
            session()?;
            ensure!(stage.redirected()? >= 1, "{}", stage.pgusher.status()?);
            ensure!(count(stage, "client_legs")? >= 1, "{}", counts(stage)?);
            ensure!(count(stage, "server_legs")? == 0, "{}", counts(stage)?);
            ensure!(count(stage, "direct")? == 0, "{}", counts(stage)?);
            ensure!(count(stage, "redirected")? > 10, "{}", counts(stage)?);
            Ok(())
        })
}

fn in_namespace(stage: &Stage, client: &NetNs, server: &str) -> Result<Command> {
    let mut command = client.command(&stage.cgroup, "chroot")?;
    let program = stage.cluster.version_program("psql");
    stage.cluster.enter_root(&mut command, &program);
    command.args(["-XqAt", "-v", "ON_ERROR_STOP=1"]);
    command.env("PGHOST", server);
    Ok(command)
}

/// A session that has lasted long enough to be joined, and sleeps; and how many of it the server has, as SQL. The server
/// looks whether its client is still there.
fn sleeping(stage: &Stage) -> Result<(Running, String)> {
    let watch = "set client_connection_check_interval = '100ms'";
    let mut command = stage.psql_to("dbname=postgres sslmode=disable", watch)?;
    for number in 0..12 {
        command.args(["-c", &format!("select {number}")]);
    }
    let last = format!("select pg_sleep(600) /* {} */", stage.cgroup.name()?);
    let client = Running::start(command.args(["-c", &last]))?;
    let runs = format!(
        "select count(*) from pg_stat_activity where state = 'active' and query = '{last}'"
    );
    stage.cluster.wait_for_rows(&runs, "1")?;
    Ok((client, runs))
}

#[test]
fn both_sides_of_a_direct_session_find_it_ended_when_pgusher_is_killed() -> Result<()> {
    let setup = Setup::with(Version::V15);
    setup.argument("--fast-path=full").play(|stage| {
        let (client, runs) = sleeping(stage)?;
        ensure!(count(stage, "direct")? == 1, "{}", counts(stage)?);
        stage.kill()?;
        let finished = client.finish()?;
        let told = finished.failure()?;
        ensure!(
            told.contains("server closed the connection unexpectedly"),
            "{finished:?}"
        );
        stage.cluster.wait_for_rows(&runs, "0")
    })
}

#[test]
fn a_session_whose_permit_can_be_taken_back_is_not_joined_directly_and_is_told() -> Result<()> {
    let all = "permit (principal, action, resource);";
    let none = "@id(\"closed\") forbid (principal, action, resource);";
    let setup = Setup::with(Version::V15).policy("enforce", all);
    setup.argument("--fast-path=full").play(|stage| {
        let (client, _) = sleeping(stage)?;
        ensure!(count(stage, "direct")? == 0, "{}", counts(stage)?);
        ensure!(count(stage, "client_legs")? == 1, "{}", counts(stage)?);
        stage.reload_policy(none)?.success()?;
        let finished = client.finish()?;
        ensure!(
            finished
                .stderr
                .contains("pgusher's policy \"closed\" denies this connection"),
            "{finished:?}"
        );
        Ok(())
    })
}
