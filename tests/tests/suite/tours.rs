//! Every driver's tour, directly and through pgusher: the client finds the same, the server logs the same, and where
//! pgusher can read the session, it has recorded exactly the statements that the server logged.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use pgusher_tests::authority::LocalAuthority;
use pgusher_tests::cluster::{Cluster, LOGGED_ROLE, VERSIONS, Version};
use pgusher_tests::stage::{Setup, Stage};
use pgusher_tests::statement_log::{LoggedSession, same_entries, sessions_of};
use pgusher_tests::tours::{Driver, Encryption, Ground, Taken, Tour};
use serde_json::Value;

use crate::expect::{accepted_session, at, field_is};
use crate::log_comparison::same_statements;
use crate::tls::{minted, terminate};

/// How a client's session comes to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// In clear, read by pgusher.
    Plain,
    /// In TLS between client and server, which pgusher cannot read.
    Passthrough,
    /// In TLS that ends at pgusher, and in TLS of its own to the server.
    Terminated,
}

impl Way {
    /// What the session's record says of its encryption.
    fn encryption(self) -> &'static str {
        match self {
            Self::Plain => "none",
            Self::Passthrough => "tls",
            Self::Terminated => "tls_terminated",
        }
    }
}

const WAYS: [Way; 3] = [Way::Plain, Way::Passthrough, Way::Terminated];

#[test]
fn psql_does_the_same_through_pgusher() -> Result<()> {
    compare(Driver::Psql)
}

#[test]
fn libpq_does_the_same_through_pgusher() -> Result<()> {
    compare(Driver::Libpq)
}

#[test]
fn the_libpq_on_tour_is_of_the_servers_version() -> Result<()> {
    for (version, own) in [(Version::V15, "libpq=15"), (Version::V18, "libpq=18")] {
        let tour = Tour::prepare(Driver::Libpq, Cluster::shared(version)?)?;
        let taken = tour.take(Ground::Direct, Encryption::Off)?;
        ensure!(taken.facts.lines().next() == Some(own), "{}", taken.facts);
    }
    Ok(())
}

#[test]
fn psycopg_does_the_same_through_pgusher() -> Result<()> {
    compare(Driver::Psycopg)
}

#[test]
fn asyncpg_does_the_same_through_pgusher() -> Result<()> {
    compare(Driver::Asyncpg)
}

#[test]
fn node_postgres_does_the_same_through_pgusher() -> Result<()> {
    compare(Driver::NodePg)
}

#[test]
fn pgjdbc_does_the_same_through_pgusher() -> Result<()> {
    compare(Driver::Jdbc)
}

#[test]
fn tokio_postgres_does_the_same_through_pgusher() -> Result<()> {
    compare(Driver::TokioPostgres)
}

#[test]
fn lib_pq_does_the_same_through_pgusher() -> Result<()> {
    compare(Driver::LibPq)
}

#[test]
fn pgx_does_the_same_through_pgusher() -> Result<()> {
    compare(Driver::Pgx)
}

fn compare(driver: Driver) -> Result<()> {
    let authority = LocalAuthority::init()?;
    let minted_by = authority.for_clients_of(Cluster::shared(Version::V15)?)?;
    for version in VERSIONS {
        let cluster = Cluster::shared(version)?;
        let servers_authority = cluster.socket_directory().join("ca.crt");
        let tour = Tour::prepare(driver, cluster)?;
        let direct = tour.take(Ground::Direct, Encryption::Off)?;
        let logged = sessions_of(cluster, &direct.application)?;
        for way in WAYS {
            let (setup, encryption) = match way {
                Way::Plain => (Setup::with(version), Encryption::Off),
                Way::Passthrough => (
                    Setup::with(version),
                    Encryption::VerifyFull(&servers_authority),
                ),
                Way::Terminated => (
                    Setup::with(version).file(terminate(&minted(&authority))),
                    Encryption::VerifyFull(Path::new(&minted_by)),
                ),
            };
            let setup = setup
                .argument("--audit=statements")
                .argument("--audit-parameters=true");
            setup.play(|stage| {
                let through = tour.take(Ground::Intercepted(&stage.cgroup), encryption)?;
                same_facts(&direct, &through).with_context(|| format!("{way:?}"))?;
                let logged_through = sessions_of(cluster, &through.application)?;
                same_entries(&logged, &logged_through).with_context(|| format!("{way:?}"))?;
                check_trail(stage, way, &logged_through).with_context(|| format!("{way:?}"))
            })?;
        }
    }
    Ok(())
}

fn same_facts(direct: &Taken, through: &Taken) -> Result<()> {
    let pairs = direct.facts.lines().zip(through.facts.lines());
    for (direct, through) in pairs {
        ensure!(direct == through, "directly: {direct}\nthrough: {through}");
    }
    ensure!(
        direct.facts == through.facts,
        "directly:\n{}\nthrough:\n{}",
        direct.facts,
        through.facts
    );
    Ok(())
}

/// Every session the server logged is one on record with its statements, and no other is.
fn check_trail(stage: &Stage, way: Way, logged: &[LoggedSession]) -> Result<()> {
    // Cancel requests are among them, and how many there are only the client knows.
    stage.settle()?;
    let records = stage.pgusher.trail.sessions()?;
    if way == Way::Passthrough {
        // Nobody can tell one that cancels from another, unless it cancels in clear.
        let hidden = records.iter().filter(|record| record["kind"] != "cancel");
        let hidden: Vec<&Value> = hidden.collect();
        ensure!(hidden.len() >= logged.len(), "{records:?}");
        return hidden
            .iter()
            .try_for_each(|record| field_is(record, "/encryption", way.encryption()));
    }
    let of_kind = |kind: &str| -> Vec<&Value> {
        let chosen = records.iter().filter(|record| record["kind"] == kind);
        chosen.collect()
    };
    let (sessions, cancels) = (of_kind("session"), of_kind("cancel"));
    ensure!(
        sessions.len() + cancels.len() == records.len(),
        "{records:?}"
    );
    let mut on_record = backends(&sessions)?;
    let mut in_log: Vec<u64> = logged.iter().map(|session| session.pid).collect();
    on_record.sort_unstable();
    in_log.sort_unstable();
    ensure!(
        on_record == in_log,
        "recorded {on_record:?}, logged {in_log:?}"
    );
    for record in &sessions {
        accepted_session(record, LOGGED_ROLE)?;
        field_is(record, "/encryption", way.encryption())?;
    }
    check_statements(stage, &sessions, logged)
}

/// Each session's statements are those the server logged, numbered without a gap.
fn check_statements(stage: &Stage, sessions: &[&Value], logged: &[LoggedSession]) -> Result<()> {
    let all = stage.pgusher.trail.records()?;
    for session in sessions {
        let own = all
            .iter()
            .filter(|record| record["session"] == session["session"]);
        let statements: Vec<&Value> = own.filter(|record| record["type"] == "statement").collect();
        for (expected, record) in (1_u64..).zip(&statements) {
            field_is(record, "/seq", expected)?;
        }
        let backend = at(session, "/login/backend_pid").as_u64();
        let logged = logged
            .iter()
            .find(|logged| Some(logged.pid) == backend)
            .with_context(|| format!("no log of {session}"))?;
        same_statements(&statements, logged)?;
    }
    Ok(())
}

fn backends(sessions: &[&Value]) -> Result<Vec<u64>> {
    let pids = sessions.iter().map(|record| {
        let pid = record.pointer("/login/backend_pid").and_then(Value::as_u64);
        pid.with_context(|| format!("no backend in {record}"))
    });
    pids.collect()
}
