//! Ordinary clients: each does through pgusher what it does without, and the audit trail names the process.

use anyhow::{Result, ensure};
use pgusher_tests::cluster::{VERSIONS, Version};
use pgusher_tests::process::Running;
use pgusher_tests::programs::{c_client, compiled, java_client, python_client};
use pgusher_tests::stage::{Setup, Stage};
use serde_json::{Value, json};

use crate::expect::{accepted_session, ended_in_order, fact, fact_is, field_is, is_from};

#[test]
fn psql_works_and_the_audit_record_names_its_process() -> Result<()> {
    for version in VERSIONS {
        Setup::with(version).play(|stage| {
            let psql = Running::start(&mut stage.psql("select 6 * 7")?)?;
            let pid = psql.pid();
            ensure!(psql.finish()?.success()? == "42");

            let record = stage.pgusher.trail.only_session()?;
            accepted_session(&record, "postgres")?;
            field_is(&record, "/startup/database", "postgres")?;
            field_is(&record, "/startup/application_name", "pgusher-tests")?;
            field_is(&record, "/encryption", "none")?;
            ended_in_order(&record)?;
            field_is(
                &record,
                "/destination",
                json!({"address": "127.0.0.1", "port": stage.cluster.port}),
            )?;
            names_psql(stage, &record, pid)
        })?;
    }
    Ok(())
}

fn names_psql(stage: &Stage, record: &Value, pid: u32) -> Result<()> {
    fact_is(record, "pid", "kernel", pid)?;
    fact_is(record, "comm", "kernel", "psql")?;
    fact_is(record, "cgroup", "verified", stage.cgroup.name()?)?;
    fact_is(
        record,
        "exe",
        "verified",
        stage.cluster.program_path("psql").display().to_string(),
    )?;
    for name in [
        "uid",
        "gid",
        "start_time_ns",
        "netns_cookie",
        "cgroup_id",
        "exe_inode",
    ] {
        ensure!(
            fact(record, name, "kernel")?.is_u64(),
            "{name} is no number in {record}"
        );
    }
    // Device numbers are text, major:minor.
    fact(record, "exe_device", "kernel")?;
    let uid = nix::unistd::User::from_name("postgres")?.map(|user| user.uid.as_raw());
    if stage.cluster.version == Version::V15 {
        ensure!(
            fact(record, "uid", "kernel")?.as_u64() == uid.map(u64::from),
            "not postgres: {record}"
        );
    }
    let arguments = fact(record, "cmdline", "late")?;
    ensure!(
        arguments
            .as_array()
            .is_some_and(|all| all.contains(&json!("select 6 * 7"))),
        "{arguments}"
    );
    Ok(())
}

#[test]
fn a_session_is_on_record_when_it_begins() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let mut stream = stage.dial()?;
        pgusher_tests::wire::log_in(&mut stream, "postgres")?;
        let begun = stage.pgusher.trail.wait_for("a session_start", |record| {
            record["type"] == "session_start"
        })?;
        fact_is(&begun, "pid", "kernel", stage.dialer()?.pid())?;
        field_is(&begun, "/client/port", stream.local_addr()?.port())?;
        ensure!(
            stage.pgusher.trail.sessions()?.is_empty(),
            "an open session has ended on record"
        );
        drop(stream);
        let ended = stage.pgusher.trail.only_session()?;
        field_is(&ended, "/session", begun["session"].clone())
    })
}

#[test]
fn pgbench_works_in_every_query_mode() -> Result<()> {
    for version in VERSIONS {
        Setup::with(version).play(|stage| {
            let scratch = stage.cluster.scratch()?;
            std::fs::write(
                scratch.outside.join("script.sql"),
                "\\set n random(1, 9)\nselect :n, repeat('x', 5000);\n",
            )?;
            let script = scratch.inside.join("script.sql");
            for mode in ["simple", "extended", "prepared"] {
                let mut pgbench = stage.client("pgbench")?;
                pgbench
                    .args(["-n", "-c", "4", "-j", "2", "-t", "250", "-M", mode, "-f"])
                    .arg(&script);
                let finished = pgusher_tests::process::run(&mut pgbench)?;
                ensure!(finished.success()?.contains("1000/1000"), "{finished:?}");
            }
            // pgbench makes one connection more to look at the server.
            let sessions = stage.pgusher.trail.wait_for_sessions(15)?;
            sessions
                .iter()
                .try_for_each(|record| accepted_session(record, "postgres"))
        })?;
    }
    Ok(())
}

