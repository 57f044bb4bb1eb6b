//! The transcripts: what the server answers directly, byte for byte, is what it answers through pgusher, however the
//! client's bytes are cut on their way.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail, ensure};
use pgusher_tests::cluster::{Tls, Version};
use pgusher_tests::stage::{Setup, Stage};
use pgusher_tests::transcript::comparison::{Comparison, Cutting};
use pgusher_tests::transcript::fixture::{Case, corpus};

/// What the fixtures find in the servers.
const SETUP: &str = include_str!("../../transcripts/setup.sql");
/// The fixtures and what explains them.
const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/transcripts");
/// Names the only cases to play, by a part of their names.
const FILTER: &str = "PGUSHER_TRANSCRIPTS";
/// The seed of a run to repeat.
const SEED: &str = "PGUSHER_TRANSCRIPTS_SEED";
/// Cases played at the same time.
const PLAYERS: usize = 3;
/// So many differences are enough to look at.
const MAX_FAILURES: usize = 20;
/// The least the corpus must hold.
const MIN_CASES: usize = 150;

#[test]
fn postgresql_15_answers_through_pgusher_as_it_does_directly() -> Result<()> {
    of_version(Version::V15)
}

#[test]
fn postgresql_18_answers_through_pgusher_as_it_does_directly() -> Result<()> {
    of_version(Version::V18)
}

#[test]
fn the_corpus_and_its_table_of_rules_name_the_same_cases() -> Result<()> {
    let cases = corpus(Path::new(DIRECTORY))?;
    ensure!(cases.len() >= MIN_CASES, "only {} cases", cases.len());
    let readme = fs::read_to_string(format!("{DIRECTORY}/README.md"))?;
    let table = readme
        .split_once("## Rules and cases")
        .context("no table")?
        .1;
    let named: Vec<&str> = table.split('`').skip(1).step_by(2).collect();
    for case in &cases {
        ensure!(
            named.contains(&case.name.as_str()),
            "no rule names {}",
            case.name
        );
    }
    for name in named {
        let exists = match name.split_once("::") {
            Some((module, test)) => is_test(module, test)?,
            None => cases.iter().any(|case| case.name == name),
        };
        ensure!(exists, "`{name}` does not exist");
    }
    Ok(())
}

/// Whether a module of this program has such a test.
fn is_test(module: &str, test: &str) -> Result<bool> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/suite");
    let source = fs::read_to_string(format!("{directory}/{module}.rs"))?;
    Ok(source.contains(&format!("fn {test}()")))
}

/// Plays every case for `version`: whole with the audit trail as it is by default, and cut with statements on it.
fn of_version(version: Version) -> Result<()> {
    let seed = seed()?;
    let cuttings = [
        (Cutting::Whole, "sessions"),
        (Cutting::Cut { seed }, "statements"),
    ];
    for tls in [Tls::On, Tls::Off] {
        let cases = chosen(version, tls)?;
        for (cutting, audit) in cuttings {
            if cases.is_empty() {
                continue;
            }
            Setup::with(version)
                .tls(tls)
                .argument(format!("--audit={audit}"))
                .play(|stage| {
                    set_up(stage)?;
                    all(&cases, stage, cutting)?;
                    only_violations_that_end_a_session(stage)
                })
                .with_context(|| format!("PostgreSQL {version:?}, tls {tls:?}, audit {audit}"))?;
        }
    }
    Ok(())
}

/// Creates what the fixtures need, where that has not happened yet.
fn set_up(stage: &Stage) -> Result<()> {
    if stage
        .cluster
        .sql("select to_regclass('transcript_items')")?
        .is_empty()
    {
        // One by one: databases are not created in a transaction.
        for statement in SETUP.split_inclusive(";\n") {
            stage.cluster.sql(statement)?;
        }
    }
    Ok(())
}

/// Checks that what pgusher took for a violation of the protocol was one to the server as well, which then ends the
/// session: after a violation no statement is on record, so that a wrong one would hide what follows.
fn only_violations_that_end_a_session(stage: &Stage) -> Result<()> {
    stage.settle()?;
    let records = stage.pgusher.trail.records()?;
    let of_type = |wanted: &'static str| records.iter().filter(move |it| it["type"] == wanted);
    let ended_by_server: BTreeSet<&str> = of_type("session")
        .filter(|it| it["close"] == "server_closed" || it["close"] == "server_reset")
        .filter_map(|it| it["session"].as_str())
        .collect();
    for violation in of_type("protocol_violation") {
        let session = violation["session"].as_str().unwrap_or_default();
        ensure!(
            violation["side"] == "client" && ended_by_server.contains(session),
            "the server went on after {violation}"
        );
    }
    Ok(())
}

fn seed() -> Result<u64> {
    if let Ok(given) = env::var(SEED) {
        return given
            .parse()
            .with_context(|| format!("{SEED} must be a number"));
    }
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())
}

fn chosen(version: Version, tls: Tls) -> Result<Vec<Case>> {
    let filter = env::var(FILTER).unwrap_or_default();
    let mut cases = corpus(Path::new(DIRECTORY))?;
    cases.retain(|case| {
        case.only.is_none_or(|only| only == version)
            && case.without_tls == (tls == Tls::Off)
            && case.name.contains(&filter)
    });
    Ok(cases)
}

/// Compares every case, several at a time, and shows all that differ.
fn all(cases: &[Case], stage: &Stage, cutting: Cutting) -> Result<()> {
    let listeners = stage.pgusher.listeners()?;
    let listener = listeners.into_iter().find(SocketAddr::is_ipv4);
    let listener = listener.context("no IPv4 listener")?;
    // The dialer lives as long as the thread that starts it.
    stage.dialer()?;
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    let play = || {
        let comparison = Comparison::on(stage, listener, cutting);
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let Err(error) = comparison.of(case) else {
                continue;
            };
            let Ok(mut failures) = failures.lock() else {
                return;
            };
            failures.push(format!("{} ({}): {error:#}", case.name, case.place));
            if failures.len() >= MAX_FAILURES {
                return next.store(cases.len(), Ordering::Relaxed);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..PLAYERS {
            scope.spawn(play);
        }
    });
    let failures = failures
        .into_inner()
        .map_err(|_| anyhow!("a player panicked"))?;
    if !failures.is_empty() {
        bail!(
            "{} of {} cases:\n{}",
            failures.len(),
            cases.len(),
            failures.join("\n")
        );
    }
    Ok(())
}
