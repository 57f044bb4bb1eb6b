//! The extended protocol, message by message.

use anyhow::{Result, ensure};
use pgusher_tests::cluster::{VERSIONS, Version};
use pgusher_tests::process::Running;
use pgusher_tests::wire;
use serde_json::{Value, json};

use super::{about, audited, bind, exchange, execute, has, have, leave, log_in, parse, sync};

#[test]
fn an_execute_is_joined_to_the_text_of_its_parse() -> Result<()> {
    for version in VERSIONS {
        audited(version).play(|stage| {
            let mut stream = log_in(stage)?;
            let sql = "select g from generate_series(1, $1) g";
            let batch = [
                parse("s1", sql, &[23])?,
                about(b'D', 'S', "s1")?,
                bind("p1", "s1", &[], &[Some(b"3")])?,
                execute("p1", 2)?,
                execute("p1", 0)?,
                about(b'C', 'P', "p1")?,
                sync()?,
            ];
            exchange(&mut stream, &batch)?;
            // The unnamed statement is replaced without a word; the portal keeps what it was bound to.
            let batch = [
                parse("", "select 'old'", &[])?,
                bind("p2", "", &[], &[])?,
                parse("", "select 'new'", &[])?,
                execute("p2", 0)?,
                bind("", "", &[], &[])?,
                execute("", 0)?,
                sync()?,
            ];
            exchange(&mut stream, &batch)?;
            leave(stream)?;
            let text = json!({"text": sql, "bytes": sql.len(), "truncated": false, "encoding": "UTF8"});
            have(&stage.pgusher.trail.statements()?, &[
                json!({"kind": "parse", "statement": "s1", "parse": 1, "sql": text, "parameter_types": [23], "outcome": "completed", "tags": [], "transaction": "idle"}),
                json!({"kind": "describe", "statement": "s1", "sql": null}),
                json!({"kind": "bind", "statement": "s1", "portal": "p1", "parse": 1, "prepared": "seen", "parameters": {"count": 1, "values": null}}),
                json!({"kind": "execute", "statement": "s1", "portal": "p1", "parse": 1, "sql": text, "max_rows": 2, "outcome": "suspended", "rows_sent": 2, "tags": []}),
                json!({"kind": "execute", "parse": 1, "max_rows": 0, "outcome": "completed", "rows_sent": 1, "tags": ["SELECT 1"], "rows": 1}),
                json!({"kind": "close", "portal": "p1"}),
                json!({"kind": "parse", "parse": 2}),
                json!({"kind": "bind", "portal": "p2", "parse": 2}),
                json!({"kind": "parse", "parse": 3}),
                json!({"kind": "execute", "portal": "p2", "parse": 2, "sql": {"text": "select 'old'"}}),
                json!({"kind": "bind", "portal": "", "parse": 3}),
                json!({"kind": "execute", "portal": "", "parse": 3, "sql": {"text": "select 'new'"}}),
            ])
        })?;
    }
    Ok(())
}

#[test]
fn what_follows_an_error_up_to_sync_is_recorded_as_not_run() -> Result<()> {
    for version in VERSIONS {
        audited(version).play(|stage| {
            let mut stream = log_in(stage)?;
            let batch = [
                parse("bad", "selec 1", &[])?,
                bind("", "bad", &[], &[])?,
                execute("", 0)?,
                wire::query("select 'skipped too'")?,
                sync()?,
            ];
            exchange(&mut stream, &batch)?;
            let batch = [
                parse("", "select 1 / ($1::int + (random() * 0)::int)", &[])?,
                bind("", "", &[], &[Some(b"0")])?,
                execute("", 0)?,
                sync()?,
                bind("", "bad", &[], &[])?,
                sync()?,
            ];
            stream_all(&mut stream, &batch, 2)?;
            leave(stream)?;
            have(&stage.pgusher.trail.statements()?, &[
                json!({"kind": "parse", "outcome": "failed", "error": {"sqlstate": "42601"}, "sql": {"text": "selec 1"}}),
                json!({"kind": "bind", "outcome": "not_run", "duration_us": null}),
                json!({"kind": "execute", "outcome": "not_run", "duration_us": null}),
                json!({"kind": "query", "outcome": "not_run", "sql": {"text": "select 'skipped too'"}}),
                json!({"kind": "parse", "outcome": "completed"}),
                json!({"kind": "bind", "outcome": "completed"}),
                json!({"kind": "execute", "outcome": "failed", "error": {"sqlstate": "22012"}, "sql": {"text": "select 1 / ($1::int + (random() * 0)::int)"}}),
                json!({"kind": "bind", "outcome": "failed", "error": {"sqlstate": "26000"}, "prepared": "not_seen"}),
            ])
        })?;
    }
    Ok(())
}

