//! `cargo xtask bench`: what pgusher costs, beside what it is compared with, on this machine, now.
//!
//! Owns the order: following messages beside a memcpy ([`scan`]), the tables ([`tables`]), memory ([`idle`]). All ways of a
//! table take turns within every round ([`rounds`]); the ratio is taken within a round and only then summed up. Numbers of
//! two runs are not comparable.

mod document;
mod grid;
mod idle;
mod machine;
mod measurement;
mod pgbench;
mod plot;
mod report;
mod rounds;
mod scan;
pub(crate) mod sessions;
mod tables;
mod ways;
mod workloads;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;

use self::document::Run;
use self::grid::Grid;
use self::report::{Findings, Line};
use self::rounds::OpenWay;
use self::tables::{ALL, Choice, PLAIN, Table, Workload};
use self::workloads::Stage;
use crate::playground::{Place, Playground, Product, build_then_become_root, descriptors};
use crate::setup;

/// What to measure.
#[derive(Args)]
pub(crate) struct Options {
    /// Fewer workloads in shorter rounds: within ten minutes, more with other relays
    #[arg(long)]
    quick: bool,
    /// Other relays to compare with, in the table without TLS: Debian's, unpacked below target
    #[arg(long, value_delimiter = ',', value_name = "RELAY")]
    against: Vec<Product>,
    /// Put the server behind a pair of virtual devices; the table without TLS alone
    #[arg(long)]
    remote: bool,
    /// Only what has this in its name, `TABLE: WORKLOAD`, such as "tls: " or "prepared x8"
    #[arg(long, value_name = "FILTER")]
    only: Option<String>,
    /// Write what comes out into docs/performance.md and docs/tls.md, with a plot
    #[arg(long, conflicts_with = "only")]
    write: bool,
    /// The binary that the unprivileged half of this command has built
    #[arg(long, hide = true)]
    binary: Option<PathBuf>,
}

impl Options {
    fn choice(&self) -> Choice {
        let mut against = Vec::new();
        for product in &self.against {
            if !against.contains(product) {
                against.push(*product);
            }
        }
        Choice {
            quick: self.quick,
            place: if self.remote {
                Place::Remote
            } else {
                Place::SameHost
            },
            against,
            only: self.only.clone(),
        }
    }
}

/// How long and how often each workload runs.
#[derive(Clone, Copy)]
struct Effort {
    rounds: u32,
    seconds: u32,
}

const THOROUGH: Effort = Effort {
    rounds: 5,
    seconds: 2,
};
const QUICK: Effort = Effort {
    rounds: 5,
    seconds: 1,
};

/// Measures what was asked for, prints what came out, and writes it where that was asked for.
///
/// # Errors
///
/// When something does not start, a client fails, or a proxy did not see the connections that it was measured with.
pub(crate) fn run(options: Options) -> Result<()> {
    let choice = options.choice();
    let here = choice.place == Place::SameHost;
    let wants_scan = here && choice.includes("scan", "messages");
    let wants_idle = here && choice.includes(idle::NAME, "sessions");
    let nothing = ALL.iter().all(|table| choice.workloads(table).is_empty());
    ensure!(
        wants_scan || wants_idle || !nothing,
        "nothing has that in its name; the names are\n{}",
        names()
    );
    if options.binary.is_none() {
        if wants_scan {
            scan::measure()?;
        }
        if !choice.against.is_empty() {
            setup::prepare_relays()?;
        }
    }
    if nothing && !wants_idle {
        return Ok(());
    }
    let binary = build_then_become_root(options.binary)?;
    descriptors::raise()?;
    let run = measure(&choice, binary, wants_idle)?;
    if options.write {
        run.write()?;
    }
    Ok(())
}

fn measure(choice: &Choice, binary: PathBuf, wants_idle: bool) -> Result<Run<'_>> {
    let load = machine::load()?;
    let effort = if choice.quick { QUICK } else { THOROUGH };
    let mut playground = Playground::open(binary, choice.place)?;
    playground.start_stand_in()?;
    ways::furnish(&playground)?;
    let machine = machine::describe(&playground, &choice.against, &load)?;
    println!("\nOn {machine}");

    let mut idle = None;
    if wants_idle {
        let grid = idle::measure(&playground, &choice.ways(&PLAIN))?;
        show("Idle sessions: the proxy's resident memory", &grid);
        idle = Some(grid);
    }
    let mut findings = Vec::new();
    if ALL.iter().any(|table| !choice.workloads(table).is_empty()) {
        let stage = Stage::set(&playground, effort)?;
        println!(
            "Medians of {} rounds of {} s (longer with many clients), each with the smallest and largest of any round",
            effort.rounds, effort.seconds
        );
        for table in ALL {
            let workloads = choice.workloads(table);
            if workloads.is_empty() {
                continue;
            }
            let ways = choice
                .ways(table)
                .into_iter()
                .map(|way| {
                    let lane = ways::open(&playground, way)?;
                    Ok(OpenWay { way, lane })
                })
                .collect::<Result<Vec<_>>>()?;
            let found = fill(table, &stage, &ways, &workloads)?;
            show(table.legend, &found.grid());
            findings.push(found);
        }
    }
    Ok(Run {
        choice,
        effort,
        machine,
        findings,
        idle,
    })
}

fn fill(
    table: &'static Table,
    stage: &Stage,
    ways: &[OpenWay],
    workloads: &[Workload],
) -> Result<Findings<'static>> {
    let mut lines = Vec::new();
    for workload in workloads {
        eprintln!("  {}: {}", table.name, workload.name);
        lines.push(Line {
            name: workload.name,
            unit: workload.work.unit(),
            comparison: rounds::compare(stage, ways, *workload)?,
        });
    }
    Ok(Findings {
        table,
        ways: ways.iter().map(|open| open.way).collect(),
        lines,
    })
}

fn show(legend: &str, grid: &Grid) {
    println!("\n{legend}\n{}", grid.aligned());
}

/// Returns every name that `--only` knows, one a line.
fn names() -> String {
    let mut names = vec!["scan: messages".to_owned()];
    for table in ALL {
        names.extend(table.names());
    }
    names.push(format!("{}: sessions", idle::NAME));
    names.join("\n")
}
