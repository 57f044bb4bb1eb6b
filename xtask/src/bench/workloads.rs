//! What is sent along a way, and how fast it went.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use super::Effort;
use super::pgbench::{Report, Script};
use super::sessions;
use super::ways::Way;
use crate::playground::{Lane, Playground};
use crate::{interrupt, process};

/// In pgbench's unit of 100,000 accounts, each of them about 10 MB of COPY text.
const SCALE: u32 = 10;
const COPY_OUT: &str = "copy pgbench_accounts to stdout";
/// Not logged: what the server writes is not what is measured.
const NEW_TABLE: &str = "create unlogged table loaded (like pgbench_accounts)";
const EMPTY: &str = "truncate loaded";
const COPY_IN: &str = "copy loaded from stdin";
/// A busy machine does not connect as many clients in time as another: what pgbench is given on top, one try after another.
const MORE_SECONDS: [u32; 3] = [0, 10, 60];
const VALUE_MEGABYTES: u32 = 100;

/// Something to do.
#[derive(Clone, Copy, Debug)]
pub(super) enum Work {
    Pgbench(Script),
    /// A table leaves the server.
    CopyOut,
    /// The same table goes there.
    CopyIn,
    /// One row of one column, larger than any buffer
    LargeValue,
    /// New sessions with the stand-in, one query each: what is left when the server does nothing for them
    Accept {
        clients: u32,
    },
}

/// What a unit of work is, and of how many units the processor time is told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Unit {
    pub(super) rate: &'static str,
    pub(super) cpu: &'static str,
    pub(super) batch: f64,
}

impl Work {
    /// Returns in what it is measured.
    pub(super) fn unit(self) -> Unit {
        match self {
            Self::Pgbench(_) => Unit {
                rate: "tps",
                cpu: "s/100k",
                batch: 100_000.0,
            },
            Self::Accept { .. } => Unit {
                rate: "1/s",
                cpu: "s/100k",
                batch: 100_000.0,
            },
            Self::CopyOut | Self::CopyIn | Self::LargeValue => Unit {
                rate: "MB/s",
                cpu: "s/GB",
                batch: 1_000.0,
            },
        }
    }
}

/// How fast something went.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    /// Units of work in a second
    pub(super) rate: f64,
    /// Units of work that were done
    pub(super) amount: f64,
}

/// A server with something in it.
pub(super) struct Stage {
    /// What a COPY of the accounts writes.
    accounts: PathBuf,
    megabytes: f64,
    effort: Effort,
}

impl Stage {
    /// Fills the server's tables, on a lane without a proxy.
    ///
    /// # Errors
    ///
    /// When pgbench or psql fail.
    pub(super) fn set(playground: &Playground, effort: Effort) -> Result<Self> {
        println!("\nFilling pgbench's tables (scale {SCALE})");
        let lane = playground.direct("filling")?;
        let mut client = lane.client("pgbench");
        client.args(["--initialize", "--quiet", "--scale", &SCALE.to_string()]);
        process::capture(&mut lane.send(&client))?;
        let mut client = lane.client("psql");
        client.args(["--quiet", "-c", NEW_TABLE]);
        process::capture(&mut lane.send(&client))?;

        let accounts = playground.folder().join("accounts.copy");
        let file = File::create(&accounts).context("cannot make a file for a COPY")?;
        let mut client = lane.client("psql");
        client.args(["--quiet", "-c", COPY_OUT]);
        run(lane.send(&client).stdout(file))?;
        let bytes = accounts
            .metadata()
            .context("the COPY's file is gone")?
            .len();
        let kilobytes = u32::try_from(bytes / 1_000).context("a COPY larger than expected")?;
        Ok(Self {
            accounts,
            megabytes: f64::from(kilobytes) / 1_000.0,
            effort,
        })
    }

    /// Returns how often everything is repeated.
    pub(super) fn rounds(&self) -> u32 {
        self.effort.rounds
    }

    /// Does some work along a way.
    ///
    /// # Errors
    ///
    /// When a client fails.
    pub(super) fn perform(&self, work: Work, way: Way, lane: &Lane) -> Result<Outcome> {
        let outcome = match work {
            Work::Pgbench(script) => self.pgbench(script, way, lane),
            Work::CopyOut => {
                let client = psql(lane, way, &["-c", COPY_OUT]);
                timed(&mut lane.send(&client), self.megabytes)
            }
            Work::CopyIn => {
                let accounts = File::open(&self.accounts).context("the COPY's file is gone")?;
                let client = psql(lane, way, &["-c", EMPTY, "-c", COPY_IN]);
                timed(lane.send(&client).stdin(accounts), self.megabytes)
            }
            Work::LargeValue => {
                let query = format!("select repeat('x', {VALUE_MEGABYTES}000000)");
                // Aligning a value would take longer than fetching it.
                let client = psql(lane, way, &["--no-align", "--tuples-only", "-c", &query]);
                timed(&mut lane.send(&client), f64::from(VALUE_MEGABYTES))
            }
            Work::Accept { clients } => self.accept(clients, lane),
        };
        interrupt::check()?;
        outcome
    }

    fn pgbench(&self, script: Script, way: Way, lane: &Lane) -> Result<Outcome> {
        for more in MORE_SECONDS {
            let mut client = lane.client("pgbench");
            client
                .args(script.arguments(self.effort.seconds + more))
                .env("PGSSLMODE", way.sslmode);
            let text = process::capture(&mut lane.send(&client))?;
            interrupt::check()?;
            if let Some(report) = Report::read(&text)? {
                return Ok(Outcome {
                    rate: report.rate,
                    amount: f64::from(report.transactions),
                });
            }
        }
        bail!("pgbench's clients take longer to connect than they are given")
    }

    fn accept(&self, clients: u32, lane: &Lane) -> Result<Outcome> {
        let seconds = self.effort.seconds;
        let client = sessions::one_after_another(lane.stand_in()?, clients, seconds)?;
        let text = process::capture(&mut lane.send(&client))?;
        let opened: u32 = text
            .trim()
            .parse()
            .with_context(|| format!("no number of sessions: {text}"))?;
        ensure!(opened > 0, "no session in {seconds} s");
        Ok(Outcome {
            rate: f64::from(opened) / f64::from(seconds),
            amount: f64::from(opened),
        })
    }
}

fn psql(lane: &Lane, way: Way, arguments: &[&str]) -> Command {
    let mut client = lane.client("psql");
    client
        .args(["--quiet", "-v", "ON_ERROR_STOP=1"])
        .args(arguments)
        .env("PGSSLMODE", way.sslmode);
    client
}

/// Runs psql, with connecting, for so many megabytes.
fn timed(command: &mut Command, megabytes: f64) -> Result<Outcome> {
    let begun = Instant::now();
    run(command.stdout(Stdio::null()))?;
    Ok(Outcome {
        rate: megabytes / begun.elapsed().as_secs_f64(),
        amount: megabytes,
    })
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().context("cannot start psql")?;
    interrupt::check()?;
    ensure!(status.success(), "psql failed ({status})");
    Ok(())
}