/// Sends messages and reads until so many ReadyForQuery have come.
fn stream_all(stream: &mut std::net::TcpStream, messages: &[Vec<u8>], ready: usize) -> Result<()> {
    exchange(stream, messages)?;
    for _ in 1..ready {
        super::answers(stream)?;
    }
    Ok(())
}

#[test]
fn parameters_are_recorded_when_asked_within_their_limit() -> Result<()> {
    for version in VERSIONS {
        audited(version)
            .argument("--audit-parameters=true")
            .argument("--audit-parameter-limit=64")
            .play(|stage| {
                let mut stream = log_in(stage)?;
                let number = 1_i32.to_be_bytes();
                let batch = [
                    parse("", "select $1::text, $2::int, $3::text", &[])?,
                    bind("", "", &[0, 1, 0], &[Some("grüße".as_bytes()), Some(&number), None])?,
                    execute("", 0)?,
                    bind("", "", &[0, 1, 0], &[Some(&[b'x'; 500]), Some(&number), None])?,
                    execute("", 0)?,
                    sync()?,
                ];
                exchange(&mut stream, &batch)?;
                leave(stream)?;
                let records = stage.pgusher.trail.statements()?;
                let values = json!({"count": 3, "values": ["grüße", {"base64": "AAAAAQ==", "bytes": 4}, null]});
                has(&records[1], &json!({"kind": "bind", "parameters": values}))?;
                has(&records[2], &json!({"kind": "execute", "parameters": values}))?;
                let cut = &records[4]["parameters"];
                ensure!(cut["count"] == 3, "{cut}");
                let first = &cut["values"][0];
                ensure!(first["bytes"] == 500, "{cut}");
                let text = first["text"].as_str().unwrap_or_default();
                ensure!(!text.is_empty() && text.len() <= 64 && text.chars().all(|letter| letter == 'x'), "{cut}");
                Ok(())
            })?;
    }
    Ok(())
}

#[test]
fn psql_binds_are_recorded_as_they_ran() -> Result<()> {
    audited(Version::V18)
        .argument("--audit-parameters=true")
        .play(|stage| {
            let mut psql = stage.client("psql")?;
            let mut running = Running::start(psql.args(["-XqAt"]))?;
            running.say("select $1::int + $2::int \\bind 1 2 \\g")?;
            running.say("select 'named' \\parse stmt")?;
            running.say("\\bind_named stmt \\g")?;
            let finished = running.finish()?;
            ensure!(finished.success()? == "3\nnamed", "{finished:?}");
            let records = stage.pgusher.trail.statements()?;
            let executes: Vec<&Value> = records.iter().filter(|record| record["kind"] == "execute").collect();
            ensure!(executes.len() == 2, "{records:#?}");
            has(executes[0], &json!({"sql": {"text": "select $1::int + $2::int "}, "parameters": {"count": 2, "values": ["1", "2"]}, "rows": 1}))?;
            has(executes[1], &json!({"statement": "stmt", "sql": {"text": "select 'named' "}, "rows": 1}))
        })
}
