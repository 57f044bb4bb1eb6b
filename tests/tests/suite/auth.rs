//! Authentication and encryption happen between client and server: pgusher changes neither, nor a byte of a refusal.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use anyhow::{Context, Result, ensure};
use pgusher_tests::certificates::CERTIFICATE_ROLE;
use pgusher_tests::cluster::{PASSWORD, VERSIONS, Version};
use pgusher_tests::dialer::read_to_close;
use pgusher_tests::process::{Finished, run};
use pgusher_tests::stage::{Setup, Stage};
use pgusher_tests::wire;
use serde_json::Value;

use crate::expect::{accepted_session, ended_in_order, fact_is, field_is};

/// What every login reports about its encryption.
const REPORT: &str = "select user || ' ' || case when ssl then 'encrypted' else 'plain' end
    from pg_stat_ssl where pid = pg_backend_pid()";

/// Logs in with psql and connection parameters added to host, port and database.
fn log_in(stage: &Stage, parameters: &str) -> Result<Finished> {
    let connection = format!(
        "host=localhost hostaddr=127.0.0.1 port={} dbname=postgres {parameters}",
        stage.cluster.port
    );
    run(stage
        .psql_to(&connection, REPORT)?
        .env("PGPASSWORD", PASSWORD))
}

/// Checks that a login succeeds, is encrypted or not, and is on record that way.
fn login_reports(stage: &Stage, parameters: &str, report: &str, encryption: &str) -> Result<()> {
    let before = stage.pgusher.trail.sessions()?.len();
    let finished = log_in(stage, parameters)?;
    let found = finished.success().with_context(|| parameters.to_owned())?;
    ensure!(found == report, "with {parameters} psql reports {found}");
    let sessions = stage.pgusher.trail.wait_for_sessions(before + 1)?;
    let record = sessions.get(before).context("a record")?;
    field_is(record, "/encryption", encryption).with_context(|| parameters.to_owned())?;
    fact_is(record, "comm", "kernel", "psql")?;
    ended_in_order(record).with_context(|| parameters.to_owned())?;
    if encryption == "none" || encryption == "refused" {
        return accepted_session(record, report.split(' ').next().unwrap_or_default());
    }
    // pgusher does not look into encrypted sessions, and says so.
    field_is(record, "/login/outcome", "opaque")?;
    field_is(record, "/kind", "opaque")?;
    field_is(record, "/startup", Value::Null)
}

