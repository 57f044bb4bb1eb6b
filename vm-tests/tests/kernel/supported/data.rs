//! The data path: every byte of much data arrives, either way.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use pgusher_tests::cluster::Version;
use pgusher_tests::process::run;
use pgusher_tests::stage::Setup;
use vm_tests::facts;

/// So many rows of 1,025 bytes: 102.5 MB.
const ROWS: u32 = 100_000;

/// A row as the server makes it, and as the client does.
const SERVERS_ROW: &str = "i || repeat('0123456789abcdef', 64)";
const CLIENTS_ROWS: &str = "awk \"BEGIN { for (i = 0; i < 64; i++) s = s \\\"0123456789abcdef\\\"; \
                            for (n = 1; n <= ROWS; n++) print n s }\"";

/// Lets psql run a command and returns what `sha256sum` says of its output.
fn sum(mut psql: Command, sql: &str) -> Result<String> {
    psql.args([
        "-Xq",
        "-v",
        "ON_ERROR_STOP=1",
        "-o",
        "|sha256sum",
        "-c",
        sql,
    ]);
    Ok(run(&mut psql)?.success()?.to_owned())
}

#[test]
fn a_hundred_megabytes_of_copy_arrive_unchanged_either_way() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let cluster = stage.cluster;
        let out = format!("copy (select {SERVERS_ROW} from generate_series(1, {ROWS}) i) to stdout");
        let through = sum(stage.client("psql")?, &out)?;
        let direct = sum(cluster.outsider("psql")?, &out)?;
        ensure!(
            through == direct && through.len() > 64,
            "{through} arrived, {direct} was sent"
        );

        cluster.sql("create unlogged table copied (line text)")?;
        let rows = CLIENTS_ROWS.replace("ROWS", &ROWS.to_string());
        let into = stage.psql(&format!("\\copy copied from program '{rows}'"))?;
        run(&mut { into })?.success()?;
        let arrived = cluster.sql("select count(*), sum(hashtext(line)::bigint) from copied")?;
        let sent = cluster.sql(&format!(
            "select count(*), sum(hashtext({SERVERS_ROW})::bigint) from generate_series(1, {ROWS}) i"
        ))?;
        cluster.sql("drop table copied")?;
        ensure!(arrived == sent, "{arrived} arrived, {sent} was sent");

        let records = stage.pgusher.trail.wait_for_sessions(2)?;
        for way in ["bytes_to_client", "bytes_to_server"] {
            let counts = records.iter().filter_map(|record| record[way].as_u64());
            let most = counts.max().context("no counts")?;
            ensure!(most > 100_000_000, "{way} is {most} on record");
        }
        Ok(facts::tell("data path", "relay in userspace")?)
    })
}
