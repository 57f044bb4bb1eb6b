//! Channel binding where TLS ends at pgusher: the table of docs/tls.md, cell by cell.

use std::fs;

use anyhow::{Context, Result, ensure};
use pgusher_tests::authority::LocalAuthority;
use pgusher_tests::cluster::{Cluster, VERSIONS, Version};
use pgusher_tests::stage::{Setup, Stage};
use serde_json::Value;

use crate::expect::{field_is, in_order};
use crate::tls::{from_files, log_in, minted, terminate};

/// What becomes of a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It succeeds.
    Works,
    /// pgusher stops it, and says why and what to do.
    Stopped,
    /// The client itself breaks off: it was told to insist on what is not offered.
    ClientInsists,
}
use Outcome::{ClientInsists, Stopped, Works};

/// The row on which binding survives termination.
const SHARED: &str = "the server's own certificate, TLS";

/// A row of the table: client and server legs, and the outcomes for channel_binding=disable, prefer, require.
struct Row {
    name: &'static str,
    settings: Option<String>,
    sslmode: &'static str,
    outcomes: [Outcome; 3],
}

fn table(authority: &LocalAuthority, server: &Cluster) -> Vec<Row> {
    let minted = minted(authority);
    let own = from_files(&server.socket_directory());
    let with = |source: &str, mode: &str| Some(format!("{source}server_sslmode = \"{mode}\""));
    vec![
        Row {
            name: "TLS passes through",
            settings: None,
            sslmode: "require",
            outcomes: [Works, Works, Works],
        },
        Row {
            name: SHARED,
            settings: with(&own, "require"),
            sslmode: "require",
            outcomes: [Works, Works, Works],
        },
        Row {
            name: "another certificate, TLS",
            settings: with(&minted, "require"),
            sslmode: "require",
            outcomes: [Works, Stopped, Stopped],
        },
        Row {
            name: "another certificate, plain",
            settings: with(&minted, "disable"),
            sslmode: "require",
            outcomes: [Works, Works, ClientInsists],
        },
        Row {
            name: "the server's own certificate, plain",
            settings: with(&own, "disable"),
            sslmode: "require",
            outcomes: [Works, Works, ClientInsists],
        },
        Row {
            name: "plain, TLS",
            settings: with(&minted, "require"),
            sslmode: "disable",
            outcomes: [Works, Works, ClientInsists],
        },
        Row {
            name: "plain, plain",
            settings: with(&minted, "disable"),
            sslmode: "disable",
            outcomes: [Works, Works, ClientInsists],
        },
    ]
}

/// Who logs in here, and nowhere else: other tests have logins fail at the same time.
const ROLE: &str = "app_bound";

/// Lines of the server's log, wherever it logs to, about logins of [`ROLE`] that failed.
fn failures(cluster: &Cluster) -> Result<Vec<String>> {
    let mut failures = Vec::new();
    for entry in fs::read_dir(cluster.socket_directory())? {
        let path = entry?.path();
        let kind = path.extension();
        if kind.is_some_and(|kind| kind == "log" || kind == "json") {
            // Other clients have names that are no text.
            let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
            let is_failure = |line: &&str| {
                let signs = ["authentication failed", "channel binding"];
                line.contains(ROLE) && signs.iter().any(|sign| line.contains(sign))
            };
            failures.extend(text.lines().filter(is_failure).map(str::to_owned));
        }
    }
    Ok(failures)
}

fn check(stage: &Stage, client: Version, parameters: &str, outcome: Outcome) -> Result<()> {
    let (before, failed) = (
        stage.pgusher.trail.sessions()?.len(),
        failures(stage.cluster)?,
    );
    let finished = log_in(stage, client, parameters)?;
    let sessions = stage.pgusher.trail.wait_for_sessions(before + 1)?;
    let record = sessions.get(before).context("a record")?;
    match outcome {
        Works => {
            ensure!(
                finished.success()?.starts_with(&format!("{ROLE} ")),
                "{finished:?}"
            );
        }
        Stopped => {
            let message = finished.failure()?;
            for part in [
                "channel binding cannot survive TLS termination",
                "own certificate and key",
                "channel_binding=disable",
            ] {
                ensure!(message.contains(part), "no {part:?} in {message}");
            }
            field_is(record, "/close", "channel_binding")?;
            field_is(record, "/login/outcome", "unanswered")?;
        }
        ClientInsists => {
            let message = finished.failure()?;
            ensure!(message.contains("channel binding"), "{message}");
            ensure!(record["close"] != "channel_binding", "{record}");
        }
    }
    // Nothing of it reaches the server as a failed login.
    let now = failures(stage.cluster)?;
    ensure!(now == failed, "{now:#?}");
    Ok(())
}

#[test]
fn every_cell_of_the_table_is_what_the_documentation_says() -> Result<()> {
    let authority = LocalAuthority::init()?;
    for server in VERSIONS {
        for row in table(&authority, Cluster::shared(server)?) {
            let mut setup = Setup::with(server);
            if let Some(settings) = &row.settings {
                setup = setup.file(terminate(settings));
            }
            setup.play(|stage| {
                for client in VERSIONS {
                    for (binding, outcome) in
                        ["disable", "prefer", "require"].iter().zip(row.outcomes)
                    {
                        let parameters = format!(
                            "user={ROLE} sslmode={} channel_binding={binding}",
                            row.sslmode
                        );
                        check(stage, client, &parameters, outcome).with_context(|| {
                            format!("{}: {client:?} to {server:?}, {binding}", row.name)
                        })?;
                        if row.name == SHARED && *binding != "disable" {
                            let sessions = stage.pgusher.trail.sessions()?;
                            let record = sessions.last().context("a record")?;
                            field_is(record, "/login/method", "scram_sha_256_plus")?;
                        }
                    }
                }
                Ok(())
            })?;
        }
    }
    Ok(())
}

#[test]
fn a_client_that_only_prefers_tls_gets_in_without_it_on_its_second_attempt() -> Result<()> {
    let authority = LocalAuthority::init()?;
    let setup = Setup::with(Version::V18).file(terminate(&minted(&authority)));
    setup.play(|stage| {
        let finished = log_in(stage, Version::V18, &format!("user={ROLE} sslmode=prefer"))?;
        let report = format!("{ROLE} TLSv1.3");
        ensure!(finished.success()? == report, "{finished:?}");
        let sessions = in_order(stage, 2)?;
        let [stopped, accepted] = sessions.as_slice() else {
            anyhow::bail!("{sessions:?}");
        };
        field_is(stopped, "/close", "channel_binding")?;
        field_is(accepted, "/encryption", "none")?;
        field_is(accepted, "/tls/client", Value::Null)?;
        field_is(accepted, "/login/outcome", "accepted")
    })
}
