//! `cargo xtask bench`: what pgusher costs, beside what it is compared with, on this machine, now: following messages
//! beside a memcpy ([`scan`]), then pgbench through pgusher beside pgbench without it.
//!
//! Owns the workloads and their order. All ways take turns within every round, so that what the machine does meanwhile
//! hits all; the ratio is taken within a round and only then summed up. Numbers of two runs are not comparable.

mod measurement;
mod scan;

use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use self::measurement::{Comparison, Round, transactions_per_second};
use crate::playground::{Playground, Way, build_then_become_root};
use crate::{interrupt, process};

/// In pgbench's unit of 100,000 accounts, each of them about 10 MB of COPY text.
const SCALE: u32 = 10;
const COPY_STATEMENT: &str = "copy pgbench_accounts to stdout";

/// How long and how often each workload runs.
#[derive(Clone, Copy)]
struct Effort {
    rounds: u32,
    seconds: u32,
}

const THOROUGH: Effort = Effort {
    rounds: 7,
    seconds: 5,
};
const QUICK: Effort = Effort {
    rounds: 3,
    seconds: 1,
};

/// Runs all workloads and prints what came out; `binary` is set when this is the half that is root.
///
/// # Errors
///
/// When something does not start, pgbench fails, or pgusher did not see the connections that it was measured with.
pub(crate) fn compare(quick: bool, binary: Option<PathBuf>) -> Result<()> {
    let arguments: &[&str] = if quick {
        &["bench", "--quick"]
    } else {
        &["bench"]
    };
    if binary.is_none() {
        scan::measure()?;
    }
    let binary = build_then_become_root(arguments, binary)?;
    let effort = if quick { QUICK } else { THOROUGH };
    let mut playground = Playground::open(&binary)?;
    playground.audit_statements(&binary)?;
    fill_tables(&playground)?;

    println!(
        "\nMedians of {} rounds of {} s, each with the smallest and largest of any round. relay: through pgusher; statements: \n\
         through pgusher with every statement on record",
        effort.rounds, effort.seconds
    );
    println!("{}", Comparison::HEADLINE);
    for mode in ["simple", "extended", "prepared"] {
        for clients in [1, 8] {
            let name = format!("select {mode} x{clients}");
            let measure = |way| pgbench(&playground, way, &workload(mode, clients, effort));
            println!(
                "{}",
                rounds(&playground, effort, measure)?.row(&name, "tps")
            );
        }
    }
    let megabytes = copied_megabytes(&playground)?;
    let measure = |way| Ok(megabytes / copy_seconds(&playground, way)?);
    println!(
        "{}",
        rounds(&playground, effort, measure)?.row("COPY out", "MB/s")
    );
    Ok(())
}

/// Measures all ways in turn; which one goes first changes with every round.
fn rounds(
    playground: &Playground,
    effort: Effort,
    measure: impl Fn(Way) -> Result<f64>,
) -> Result<Comparison> {
    let redirected = || -> Result<[u64; 2]> {
        Ok([
            playground.redirected(Way::Proxied)?,
            playground.redirected(Way::Audited)?,
        ])
    };
    let before = redirected()?;
    let mut comparison = Comparison::default();
    for number in 0..effort.rounds {
        comparison.add(round(number, &measure)?);
    }
    for (before, after) in before.into_iter().zip(redirected()?) {
        ensure!(
            after - before >= u64::from(effort.rounds),
            "pgusher saw {} connects in {} rounds: the numbers would mean nothing",
            after - before,
            effort.rounds
        );
    }
    Ok(comparison)
}

fn round(number: u32, measure: impl Fn(Way) -> Result<f64>) -> Result<Round> {
    let mut round = Round {
        direct: f64::NAN,
        proxied: f64::NAN,
        audited: f64::NAN,
    };
    let ways = [Way::Direct, Way::Proxied, Way::Audited];
    let turns = ways.iter().cycle().skip(number as usize % ways.len());
    for way in turns.take(ways.len()).copied() {
        let result = match way {
            Way::Direct => &mut round.direct,
            Way::Proxied => &mut round.proxied,
            Way::Audited => &mut round.audited,
        };
        *result = measure(way)?;
    }
    Ok(round)
}

fn fill_tables(playground: &Playground) -> Result<()> {
    println!("\nFilling pgbench's tables (scale {SCALE})");
    let mut client = playground.server.client("pgbench");
    client.args(["--initialize", "--quiet", "--scale", &SCALE.to_string()]);
    process::capture(&mut playground.send(Way::Direct, &client)?).map(drop)
}

fn workload(mode: &str, clients: u32, effort: Effort) -> Vec<String> {
    vec![
        "--select-only".to_owned(),
        "--no-vacuum".to_owned(),
        format!("--protocol={mode}"),
        format!("--client={clients}"),
        format!("--jobs={}", clients.min(2)),
        format!("--time={}", effort.seconds),
    ]
}

fn pgbench(playground: &Playground, way: Way, workload: &[String]) -> Result<f64> {
    let mut client = playground.server.client("pgbench");
    client.args(workload);
    let report = process::capture(&mut playground.send(way, &client)?)?;
    interrupt::check()?;
    transactions_per_second(&report).with_context(|| format!("pgbench tells no tps:\n{report}"))
}

fn copy_client(playground: &Playground) -> Command {
    let mut client = playground.server.client("psql");
    client.args(["--quiet", "-c", COPY_STATEMENT]);
    client
}

/// Returns how long a COPY of the accounts takes, with connecting.
fn copy_seconds(playground: &Playground, way: Way) -> Result<f64> {
    let mut command = playground.send(way, &copy_client(playground))?;
    let begun = Instant::now();
    let status = command
        .stdout(Stdio::null())
        .status()
        .context("cannot start psql")?;
    let took = begun.elapsed().as_secs_f64();
    interrupt::check()?;
    ensure!(status.success(), "psql failed ({status})");
    Ok(took)
}

/// Counts what such a COPY writes, outside of any measurement.
fn copied_megabytes(playground: &Playground) -> Result<f64> {
    let mut child = playground
        .send(Way::Direct, &copy_client(playground))?
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start psql")?;
    let mut output = child.stdout.take().context("psql has no output")?;
    let bytes = io::copy(&mut output, &mut io::sink()).context("cannot read from psql")?;
    let status = child.wait().context("cannot wait for psql")?;
    ensure!(status.success(), "psql failed ({status})");
    let kilobytes = u32::try_from(bytes / 1_000).context("a COPY larger than expected")?;
    Ok(f64::from(kilobytes) / 1_000.0)
}
