//! The server's own tools: dumps, physical backups, log streaming, and Ctrl-C.

use std::fs;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use pgusher_tests::cluster::VERSIONS;
use pgusher_tests::condition::{Seen, wait_until};
use pgusher_tests::process::{Running, run};
use pgusher_tests::stage::{Setup, Stage};

use crate::expect::{fact_is, field_is};

#[test]
fn a_dump_restores_to_the_same_data() -> Result<()> {
    for version in VERSIONS {
        Setup::with(version).play(|stage| {
            for sql in [
                "drop database if exists dumped",
                "drop database if exists restored",
            ] {
                stage.cluster.sql(sql)?;
            }
            stage
                .cluster
                .sql("create database dumped template template0")?;
            stage
                .cluster
                .sql("create database restored template template0")?;
            run(stage
                .client("pgbench")?
                .args(["-iq", "-s", "2", "--foreign-keys", "dumped"]))?
            .success()?;
            let scratch = stage.cluster.scratch()?;
            let dump = scratch.inside.join("dump");
            run(stage
                .client("pg_dump")?
                .args(["-Fd", "-j", "2", "-f"])
                .arg(&dump)
                .arg("dumped"))?
            .success()?;
            run(stage
                .client("pg_restore")?
                .args(["-j", "2", "-d", "restored"])
                .arg(&dump))?
            .success()?;

            let checksum =
                "select count(*), sum(hashtext(a::text)::bigint) from pgbench_accounts a";
            let [dumped, restored] = ["dumped", "restored"].map(|database| -> Result<String> {
                let mut psql = stage.psql(checksum)?;
                Ok(run(psql.env("PGDATABASE", database))?.success()?.to_owned())
            });
            let (dumped, restored) = (dumped?, restored?);
            ensure!(
                dumped == restored && dumped.starts_with("200000|"),
                "{dumped} was dumped, {restored} restored"
            );
            let sessions = stage.pgusher.trail.wait_for_sessions(8)?;
            let dumps = sessions
                .iter()
                .filter(|record| record["startup"]["application_name"] == "pgusher-tests");
            ensure!(dumps.count() >= 8, "{sessions:?}");
            stage.cluster.sql("drop database dumped")?;
            stage.cluster.sql("drop database restored")?;
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_base_backup_is_complete_and_verifies() -> Result<()> {
    for version in VERSIONS {
        Setup::with(version).play(|stage| {
            let scratch = stage.cluster.scratch()?;
            let backup = scratch.inside.join("backup");
            // With -X stream the log comes over a second connection at the same time.
            let mut command = stage.client("pg_basebackup")?;
            run(command
                .args(["-X", "stream", "-c", "fast", "-D"])
                .arg(&backup))?
            .success()?;
            let mut verify = stage.cluster.outsider("pg_verifybackup")?;
            run(verify.arg(&backup))?.success()?;

            let sessions = stage.pgusher.trail.wait_for_sessions(2)?;
            let replicating = sessions
                .iter()
                .filter(|record| record["kind"] == "replication");
            ensure!(
                replicating.count() == 2,
                "not two replication sessions: {sessions:?}"
            );
            for record in &sessions {
                fact_is(record, "comm", "kernel", "pg_basebackup")?;
                field_is(record, "/login/outcome", "accepted")?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn the_write_ahead_log_streams_and_stops_in_order() -> Result<()> {
    for version in VERSIONS {
        Setup::with(version).play(|stage| {
            let scratch = stage.cluster.scratch()?;
            let mut command = stage.client("pg_receivewal")?;
            command.env("PGAPPNAME", "log-receiver");
            // Every flush is acknowledged: what the server knows as flushed has come through and back.
            let receiver = Running::start(
                command
                    .args(["--synchronous", "--no-loop", "-D"])
                    .arg(&scratch.inside),
            )?;
            let connected = "select count(*) from pg_stat_replication
                where application_name = 'log-receiver' and state = 'streaming'";
            stage.cluster.wait_for_rows(connected, "1")?;
            stage
                .cluster
                .sql("create table if not exists logged (n int)")?;
            stage
                .cluster
                .sql("insert into logged select generate_series(1, 50000)")?;
            let position = stage.cluster.sql("select pg_switch_wal()")?;
            let received = format!(
                "select count(*) from pg_stat_replication
                    where application_name = 'log-receiver' and flush_lsn >= '{position}'"
            );
            stage.cluster.wait_for_rows(&received, "1")?;
            receiver.signal(Signal::SIGINT)?;
            receiver.finish()?.success()?;
            stage.cluster.sql("drop table logged")?;
            ensure!(
                fs::read_dir(&scratch.outside)?.count() > 0,
                "no log was written"
            );
            let record = stage.pgusher.trail.only_session()?;
            field_is(&record, "/kind", "replication")
        })?;
    }
    Ok(())
}

#[test]
fn ctrl_c_in_psql_cancels_the_query_and_keeps_the_session() -> Result<()> {
    for version in VERSIONS {
        Setup::with(version).play(|stage| {
            let mut terminal = psql_on_a_terminal(stage)?;
            terminal.say("select 'backend=' || pg_backend_pid();")?;
            let backend = terminal.wait_for_value("backend")?;
            terminal.say("select pg_sleep(600);")?;
            let sleeping = format!("select wait_event from pg_stat_activity where pid = {backend}");
            stage.cluster.wait_for_rows(&sleeping, "PgSleep")?;
            terminal.say(CTRL_C)?;
            wait_until("psql reports the cancelled query", || {
                let screen = terminal.stdout()?;
                Ok(Seen::when(
                    screen.contains("canceling statement due to user request"),
                    || screen.clone(),
                ))
            })?;
            terminal.say("select 'still=' || pg_backend_pid();")?;
            ensure!(
                terminal.wait_for_value("still")? == backend,
                "another session answers"
            );
            terminal.say("\\q")?;
            terminal.finish()?.success()?;

            let sessions = stage.pgusher.trail.wait_for_sessions(2)?;
            let cancels = sessions.iter().filter(|record| record["kind"] == "cancel");
            ensure!(cancels.count() == 1, "{sessions:?}");
            ensure!(
                sessions[0]["origin"]["pid"] == sessions[1]["origin"]["pid"],
                "{sessions:?}"
            );
            sessions
                .iter()
                .try_for_each(|record| fact_is(record, "comm", "kernel", "psql"))
        })?;
    }
    Ok(())
}

/// What the key sends; the terminal turns it into a signal.
const CTRL_C: &str = "\x03";

/// psql on a pseudo-terminal that does not echo, without prompts.
fn psql_on_a_terminal(stage: &Stage) -> Result<Running> {
    let psql = stage.client("psql")?;
    let words = std::iter::once(psql.get_program()).chain(psql.get_args());
    let line: Vec<String> = words
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let line = format!(
        "exec {} -XqAtn -P pager=off -v PROMPT1= -v PROMPT2=",
        line.join(" ")
    );
    let mut script = stage.cgroup.command("script")?;
    stage.cluster.point_at(&mut script);
    Running::start(script.args([
        "--quiet",
        "--return",
        "--echo",
        "never",
        "--command",
        &line,
        "/dev/null",
    ]))
}