#[test]
fn every_ssl_mode_ends_as_it_does_without_pgusher() -> Result<()> {
    for version in VERSIONS {
        Setup::with(version).play(|stage| {
            let authority = stage.cluster.certificate("ca.crt");
            let cases = [
                ("sslmode=disable".to_owned(), "plain", "none"),
                ("sslmode=allow".to_owned(), "plain", "none"),
                ("sslmode=prefer".to_owned(), "encrypted", "tls"),
                ("sslmode=require".to_owned(), "encrypted", "tls"),
                (
                    format!("sslmode=verify-ca sslrootcert={authority}"),
                    "encrypted",
                    "tls",
                ),
                (
                    format!("sslmode=verify-full sslrootcert={authority}"),
                    "encrypted",
                    "tls",
                ),
            ];
            for (parameters, state, encryption) in cases {
                let parameters = format!("user=app_scram {parameters}");
                login_reports(
                    stage,
                    &parameters,
                    &format!("app_scram {state}"),
                    encryption,
                )?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn direct_tls_reaches_a_server_that_speaks_it() -> Result<()> {
    Setup::with(Version::V18).play(|stage| {
        let authority = stage.cluster.certificate("ca.crt");
        let parameters = format!(
            "user=app_scram sslnegotiation=direct sslmode=verify-full sslrootcert={authority}"
        );
        login_reports(stage, &parameters, "app_scram encrypted", "direct_tls")
    })
}

#[test]
fn a_name_the_certificate_does_not_carry_is_refused_by_the_client() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let authority = stage.cluster.certificate("ca.crt");
        let connection = format!(
            "host=elsewhere hostaddr=127.0.0.1 port={} user=app_scram dbname=postgres \
             sslmode=verify-full sslrootcert={authority}",
            stage.cluster.port
        );
        let finished = run(&mut stage.psql_to(&connection, REPORT)?)?;
        ensure!(
            finished.failure()?.contains("does not match host name"),
            "{finished:?}"
        );
        field_is(&stage.pgusher.trail.only_session()?, "/encryption", "tls")
    })
}

#[test]
fn every_password_method_works_in_plain_and_encrypted() -> Result<()> {
    for version in VERSIONS {
        Setup::with(version).play(|stage| {
            for user in ["app_trust", "app_md5", "app_scram", "app_plain"] {
                login_reports(
                    stage,
                    &format!("user={user} sslmode=disable"),
                    &format!("{user} plain"),
                    "none",
                )?;
                login_reports(
                    stage,
                    &format!("user={user} sslmode=require"),
                    &format!("{user} encrypted"),
                    "tls",
                )?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn channel_binding_holds_because_nobody_is_in_the_middle() -> Result<()> {
    for version in VERSIONS {
        Setup::with(version).play(|stage| {
            let parameters = "user=app_scram sslmode=require channel_binding=require";
            login_reports(stage, parameters, "app_scram encrypted", "tls")
        })?;
    }
    Ok(())
}

#[test]
fn a_client_certificate_authenticates() -> Result<()> {
    for version in VERSIONS {
        Setup::with(version).play(|stage| {
            let [certificate, key] =
                ["client.crt", "client.key"].map(|name| stage.cluster.certificate(name));
            let parameters = format!(
                "user={CERTIFICATE_ROLE} sslmode=require sslcert={certificate} sslkey={key}"
            );
            login_reports(
                stage,
                &parameters,
                &format!("{CERTIFICATE_ROLE} encrypted"),
                "tls",
            )?;
            let without = log_in(stage, &format!("user={CERTIFICATE_ROLE} sslmode=require"))?;
            ensure!(
                without.failure()?.contains("valid client certificate"),
                "{without:?}"
            );
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_refused_login_is_on_record_with_its_reason() -> Result<()> {
    let cases = [
        ("user=app_plain password=wrong", "28P01"),
        ("user=app_scram password=wrong", "28P01"),
        ("user=app_reject", "28000"),
        ("user=nobody", "28000"),
        ("user=app_trust dbname=missing", "3D000"),
    ];
    Setup::with(Version::V15).play(|stage| {
        for (index, (parameters, sqlstate)) in cases.iter().enumerate() {
            let finished = log_in(stage, &format!("sslmode=disable {parameters}"))?;
            finished
                .failure()
                .with_context(|| (*parameters).to_owned())?;
            let sessions = stage.pgusher.trail.wait_for_sessions(index + 1)?;
            let record = sessions.last().context("a record")?;
            field_is(record, "/login/outcome", "rejected")?;
            field_is(record, "/login/sqlstate", *sqlstate)?;
            // The server closes behind its refusal, psql closes when it has read it: either may be first.
            let first = record["close"] == "server_closed" || record["close"] == "client_closed";
            ensure!(first, "{record}");
        }
        Ok(())
    })
}

/// Raw conversations that a server refuses; nothing in an answer depends on the connection.
fn refused_conversations() -> Result<Vec<(&'static str, Vec<u8>)>> {
    let password = |text: &str| wire::message(b'p', format!("{text}\0").as_bytes());
    Ok(vec![
        (
            "wrong password",
            [wire::startup("app_plain")?, password("wrong")?].concat(),
        ),
        (
            "empty password",
            [wire::startup("app_plain")?, password("")?].concat(),
        ),
        (
            "password of a wrong type",
            [wire::startup("app_plain")?, wire::query("select 1")?].concat(),
        ),
        (
            "missing database",
            wire::startup_with(&[("user", "app_trust"), ("database", "missing")])?,
        ),
        (
            "missing user",
            wire::startup_with(&[("database", "postgres")])?,
        ),
        ("unknown role", wire::startup("nobody")?),
        ("rejected by pg_hba", wire::startup("app_reject")?),
        (
            "unknown setting",
            wire::startup_with(&[
                ("user", "app_trust"),
                ("database", "postgres"),
                ("no_such", "1"),
            ])?,
        ),
        (
            "bad replication value",
            wire::startup_with(&[("user", "app_trust"), ("replication", "perhaps")])?,
        ),
        (
            "bad options",
            wire::startup_with(&[
                ("user", "app_trust"),
                ("database", "postgres"),
                ("options", "-c x"),
            ])?,
        ),
        (
            "protocol 2.0",
            wire::packet(0x0002_0000, b"user\0postgres\0\0")?,
        ),
        (
            "protocol 4.0",
            wire::packet(0x0004_0000, b"user\0postgres\0\0")?,
        ),
    ])
}

#[test]
fn a_refusal_arrives_byte_for_byte_as_without_pgusher() -> Result<()> {
    for version in VERSIONS {
        Setup::with(version).play(|stage| {
            for (name, bytes) in refused_conversations()? {
                let direct = answer(stage.cluster.connect()?, &bytes)?;
                let through = answer(stage.dial()?, &bytes)?;
                ensure!(
                    direct == through,
                    "{name}: {} without, {} through pgusher",
                    text(&direct),
                    text(&through)
                );
                ensure!(
                    direct.contains(&b'E'),
                    "{name}: no refusal but {}",
                    text(&direct)
                );
            }
            ensure!(
                stage.redirected()? >= 12,
                "not every conversation was intercepted"
            );
            Ok(())
        })?;
    }
    Ok(())
}

fn answer(mut stream: TcpStream, bytes: &[u8]) -> Result<Vec<u8>> {
    stream.write_all(bytes)?;
    Ok(read_to_close(&mut stream)?.0)
}

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

#[test]
fn a_session_answers_byte_for_byte_as_without_pgusher() -> Result<()> {
    for version in VERSIONS {
        Setup::with(version).play(|stage| {
            let direct = session_bytes(stage.cluster.connect()?)?;
            let through = session_bytes(stage.dial()?)?;
            ensure!(
                direct == through,
                "{} without, {} through pgusher",
                text(&direct),
                text(&through)
            );
            Ok(())
        })?;
    }
    Ok(())
}

/// Everything the server says in one session, with the key data's value (process id and secret) left out.
fn session_bytes(mut stream: TcpStream) -> Result<Vec<u8>> {
    stream.write_all(&wire::startup("app_trust")?)?;
    let mut messages = wire::read_through(&mut stream, b'Z')?;
    for message in messages.iter_mut().filter(|message| message.kind == b'K') {
        message.body.fill(0);
    }
    let conversation = [
        wire::query(
            "select n, repeat('x', n) from generate_series(1, 300) n; select 1 / 0; select 'never'",
        )?,
        wire::message(b'P', b"\0select $1::int\0\0\0")?,
        wire::message(b'S', &[])?,
        wire::query("do $$ begin raise notice 'a notice'; end $$")?,
    ];
    stream.write_all(&conversation.concat())?;
    stream.shutdown(Shutdown::Write)?;
    let mut bytes = messages
        .iter()
        .map(wire::Message::bytes)
        .collect::<Result<Vec<_>>>()?
        .concat();
    stream.read_to_end(&mut bytes)?;
    Ok(bytes)
}
