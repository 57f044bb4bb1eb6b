//! What redaction leaves, compared with what the server's own normaliser leaves.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use pgusher_tests::cluster::{VERSIONS, Version};
use pgusher_tests::wire;
use serde_json::{Value, json};

use super::{audited, bind, exchange, execute, has, have, leave, log_in, parse, sync};

/// Statements that pg_stat_statements and pgusher normalise alike. Not among them: N'…', of which the server leaves the N; signed numbers, of which the
/// server takes the sign; TRUE, FALSE and NULL, which are no literals to the scanner; comments; lists of constants,
/// which version 18 squashes.
const CORPUS: &[&str] = &[
    "select 1",
    "select 'a', 2.5, .5, 1e3, 1.5e-7",
    "select 'it''s', E'it\\'s \\\\', e'\\n', U&'d\\0061ta'",
    "select $$dollar 'quoted'$$, $tag$with $$ inside$tag$, $é$x$é$",
    "select 'one'\n  'two'\n  'three'",
    "select E'one\\''\n  'two\\''",
    "select B'0101', X'1f', 'a'::text, '5'::int + 3",
    "select \"a'b\" from (select 7 as \"a'b\") q where \"a'b\" = 7",
    "select date '2020-01-01' + interval '1 day'",
    "select g from generate_series(1, 10) g where g between 2 and 5 order by g limit 3 offset 1",
    "select array['{1,2}'::int[]]",
    "select '{\"a\": 1}'::jsonb @> '{\"a\": 1}', '{\"a\": 1}'::jsonb ? 'a'",
    "select 5 operator(pg_catalog.+) 6",
    "select 1 as a$b$c, 'x' as \"U&\"",
    "select 'plain', cast('3' as int)",
    "select coalesce('grüße', 'ß') || 'tail'",
    "select 'semi;colon', '--no comment', '/* nor this */'",
    "select (array['a'])[1]",
];

#[test]
fn literals_are_found_where_the_server_finds_them() -> Result<()> {
    for version in VERSIONS {
        audited(version)
            .argument("--audit-redaction=literals-removed")
            .play(|stage| {
                let database = format!("normalised_{}", std::process::id());
                stage.cluster.sql(&format!("drop database if exists {database}"))?;
                stage.cluster.sql(&format!("create database {database} template template0"))?;
                let mut stream = stage.dial()?;
                let startup = wire::startup_with(&[("user", "postgres"), ("database", &database), ("options", "-c pg_stat_statements.track=top")])?;
                std::io::Write::write_all(&mut stream, &startup)?;
                wire::read_through(&mut stream, b'Z')?;
                for sql in CORPUS {
                    stream_ok(&mut stream, sql)?;
                }
                leave(stream)?;
                stage.cluster.sql("create extension if not exists pg_stat_statements")?;
                let found = stage.cluster.sql(&format!(
                    "select json_agg(query) from pg_stat_statements s join pg_database d on d.oid = s.dbid where datname = '{database}'"
                ))?;
                stage.cluster.sql(&format!("drop database {database}"))?;
                let theirs: BTreeSet<String> = serde_json::from_str(&found)?;
                let records = stage.pgusher.trail.statements()?;
                let ours: BTreeSet<String> = records
                    .iter()
                    .map(|record| Ok(record["sql"]["text"].as_str().context("a text")?.to_owned()))
                    .collect::<Result<_>>()?;
                ensure!(ours.len() > 10, "{ours:#?}");
                ensure!(
                    ours == theirs,
                    "only ours: {:#?}, only the server's: {:#?}",
                    ours.difference(&theirs).collect::<Vec<_>>(),
                    theirs.difference(&ours).collect::<Vec<_>>()
                );
                Ok(())
            })?;
    }
    Ok(())
}

fn stream_ok(stream: &mut std::net::TcpStream, sql: &str) -> Result<()> {
    let answers = exchange(stream, &[wire::query(sql)?])?;
    let error = answers.iter().find(|answer| answer.kind == b'E');
    ensure!(error.is_none(), "{sql}: {error:?}");
    Ok(())
}

