//! The simple protocol, COPY, function calls, and sessions whose statements nobody can see.

use std::fs;
use std::io::Write;

use anyhow::{Result, ensure};
use pgusher_tests::cluster::{VERSIONS, Version};
use pgusher_tests::process::run;
use pgusher_tests::programs::c_client;
use pgusher_tests::stage::Setup;
use pgusher_tests::wire;
use serde_json::{Value, json};

use super::{about, audited, call, exchange, execute, has, have, leave, log_in, sync};
use crate::expect::field_is;

#[test]
fn a_query_is_one_record_with_the_tags_of_all_its_statements() -> Result<()> {
    for version in VERSIONS {
        audited(version).play(|stage| {
            let mut stream = log_in(stage)?;
            let queries = [
                "create temp table t (a int, b text)",
                "insert into t select n, 'x' from generate_series(1, 5) n; update t set b = 'y' where a > 3; select a from t; begin",
                "select 1 / 0",
                "rollback",
                "",
                "selec 1",
                "select 'a'; select 1 / 0; select 'not run'",
            ];
            for query in queries {
                exchange(&mut stream, &[wire::query(query)?])?;
            }
            leave(stream)?;
            let division = json!({"severity": "ERROR", "sqlstate": "22012", "message": "division by zero"});
            let records = stage.pgusher.trail.statements()?;
            have(&records, &[
                json!({"seq": 1, "type": "statement", "kind": "query", "outcome": "completed", "tags": ["CREATE TABLE"], "rows": null, "transaction": "idle",
                    "user": "postgres", "database": "postgres",
                    "sql": {"text": queries[0], "bytes": 35, "truncated": false, "encoding": "UTF8"}}),
                json!({"seq": 2, "tags": ["INSERT 0 5", "UPDATE 2", "SELECT 5", "BEGIN"], "rows": 12, "rows_sent": 5, "transaction": "in_transaction"}),
                json!({"outcome": "failed", "error": division, "transaction": "failed", "tags": []}),
                json!({"outcome": "completed", "tags": ["ROLLBACK"], "transaction": "idle"}),
                json!({"outcome": "empty", "sql": {"text": "", "bytes": 0}, "tags": []}),
                json!({"outcome": "failed", "error": {"sqlstate": "42601"}}),
                json!({"outcome": "failed", "tags": ["SELECT 1"], "rows_sent": 1, "error": division}),
            ])?;
            for record in &records {
                let (done, ready) = (record["duration_us"].as_u64(), record["ready_us"].as_u64());
                ensure!(done.is_some() && done <= ready, "{record}");
                ensure!(record["process"]["pid"].is_u64(), "{record}");
            }
            let session = stage.pgusher.trail.only_session()?;
            has(&session, &json!({"statements": {"level": "statements", "recorded": 7, "lost": 0}}))
        })?;
    }
    Ok(())
}

#[test]
fn copy_is_recorded_with_direction_bytes_and_rows() -> Result<()> {
    for version in VERSIONS {
        audited(version).play(|stage| {
            let mut stream = log_in(stage)?;
            exchange(&mut stream, &[wire::query("create temp table t (a text)")?])?;
            stream.write_all(&wire::query("copy t from stdin")?)?;
            wire::read_through(&mut stream, b'G')?;
            let data = [
                wire::message(b'd', b"one\ntw")?,
                wire::message(b'd', b"o\n")?,
                wire::message(b'c', &[])?,
            ];
            exchange(&mut stream, &data)?;
            exchange(&mut stream, &[wire::query("copy t to stdout; copy t to stdout")?])?;
            stream.write_all(&wire::query("copy t from stdin")?)?;
            wire::read_through(&mut stream, b'G')?;
            exchange(&mut stream, &[wire::message(b'f', b"changed my mind\0")?])?;
            leave(stream)?;
            let out = json!({"direction": "out", "bytes_from_client": 0, "bytes_from_server": 8});
            have(&stage.pgusher.trail.statements()?, &[
                json!({"tags": ["CREATE TABLE"], "copies": []}),
                json!({"tags": ["COPY 2"], "rows": 2, "copies": [{"direction": "in", "bytes_from_client": 8, "bytes_from_server": 0}]}),
                json!({"tags": ["COPY 2", "COPY 2"], "rows": 4, "copies": [out, out]}),
                json!({"outcome": "failed", "error": {"sqlstate": "57014"}, "copies": [{"direction": "in", "bytes_from_client": 0, "bytes_from_server": 0}]}),
            ])
        })?;
    }
    Ok(())
}

