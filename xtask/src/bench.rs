//! `cargo xtask bench`: what pgusher costs, beside what it is compared with, on this machine, now: following messages
//! beside a memcpy ([`scan`]), then pgbench through pgusher beside pgbench without it, first without TLS, then connecting anew for each query, then with TLS.
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

use self::measurement::{Comparison, Round, Sample, transactions_per_second};
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

/// What pgbench does, besides selecting single rows.
struct Workload {
    /// `simple`, `extended` or `prepared`
    mode: &'static str,
    clients: u32,
    /// A connection for each query
    connects_each_time: bool,
}

impl Workload {
    const fn of(mode: &'static str, clients: u32) -> Self {
        Self {
            mode,
            clients,
            connects_each_time: false,
        }
    }
}

/// Three ways, and what is sent along all of them.
struct Table {
    legend: &'static str,
    /// The direct one first.
    ways: [Way; 3],
    names: [&'static str; 3],
    workloads: &'static [(&'static str, Workload)],
    /// Whether a COPY out comes last.
    copies: bool,
}

/// A connection for each query.
const RECONNECT: Workload = Workload {
    mode: "simple",
    clients: 1,
    connects_each_time: true,
};
/// How many policies about others are evaluated with each connection.
const POLICIES: u32 = 100;

const PLAIN: Table = Table {
    legend: "Without TLS. relay: through pgusher; statements: through pgusher with every statement on record",
    ways: [Way::Direct, Way::Proxied, Way::Audited],
    names: ["direct", "relay", "statements"],
    workloads: &[
        ("select simple x1", Workload::of("simple", 1)),
        ("select simple x8", Workload::of("simple", 8)),
        ("select extended x1", Workload::of("extended", 1)),
        ("select extended x8", Workload::of("extended", 8)),
        ("select prepared x1", Workload::of("prepared", 1)),
        ("select prepared x8", Workload::of("prepared", 8)),
    ],
    copies: true,
};

const NEW_CONNECTIONS: Table = Table {
    legend: "New connections. relay: through pgusher; policy: the same, enforcing a hundred policies",
    ways: [Way::Direct, Way::Proxied, Way::Policed],
    names: ["direct", "relay", "policy"],
    workloads: &[("connect, select x1", RECONNECT)],
    copies: false,
};

const ENCRYPTED: Table = Table {
    legend: "With TLS. passed: through pgusher to the server; ended: at pgusher, which speaks TLS with the server",
    ways: [Way::DirectTls, Way::PassedThrough, Way::Terminated],
    names: ["direct", "passed", "ended"],
    workloads: &[
        ("select prepared x1", Workload::of("prepared", 1)),
        ("select prepared x8", Workload::of("prepared", 8)),
        ("connect, select x1", RECONNECT),
    ],
    copies: true,
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
    playground.enforce_policies(&binary, POLICIES)?;
    playground.terminate_tls(&binary)?;
    fill_tables(&playground)?;
    let megabytes = copied_megabytes(&playground)?;

    println!(
        "\nMedians of {} rounds of {} s, each with the smallest and largest of any round; pgusher's CPU for each transaction\n\
         or MB",
        effort.rounds, effort.seconds
    );
    for table in [&PLAIN, &NEW_CONNECTIONS, &ENCRYPTED] {
        println!("\n{}\n{}", table.legend, Comparison::headline(table.names));
        for (name, workload) in table.workloads {
            let arguments = pgbench_arguments(workload, effort);
            let measure = |way| {
                let rate = pgbench(&playground, way, &arguments)?;
                Ok((rate, rate * f64::from(effort.seconds)))
            };
            let comparison = rounds(&playground, table, effort, measure)?;
            println!("{}", comparison.row(name, "tps"));
        }
        if !table.copies {
            continue;
        }
        let measure = |way| Ok((megabytes / copy_seconds(&playground, way)?, megabytes));
        let comparison = rounds(&playground, table, effort, measure)?;
        println!("{}", comparison.row("COPY out", "MB/s"));
    }
    Ok(())
}

/// Measures a table's ways in turn; which one goes first changes with every round. What measures returns a rate and how
/// much work was done.
fn rounds(
    playground: &Playground,
    table: &Table,
    effort: Effort,
    measure: impl Fn(Way) -> Result<(f64, f64)>,
) -> Result<Comparison> {
    let [direct, through @ ..] = table.ways;
    let redirected = || -> Result<Vec<u64>> {
        let counted = through.iter().map(|way| playground.redirected(*way));
        counted.collect()
    };
    ensure!(
        playground.redirected(direct)? == 0,
        "{direct:?} is not direct"
    );
    let sample = |way| {
        let before = playground.cpu_seconds(way)?;
        let (rate, work) = measure(way)?;
        let cpu = (playground.cpu_seconds(way)? - before) * 1e6 / work;
        Ok(Sample { rate, cpu })
    };
    let before = redirected()?;
    let mut comparison = Comparison::default();
    for number in 0..effort.rounds {
        comparison.add(round(number, table.ways, sample)?);
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

fn round(number: u32, ways: [Way; 3], measure: impl Fn(Way) -> Result<Sample>) -> Result<Round> {
    let nothing = Sample {
        rate: f64::NAN,
        cpu: f64::NAN,
    };
    let mut results = [nothing; 3];
    let mut turns = ways.into_iter().zip(&mut results).collect::<Vec<_>>();
    turns.rotate_left(number as usize % ways.len());
    for (way, result) in turns {
        *result = measure(way)?;
    }
    Ok(results)
}

fn fill_tables(playground: &Playground) -> Result<()> {
    println!("\nFilling pgbench's tables (scale {SCALE})");
    let mut client = playground.server.client("pgbench");
    client.args(["--initialize", "--quiet", "--scale", &SCALE.to_string()]);
    process::capture(&mut playground.send(Way::Direct, &client)?).map(drop)
}

fn pgbench_arguments(workload: &Workload, effort: Effort) -> Vec<String> {
    let mut arguments = vec![
        "--select-only".to_owned(),
        "--no-vacuum".to_owned(),
        format!("--protocol={}", workload.mode),
        format!("--client={}", workload.clients),
        format!("--jobs={}", workload.clients.min(2)),
        format!("--time={}", effort.seconds),
    ];
    if workload.connects_each_time {
        arguments.push("--connect".to_owned());
    }
    arguments
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