#[test]
fn no_secret_reaches_a_redacted_trail_by_any_way() -> Result<()> {
    for redaction in ["literals-removed", "fingerprint-only"] {
        audited(Version::V18)
            .argument(format!("--audit-redaction={redaction}"))
            .play(|stage| {
                let mut stream = log_in(stage)?;
                let queries = [
                    "select 'sec3ret' -- sec3ret\n, E'\\'sec3ret', $$sec3ret$$ /* sec3ret */",
                    "select 'sec3ret'::int",
                    "create temp table t (a text primary key); insert into t values ('sec3ret'); insert into t values ('sec3ret')",
                    "do $$ begin raise exception 'sec3ret'; end $$",
                    "select 'sec3ret",
                    "set standard_conforming_strings = off",
                    "select 'a\\'sec3ret'",
                    "set standard_conforming_strings = on",
                    "set client_encoding = 'SJIS'",
                    "select '\u{ff7e}sec3ret'",
                    "select 'sec3ret'",
                ];
                for query in queries {
                    exchange(&mut stream, &[wire::query(query)?])?;
                }
                let batch = [
                    parse("", "select $1::text, 'sec3ret'", &[])?,
                    bind("", "", &[], &[Some(b"sec3ret")])?,
                    execute("", 0)?,
                    sync()?,
                ];
                exchange(&mut stream, &batch)?;
                leave(stream)?;
                let records = stage.pgusher.trail.statements()?;
                let all = serde_json::to_string(&records)?;
                ensure!(!all.contains("sec3ret"), "{all}");
                let withheld: Vec<&Value> = records.iter().map(|record| &record["sql"]["withheld"]).collect();
                let by_setting = json!(if redaction == "fingerprint-only" { Some("fingerprint_only") } else { None });
                let expected = [
                    &by_setting, &by_setting, &by_setting, &by_setting, &json!("not_scanned"),
                    // What any setting reads alike is not withheld.
                    &by_setting, &json!("escape_strings"), &by_setting,
                    &by_setting, &json!("encoding"), &by_setting,
                    &by_setting, &Value::Null, &by_setting,
                ];
                ensure!(withheld == expected, "{withheld:?}");
                has(&records[1], &json!({"error": {"sqlstate": "22P02", "message": null}}))
            })?;
    }
    Ok(())
}

#[test]
fn statements_that_differ_in_literals_share_a_fingerprint() -> Result<()> {
    audited(Version::V15)
        .argument("--audit-redaction=fingerprint-only")
        .play(|stage| {
            let mut stream = log_in(stage)?;
            for sql in [
                "select 1 where 1 in (1, 2)",
                "SELECT 'x' where 2 in (3)",
                "select 1, 2",
            ] {
                exchange(&mut stream, &[wire::query(sql)?])?;
            }
            leave(stream)?;
            let records = stage.pgusher.trail.statements()?;
            let fingerprints: Vec<&str> = records
                .iter()
                .filter_map(|record| record["fingerprint"].as_str())
                .collect();
            ensure!(fingerprints.len() == 3, "{records:?}");
            ensure!(
                fingerprints[0] == fingerprints[1] && fingerprints[1] != fingerprints[2],
                "{fingerprints:?}"
            );
            ensure!(
                records.iter().all(|record| record["sql"]["text"].is_null()),
                "{records:?}"
            );
            Ok(())
        })
}

#[test]
fn passwords_are_in_no_trail_and_nothing_else_is_missing() -> Result<()> {
    audited(Version::V15).play(|stage| {
        let role = format!("someone_{}", std::process::id());
        let mut stream = log_in(stage)?;
        let simple =
            |secret: &str| format!("create role {role} login password {secret}; drop role {role}");
        // As migrations do it.
        let within = |secret: &str| {
            format!(
                "do $$ begin create role {role} login password {secret}; drop role {role}; end $$"
            )
        };
        exchange(&mut stream, &[wire::query(&simple("'sec3ret'"))?])?;
        exchange(&mut stream, &[wire::query(&within("'sec3ret'"))?])?;
        leave(stream)?;
        let shown = |sql: String| json!({"outcome": "completed", "sql": {"text": sql}});
        have(
            &stage.pgusher.trail.statements()?,
            &[shown(simple("'[redacted]'")), shown(within("'[redacted]'"))],
        )
    })
}
