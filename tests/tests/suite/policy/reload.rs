//! Policies that change while sessions live.

use std::io::Write as _;
use std::net::TcpStream;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use pgusher_tests::cluster::{VERSIONS, Version};
use pgusher_tests::condition::{Seen, wait_until};
use pgusher_tests::process::Running;
use pgusher_tests::stage::{Setup, Stage};
use pgusher_tests::wire;

use super::{ALL, is_told, psql, works};
use crate::expect::{at, field_is};

/// Denies one database.
const NOT_TEMPLATE1: &str = "permit (principal, action, resource);\n\
    @id(\"closed\") @deny_message(\"closed for maintenance\")\n\
    forbid (principal, action, resource == Database::\"{server}/template1\");";
/// Permits sessions that can be seen into, alone.
const NO_HIDDEN: &str = "permit (principal, action, resource is Database);";

/// Starts psql with a statement, and waits until the server runs it.
fn running(stage: &Stage, connection: &str, sql: &str) -> Result<Running> {
    let sql = format!("{sql} /* {} {connection} */", stage.cgroup.name()?);
    let mut command = stage.psql_to(connection, &sql)?;
    let client = Running::start(command.args(["-o", "/dev/null"]))?;
    let runs =
        format!("select count(*) from pg_stat_activity where state = 'active' and query = '{sql}'");
    stage.cluster.wait_for_rows(&runs, "1")?;
    Ok(client)
}

#[test]
fn a_session_that_is_no_longer_permitted_ends_in_words_and_others_go_on() -> Result<()> {
    for version in VERSIONS {
        Setup::with(version).policy("enforce", ALL).play(|stage| {
            let mut stays = stage.dial()?;
            wire::log_in(&mut stays, "postgres")?;
            let ends = running(stage, "dbname=template1 sslmode=disable", "select pg_sleep(600)")?;
            let reloaded = stage.reload_policy(NOT_TEMPLATE1)?;
            let reloaded: serde_json::Value = serde_json::from_str(reloaded.success()?)?;
            field_is(&reloaded, "/sessions", 2)?;
            field_is(&reloaded, "/ended", 1)?;
            is_told(
                &ends.finish()?,
                &[
                    "FATAL:  terminating connection: pgusher's policy \"closed\" denies this connection: closed for maintenance",
                ],
            )?;
            let record = stage.pgusher.trail.only_session()?;
            field_is(&record, "/close", "policy_revoked")?;
            field_is(&record, "/policy/policies/0", "closed")?;
            ensure!(wire::ask(&mut stays, "select 1")? == "1");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_session_is_ended_between_two_messages_also_in_the_midst_of_a_result() -> Result<()> {
    let rows = "copy (select repeat(chr(120), 3000) from generate_series(1, 100000000)) to stdout";
    for version in VERSIONS {
        Setup::with(version).policy("enforce", ALL).play(|stage| {
            let ends = running(stage, "dbname=template1 sslmode=disable", rows)?;
            stage.reload_policy(NOT_TEMPLATE1)?.success()?;
            // A message of ours inside one of the server's would be taken for data, or end in "lost synchronization".
            is_told(
                &ends.finish()?,
                &["FATAL:  terminating connection: pgusher's policy \"closed\""],
            )?;
            field_is(
                &stage.pgusher.trail.only_session()?,
                "/close",
                "policy_revoked",
            )
        })?;
    }
    Ok(())
}

#[test]
fn a_session_that_nobody_can_see_into_is_reset() -> Result<()> {
    Setup::with(Version::V15)
        .policy("enforce", ALL)
        .play(|stage| {
            let hidden = running(
                stage,
                "dbname=postgres sslmode=require",
                "select pg_sleep(600)",
            )?;
            stage.reload_policy(NO_HIDDEN)?.success()?;
            is_told(&hidden.finish()?, &["server"])?;
            let record = stage.pgusher.trail.only_session()?;
            field_is(&record, "/close", "policy_revoked")?;
            works(&psql(stage, "disable")?)
        })
}

#[test]
fn a_policy_that_is_refused_is_refused_with_its_place_and_the_old_one_stays() -> Result<()> {
    Setup::with(Version::V15)
        .policy("enforce", NOT_TEMPLATE1)
        .play(|stage| {
            let refused = stage.reload_policy(
                "permit (principal, action, resource)\nwhen { principal.nonsense };",
            )?;
            let told = refused.failure()?;
            let place = format!("{}:2:8: ", stage.policy_path().display());
            ensure!(
                told.contains(&place) && told.contains("the old policy stays in force"),
                "{told}"
            );
            works(&psql(stage, "disable")?)?;
            ensure!(at(&stage.pgusher.status()?, "/policy/failure").is_string());
            Ok(())
        })
}

#[test]
fn hangup_reads_the_policy_again() -> Result<()> {
    Setup::with(Version::V15)
        .policy("enforce", ALL)
        .play(|stage| {
            works(&psql(stage, "disable")?)?;
            let before = at(&stage.pgusher.status()?, "/policy/revision").clone();
            stage.write_policy("")?;
            stage.pgusher.signal(Signal::SIGHUP)?;
            wait_until("another policy is in force", || {
                let now = at(&stage.pgusher.status()?, "/policy/revision").clone();
                Ok(Seen::when(now != before, || now.to_string()))
            })?;
            is_told(
                &psql(stage, "disable")?,
                &["no policy of pgusher's permits this connection"],
            )
        })
}

/// How many sessions live through the reloads.
const SESSIONS: usize = 40;
/// How often the policy changes meanwhile.
const RELOADS: usize = 20;

#[test]
fn reloads_under_load_end_no_session_that_stays_permitted() -> Result<()> {
    Setup::with(Version::V15)
        .policy("enforce", ALL)
        .play(|stage| {
            stage.dialer()?;
            let stage: &Stage = stage;
            std::thread::scope(|scope| -> Result<()> {
                let busy: Vec<_> = (0..SESSIONS)
                    .map(|number| scope.spawn(move || live_through(stage, number)))
                    .collect();
                for number in 0..RELOADS {
                    let text = format!("{NOT_TEMPLATE1}\n// {number}");
                    stage.reload_policy(&text)?.success()?;
                }
                for session in busy {
                    session
                        .join()
                        .map_err(|_| anyhow::anyhow!("a session's thread failed"))??;
                }
                Ok(())
            })?;
            let records = stage.pgusher.trail.wait_for_sessions(SESSIONS)?;
            for record in &records {
                ensure!(
                    at(record, "/close") != "policy_revoked"
                        && at(record, "/close") != "policy_denied",
                    "{record}"
                );
            }
            // The very next policy that means them ends them all.
            let mut last: Vec<TcpStream> = Vec::new();
            for _ in 0..3 {
                let mut stream = stage.dial()?;
                wire::log_in(&mut stream, "postgres")?;
                last.push(stream);
            }
            stage.reload_policy("")?.success()?;
            for mut stream in last {
                let message = wire::read_message(&mut stream)?;
                ensure!(
                    message.field(b'C').as_deref() == Some("57P01"),
                    "{message:?}"
                );
            }
            Ok(())
        })
}

/// Questions that one session asks while the policy changes.
const QUESTIONS: usize = 50;

fn live_through(stage: &Stage, number: usize) -> Result<()> {
    let mut stream = stage.dial()?;
    wire::log_in(&mut stream, "postgres")?;
    for question in 0..QUESTIONS {
        let answer = wire::ask(&mut stream, &format!("select {number} + {question}"))?;
        ensure!(answer == (number + question).to_string(), "{answer}");
    }
    stream.write_all(&wire::message(b'X', b"")?)?;
    Ok(())
}