#[test]
fn libpq_pipelines_cancels_listens_and_sees_the_address_it_dialled() -> Result<()> {
    for version in VERSIONS {
        Setup::with(version).play(|stage| {
            let mut command = c_client(&stage.cgroup, "libpq")?;
            let client = Running::start(command.args(["tour", &stage.conninfo("postgres")]))?;
            let pid = client.pid();
            let facts = client.finish()?;
            facts.success()?;

            let address = format!("127.0.0.1:{}", stage.cluster.port);
            ensure!(
                facts.value("peer")? == address,
                "getpeername tells: {facts:?}"
            );
            ensure!(
                facts.value("hostaddr")? == "127.0.0.1",
                "PQhostaddr tells: {facts:?}"
            );
            ensure!(
                facts.value("server")? == address,
                "inet_server_addr tells: {facts:?}"
            );
            ensure!(
                facts.value("backend")? == facts.value("backend_asked")?,
                "{facts:?}"
            );
            ensure!(
                facts.value("pipeline")? == "400 right, 1 failed, 99 aborted, PGRES_PIPELINE_SYNC",
                "{facts:?}"
            );
            ensure!(facts.value("large_object")? == "same", "{facts:?}");
            ensure!(facts.value("notify")? == "news extra", "{facts:?}");
            ensure!(facts.value("cancel")? == "57014", "{facts:?}");
            ensure!(facts.value("after_cancel")? == "alive", "{facts:?}");

            let sessions = stage.pgusher.trail.wait_for_sessions(3)?;
            let exe = compiled("libpq")?.display().to_string();
            for record in &sessions {
                fact_is(record, "pid", "kernel", pid)?;
                fact_is(record, "exe", "verified", exe.clone())?;
                fact_is(record, "uid", "kernel", 0)?;
            }
            let backend: u64 = facts.value("backend")?.parse()?;
            ensure!(
                sessions
                    .iter()
                    .any(|record| record["login"]["backend_pid"] == backend),
                "{sessions:?}"
            );
            let cancels = sessions.iter().filter(|record| record["kind"] == "cancel");
            ensure!(cancels.count() == 1, "not one cancel request: {sessions:?}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn python_clients_work() -> Result<()> {
    for version in VERSIONS {
        Setup::with(version).play(|stage| {
            let client = Running::start(
                python_client(&stage.cgroup, "tour")?.arg(stage.conninfo("postgres")),
            )?;
            let pid = client.pid();
            let facts = client.finish()?;
            facts.success()?;
            ensure!(facts.value("psycopg3")? == "2000 1999000 é999", "{facts:?}");
            ensure!(facts.value("cursor")? == "1999000", "{facts:?}");
            ensure!(facts.value("psycopg2")? == "psycopg2", "{facts:?}");
            ensure!(facts.value("psycopg2_error")? == "22012", "{facts:?}");
            let sessions = stage.pgusher.trail.wait_for_sessions(2)?;
            ensure!(
                sessions.iter().all(|record| is_from(record, pid)),
                "{sessions:?}"
            );
            sessions
                .iter()
                .try_for_each(|record| accepted_session(record, "postgres"))
        })?;
    }
    Ok(())
}

#[test]
fn pgjdbc_works_and_cancels_from_its_timer_thread() -> Result<()> {
    for version in VERSIONS {
        Setup::with(version).play(|stage| {
            let url = format!(
                "jdbc:postgresql://127.0.0.1:{}/postgres?user=postgres",
                stage.cluster.port
            );
            let facts = pgusher_tests::process::run(java_client(&stage.cgroup, "Tour")?.arg(url))?;
            facts.success()?;
            ensure!(facts.value("sum")? == "190", "{facts:?}");
            ensure!(facts.value("large_object")? == "true", "{facts:?}");
            ensure!(facts.value("timeout")? == "57014", "{facts:?}");
            let pid: u32 = facts.value("pid")?.parse()?;
            let sessions = stage.pgusher.trail.wait_for_sessions(2)?;
            ensure!(
                sessions.iter().all(|record| is_from(record, pid)),
                "{sessions:?}"
            );
            ensure!(
                sessions.iter().any(|record| record["kind"] == "cancel"),
                "{sessions:?}"
            );
            Ok(())
        })?;
    }
    Ok(())
}
