//! Who may cancel whose queries.

use std::io::Write as _;
use std::net::TcpStream;

use anyhow::{Result, ensure};
use pgusher_tests::cluster::{VERSIONS, Version};
use pgusher_tests::process::{Running, run};
use pgusher_tests::stage::{Setup, Stage};
use pgusher_tests::wire;
use serde_json::Value;

use crate::expect::{at, field_is};

/// Sends a cancel request from a program of its own.
const CANCEL: &str = "import socket, sys\n\
    s = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n\
    s.sendall(bytes.fromhex(sys.argv[2]))\n\
    assert s.recv(1) == b''\n";

/// A session that sleeps, and the request that would wake it.
pub(crate) fn asleep(stage: &Stage) -> Result<(TcpStream, Vec<u8>)> {
    let mut stream = stage.dial()?;
    let key = wire::log_in(&mut stream, "postgres")?;
    let sql = format!("select pg_sleep(600) /* {} */", stage.cgroup.name()?);
    stream.write_all(&wire::query(&sql)?)?;
    let runs =
        format!("select count(*) from pg_stat_activity where state = 'active' and query = '{sql}'");
    stage.cluster.wait_for_rows(&runs, "1")?;
    Ok((stream, wire::packet(wire::CANCEL_REQUEST, &key)?))
}

fn from_a_stranger(stage: &Stage, request: &[u8]) -> Result<Value> {
    let request: String = request.iter().map(|byte| format!("{byte:02x}")).collect();
    let port = stage.cluster.port.to_string();
    let stranger = Running::start(
        stage
            .cgroup
            .command("python3")?
            .args(["-c", CANCEL, &port, &request]),
    )?;
    stranger.finish()?.success()?;
    stage
        .pgusher
        .trail
        .wait_for_session("the cancel request", |record| record["kind"] == "cancel")
}

/// What runs there ends, because it was cancelled.
pub(crate) fn was_cancelled(stream: &mut TcpStream) -> Result<()> {
    loop {
        let message = wire::read_message(stream)?;
        ensure!(message.kind != b'Z', "the query was not cancelled");
        if message.kind == b'E' {
            ensure!(
                message.field(b'C').as_deref() == Some("57014"),
                "{message:?}"
            );
            return Ok(());
        }
    }
}

/// The cancel request is on record as its own workload's, with the first session as what it cancels.
pub(crate) fn is_on_record_as_its_own(stage: &Stage) -> Result<()> {
    let trail = &stage.pgusher.trail;
    let record =
        trail.wait_for_session("the cancel request", |record| record["kind"] == "cancel")?;
    field_is(&record, "/policy/policies/0", "pgusher.own-cancel")?;
    let is_beginning = |record: &Value| record["type"] == "session_start";
    let session = trail.wait_for("the session's beginning", is_beginning)?;
    field_is(&record, "/cancels", at(&session, "/session").clone())
}

const CONNECT: &str = "permit (principal, action == Action::\"connect\", resource);";

#[test]
fn a_session_is_cancelled_by_its_own_process_without_a_permit_for_that() -> Result<()> {
    for version in VERSIONS {
        Setup::with(version)
            .policy("enforce", CONNECT)
            .play(|stage| {
                let (mut stream, request) = asleep(stage)?;
                stage.dial()?.write_all(&request)?;
                was_cancelled(&mut stream)?;
                is_on_record_as_its_own(stage)
            })?;
    }
    Ok(())
}

#[test]
fn a_stranger_with_the_right_key_cancels_nothing() -> Result<()> {
    for version in VERSIONS {
        Setup::with(version)
            .policy("enforce", CONNECT)
            .play(|stage| {
                let (mut stream, request) = asleep(stage)?;
                let record = from_a_stranger(stage, &request)?;
                field_is(&record, "/close", "policy_denied")?;
                field_is(&record, "/policy/action", "cancel")?;
                field_is(&record, "/bytes_to_server", 0)?;
                // It still sleeps: only its own process wakes it.
                stage.dial()?.write_all(&request)?;
                was_cancelled(&mut stream)
            })?;
    }
    Ok(())
}

#[test]
fn a_permit_of_the_action_lets_a_stranger_cancel_in_that_database() -> Result<()> {
    let policy = format!(
        "{CONNECT}\n@id(\"watchdog\") permit (principal, action == Action::\"cancel\", resource == Database::\"{{server}}/postgres\");"
    );
    Setup::with(Version::V15)
        .policy("enforce", policy)
        .play(|stage| {
            let (mut stream, request) = asleep(stage)?;
            let record = from_a_stranger(stage, &request)?;
            field_is(&record, "/policy/policies/0", "watchdog")?;
            was_cancelled(&mut stream)
        })
}

#[test]
fn a_key_that_belongs_to_no_known_session_is_the_servers_to_judge_for_who_may_connect() -> Result<()>
{
    let request = wire::packet(wire::CANCEL_REQUEST, &[0, 0, 0, 1, 9, 9, 9, 9])?;
    let nobody = "permit (principal, action == Action::\"connect\", resource is Database);";
    for (policy, decision) in [(CONNECT, "allow"), (nobody, "deny")] {
        Setup::with(Version::V15)
            .policy("enforce", policy)
            .play(|stage| {
                let record = from_a_stranger(stage, &request)?;
                field_is(&record, "/policy/decision", decision)
            })?;
    }
    Ok(())
}

#[test]
fn libpq_cancels_inside_its_sessions_encryption() -> Result<()> {
    Setup::with(Version::V18)
        .policy("enforce", CONNECT)
        .play(|stage| {
            let program = pgusher_tests::programs::compiled_for(stage.cluster, "cancel_18")?;
            for sslmode in ["disable", "require"] {
                let mut command = stage.cluster.client_at(&stage.cgroup, &program)?;
                let connection = format!("user=postgres dbname=postgres sslmode={sslmode}");
                let finished = run(command.arg(connection))?;
                ensure!(finished.value("sqlstate")? == "57014", "{finished:?}");
            }
            Ok(())
        })
}