#[test]
fn function_calls_are_recorded_with_their_number_and_arguments() -> Result<()> {
    for version in VERSIONS {
        audited(version)
            .argument("--audit-parameters=true")
            .play(|stage| {
                let mut stream = log_in(stage)?;
                let (two, three) = (2_i32.to_be_bytes(), 3_i32.to_be_bytes());
                // int4pl(int4, int4), and one that does not exist.
                exchange(&mut stream, &[call(177, &[1], &[Some(&two), Some(&three)])?])?;
                exchange(&mut stream, &[call(1, &[], &[Some(b"x")])?])?;
                leave(stream)?;
                let arguments = json!({"count": 2, "values": [{"base64": "AAAAAg==", "bytes": 4}, {"base64": "AAAAAw==", "bytes": 4}]});
                have(&stage.pgusher.trail.statements()?, &[
                    json!({"kind": "function_call", "function": 177, "outcome": "completed", "parameters": arguments}),
                    json!({"kind": "function_call", "function": 1, "outcome": "failed", "parameters": {"count": 1, "values": ["x"]}}),
                ])
            })?;
    }
    Ok(())
}

#[test]
fn everything_libpq_can_do_is_recorded_in_order() -> Result<()> {
    for version in VERSIONS {
        audited(version).play(|stage| {
            let conninfo = stage.conninfo("postgres");
            run(c_client(&stage.cgroup, "libpq")?.args(["tour", &conninfo]))?.success()?;
            let session = stage
                .pgusher
                .trail
                .wait_for_session("statements", |record| {
                    record["statements"]["recorded"].as_u64() > Some(1000)
                })?;
            let records = stage.pgusher.trail.statements_of(&session)?;
            let count = |kind: &str, outcome: &str| {
                let found = records
                    .iter()
                    .filter(|record| record["kind"] == kind && record["outcome"] == outcome);
                found.count()
            };
            // Large objects: open, write, seek, read, close at least.
            ensure!(count("function_call", "completed") >= 4, "{session}");
            // The pipeline of 500: the 401st fails, the rest is skipped.
            ensure!(
                count("execute", "failed") + count("bind", "failed") == 1,
                "{session}"
            );
            ensure!(count("execute", "not_run") >= 99, "{session}");
            ensure!(count("execute", "completed") >= 400, "{session}");
            ensure!(count("parse", "completed") >= 401, "{session}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn cursors_and_statements_prepared_in_sql_are_seen_as_text_and_say_so_in_the_protocol() -> Result<()>
{
    for version in VERSIONS {
        audited(version).play(|stage| {
            let mut stream = log_in(stage)?;
            exchange(&mut stream, &[wire::query("begin; declare c cursor for select generate_series(1, 3)")?])?;
            exchange(&mut stream, &[wire::query("fetch 1 from c")?])?;
            exchange(&mut stream, &[execute("c", 1)?, sync()?])?;
            exchange(&mut stream, &[wire::query("commit; prepare s (int) as select $1; execute s (5)")?])?;
            let by_protocol = [
                about(b'D', 'S', "s")?,
                super::bind("", "s", &[], &[Some(b"7")])?,
                execute("", 0)?,
                about(b'C', 'S', "s")?,
                sync()?,
            ];
            exchange(&mut stream, &by_protocol)?;
            leave(stream)?;
            let not_seen = json!({"kind": "execute", "sql": null, "prepared": "not_seen", "statement": null, "portal": "c",
                "max_rows": 1, "outcome": "suspended", "rows_sent": 1});
            let records = stage.pgusher.trail.statements()?;
            have(&records, &[
                json!({"tags": ["BEGIN", "DECLARE CURSOR"]}),
                json!({"tags": ["FETCH 1"], "rows": 1, "sql": {"text": "fetch 1 from c"}}),
                not_seen,
                json!({"tags": ["COMMIT", "PREPARE", "SELECT 1"], "rows": 1, "sql": {"text": "commit; prepare s (int) as select $1; execute s (5)"}}),
                json!({"kind": "describe", "statement": "s", "outcome": "completed"}),
                json!({"kind": "bind", "statement": "s", "prepared": "not_seen", "parameters": {"count": 1}}),
                json!({"kind": "execute", "sql": null, "prepared": "not_seen", "statement": "s", "tags": ["SELECT 1"], "rows": 1}),
                json!({"kind": "close", "statement": "s", "outcome": "completed"}),
            ])
        })?;
    }
    Ok(())
}

#[test]
fn a_long_text_is_cut_and_its_length_and_hash_are_those_of_the_whole() -> Result<()> {
    audited(Version::V18)
        .argument("--audit-text-limit=100")
        .play(|stage| {
            let exact = format!("select '{}'", "y".repeat(91));
            let long = format!("select '{}é'", "x".repeat(300_000));
            let mut stream = log_in(stage)?;
            exchange(&mut stream, &[wire::query(&exact)?])?;
            exchange(&mut stream, &[wire::query(&long)?])?;
            leave(stream)?;
            let path = stage.directory().join("long.sql");
            fs::write(&path, &long)?;
            let hash = run(std::process::Command::new("sha256sum").arg(&path))?;
            let hash = hash.success()?.split_whitespace().next().unwrap_or_default().to_owned();
            let records = stage.pgusher.trail.statements()?;
            has(&records[0], &json!({"sql": {"text": exact, "bytes": 100, "truncated": false, "sha256": null}}))?;
            let beginning = &long[..100];
            has(&records[1], &json!({"sql": {"text": beginning, "bytes": long.len(), "truncated": true, "sha256": hash}}))
        })
}

#[test]
fn statements_that_encryption_hides_are_said_to_be_hidden() -> Result<()> {
    for version in VERSIONS {
        audited(version).play(|stage| {
            let mut psql = stage.psql("select 1")?;
            run(psql.env("PGSSLMODE", "require"))?.success()?;
            let session = stage.pgusher.trail.only_session()?;
            field_is(&session, "/encryption", "tls")?;
            has(
                &session,
                &json!({"statements": {"level": "hidden_by_encryption", "recorded": 0, "lost": 0}}),
            )?;
            ensure!(stage.pgusher.trail.statements()?.is_empty());
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_route_decides_by_destination_and_port_whose_statements_are_recorded() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("pgusher.toml");
    fs::write(
        &file,
        "[[route]]\nname = \"six\"\ndestination = [\"::1\"]\naudit = \"statements\"\naudit_redaction = \"literals-removed\"\n",
    )?;
    Setup::with(Version::V15)
        .argument(format!("--config={}", file.display()))
        .play(|stage| {
            run(&mut stage.psql("select 'four'")?)?.success()?;
            let four = stage.pgusher.trail.only_session()?;
            has(
                &four,
                &json!({"statements": {"level": "none", "recorded": 0}}),
            )?;
            run(stage.psql("select 'six'")?.env("PGHOST", "::1"))?.success()?;
            let six = stage
                .pgusher
                .trail
                .wait_for_session("the other one", |record| {
                    record["destination"]["address"] == "::1"
                })?;
            has(
                &six,
                &json!({"statements": {"level": "statements", "recorded": 1}}),
            )?;
            let records = stage.pgusher.trail.statements_of(&six)?;
            has(&records[0], &json!({"sql": {"text": "select $1"}}))
        })
}

#[test]
fn an_unanswered_statement_and_the_end_that_the_server_made_are_recorded() -> Result<()> {
    for version in VERSIONS {
        audited(version).play(|stage| {
            let mut stream = log_in(stage)?;
            let backend = wire::ask(&mut stream, "select pg_backend_pid()")?;
            stage.cluster.sql(&format!("select pg_terminate_backend({backend})"))?;
            let farewell = wire::read_message(&mut stream)?;
            ensure!(farewell.field(b'C').as_deref() == Some("57P01"), "{farewell:?}");
            drop(stream);
            let records = stage.pgusher.trail.statements()?;
            have(&records, &[
                json!({"outcome": "completed"}),
                json!({"type": "server_error", "seq": 2, "error": {"severity": "FATAL", "sqlstate": "57P01"}}),
            ])?;
            ensure!(records[1].get("kind").unwrap_or(&Value::Null).is_null());

            let mut stream = log_in(stage)?;
            let backend = wire::ask(&mut stream, "select pg_backend_pid()")?;
            stream.write_all(&wire::query("select pg_sleep(600)")?)?;
            let asleep = format!("select wait_event from pg_stat_activity where pid = {backend}");
            stage.cluster.wait_for_rows(&asleep, "PgSleep")?;
            drop(stream);
            stage.cluster.sql(&format!("select pg_terminate_backend({backend})"))?;
            let sessions = stage.pgusher.trail.wait_for_sessions(2)?;
            let records = stage.pgusher.trail.statements_of(&sessions[1])?;
            ensure!(records.len() == 2, "{records:?}");
            let outcome = &records[1]["outcome"];
            // The server's farewell may come first: the client's end reaches it as a half-close.
            ensure!(*outcome == "unanswered" || *outcome == "failed", "{records:?}");
            Ok(())
        })?;
    }
    Ok(())
}
