//! The data path: every byte of much data arrives, either way.

use anyhow::{Context, Result, ensure};
use pgusher_tests::cluster::Version;
use pgusher_tests::process::run;
use pgusher_tests::stage::Setup;
use vm_tests::facts;

/// What is copied: rows of a number and 1,024 digits, 103 MB, as the server makes them and as the client does.
const SERVERS_ROWS: &str =
    "select i || repeat('0123456789abcdef', 64) from generate_series(1, 100000) i";
const CLIENTS_ROWS: &str = "awk \"BEGIN { for (i = 0; i < 64; i++) s = s \\\"0123456789abcdef\\\"; \
                            for (n = 1; n <= 100000; n++) print n s }\"";
/// Their SHA-256, as `sha256sum` prints it.
const SUM: &str = "affbd70517305b56062d0f0056180c8095d866e30c2a7b411b72ef5d91e4362e";
/// Their number and the sum of PostgreSQL's hashes of them.
const COUNT_AND_HASHES: &str = "100000|-1040073635338";

#[test]
fn a_hundred_megabytes_of_copy_arrive_unchanged_either_way() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let cluster = stage.cluster;
        let mut out = stage.client("psql")?;
        let copy = format!("copy ({SERVERS_ROWS}) to stdout");
        out.args([
            "-Xq",
            "-v",
            "ON_ERROR_STOP=1",
            "-o",
            "|sha256sum",
            "-c",
            &copy,
        ]);
        let finished = run(&mut out)?;
        ensure!(finished.success()?.starts_with(SUM), "{finished:?}");

        cluster.sql("create unlogged table copied (line text)")?;
        let copy = format!("\\copy copied from program '{CLIENTS_ROWS}'");
        run(&mut stage.psql(&copy)?)?.success()?;
        let arrived = cluster.sql("select count(*), sum(hashtext(line)::bigint) from copied")?;
        cluster.sql("drop table copied")?;
        ensure!(arrived == COUNT_AND_HASHES, "{arrived} arrived");

        let records = stage.pgusher.trail.wait_for_sessions(2)?;
        for way in ["bytes_to_client", "bytes_to_server"] {
            let counts = records.iter().filter_map(|record| record[way].as_u64());
            let most = counts.max().context("no counts")?;
            ensure!(most > 100_000_000, "{way} is {most} on record");
        }
        Ok(facts::tell("data path: relay", "yes")?)
    })
}

#[test]
fn the_fast_path_is_taken_where_the_kernel_has_one() -> Result<()> {
    for mode in ["auto", "full"] {
        let setup = Setup::with(Version::V15).argument(format!("--fast-path={mode}"));
        setup.play(|stage| {
            let mut client = stage.client("psql")?;
            client.args(["-XqAt", "-v", "ON_ERROR_STOP=1"]);
            for number in 0..20 {
                client.args(["-c", &format!("select {number}")]);
            }
            run(&mut client)?.success()?;
            let status = stage.pgusher.status()?;
            let fast_path = status.get("fast_path").context("no fast path")?;
            let fact = if fast_path["state"] == "on" {
                ensure!(fast_path["redirected"] != 0, "{fast_path}");
                "yes"
            } else if fast_path["reason"].to_string().contains("FIONREAD") {
                "no: FIONREAD would tell"
            } else {
                "no: the kernel refuses its programs"
            };
            Ok(facts::tell(&format!("data path: fast, {mode}"), fact)?)
        })?;
    }
    Ok(())
}
