//! What is no proper startup: silence, nonsense, and connections that nobody redirected.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};

use anyhow::{Context, Result, ensure};
use pgusher_tests::cluster::{VERSIONS, Version, free_port};
use pgusher_tests::dialer::read_to_close;
use pgusher_tests::stage::{Setup, Stage};
use pgusher_tests::wire;
use serde_json::Value;

use crate::expect::{accepted_session, field_is};

/// Sends `bytes`, ends the sending side, and returns what came back and the record of the session.
fn after(stage: &Stage, bytes: &[u8]) -> Result<(Vec<u8>, Value)> {
    let before = stage.pgusher.trail.sessions()?.len();
    let mut stream = stage.dial()?;
    stream.write_all(bytes)?;
    stream.shutdown(Shutdown::Write)?;
    let (answer, _) = read_to_close(&mut stream)?;
    let sessions = stage.pgusher.trail.wait_for_sessions(before + 1)?;
    Ok((answer, sessions.get(before).context("a record")?.clone()))
}

/// Checks that an answer is one ErrorResponse with `sqlstate`.
fn refused_with(answer: &[u8], sqlstate: &str) -> Result<()> {
    let mut rest = answer;
    let error = wire::read_message(&mut rest)
        .with_context(|| format!("answer {}", answer.escape_ascii()))?;
    ensure!(
        error.kind == b'E' && rest.is_empty(),
        "not one ErrorResponse but {}",
        answer.escape_ascii()
    );
    ensure!(error.field(b'C').as_deref() == Some(sqlstate), "{error:?}");
    ensure!(error.field(b'S').as_deref() == Some("FATAL"), "{error:?}");
    ensure!(error.field(b'V').as_deref() == Some("FATAL"), "{error:?}");
    ensure!(
        error.field(b'M').is_some_and(|message| !message.is_empty()),
        "{error:?}"
    );
    Ok(())
}

#[test]
fn a_startup_packet_of_impossible_length_is_closed_without_an_answer() -> Result<()> {
    let version = wire::PROTOCOL_3_0.to_be_bytes();
    let cases = [
        ("length 0", vec![0; 8]),
        ("length 7", b"\0\0\0\x07\0\x03\0\0".to_vec()),
        (
            "length 10005",
            [&10_005_u32.to_be_bytes()[..], &version, &[b'x'; 9_997]].concat(),
        ),
        ("length 2 GB", b"\x7f\xff\xff\xff\0\x03\0\0".to_vec()),
        ("length negative", b"\xff\xff\xff\xff\0\x03\0\0".to_vec()),
        (
            "an HTTP request",
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        ),
    ];
    Setup::with(Version::V15).play(|stage| {
        for (name, bytes) in &cases {
            let (answer, record) = after(stage, bytes).context(*name)?;
            // PostgreSQL's ProcessStartupPacket does the same.
            ensure!(
                answer.is_empty(),
                "{name} is answered with {}",
                answer.escape_ascii()
            );
            field_is(&record, "/close", "malformed_startup").context(*name)?;
            field_is(&record, "/login/outcome", "unanswered").context(*name)?;
        }
        Ok(())
    })
}

#[test]
fn a_startup_packet_of_wrong_layout_is_refused_as_the_server_does() -> Result<()> {
    let version = wire::PROTOCOL_3_0;
    let cases = [
        ("no terminator", wire::packet(version, b"user\0postgres\0")?),
        (
            "a name without a value",
            wire::packet(version, b"user\0postgres\0database\0")?,
        ),
        (
            "bytes after the terminator",
            wire::packet(version, b"user\0postgres\0\0more")?,
        ),
    ];
    for server in VERSIONS {
        Setup::with(server).play(|stage| {
            for (name, bytes) in &cases {
                let mut direct = stage.cluster.connect()?;
                direct.write_all(bytes)?;
                refused_with(&read_to_close(&mut direct)?.0, "08P01").context(*name)?;
                let (answer, record) = after(stage, bytes).context(*name)?;
                refused_with(&answer, "08P01").context(*name)?;
                field_is(&record, "/close", "malformed_startup").context(*name)?;
                field_is(&record, "/login/outcome", "unanswered").context(*name)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_startup_packet_that_is_cut_is_on_record_as_none() -> Result<()> {
    let complete = wire::startup("postgres")?;
    Setup::with(Version::V15).play(|stage| {
        for length in [0, 1, 4, 8, complete.len() - 1] {
            let (answer, record) = after(stage, complete.get(..length).unwrap_or_default())?;
            ensure!(
                answer.is_empty(),
                "{length} bytes are answered with {}",
                answer.escape_ascii()
            );
            field_is(&record, "/close", "no_startup").with_context(|| format!("{length} bytes"))?;
            field_is(&record, "/startup", Value::Null)?;
        }
        Ok(())
    })
}

#[test]
fn the_longest_startup_packet_reaches_the_server() -> Result<()> {
    for version in VERSIONS {
        Setup::with(version).play(|stage| {
            let frame = wire::startup_with(&[
                ("user", "app_trust"),
                ("database", "postgres"),
                ("options", ""),
            ])?
            .len();
            // PostgreSQL takes 10,000 bytes after the length word.
            let options = format!("-c application_name={}", "n".repeat(10_004 - frame - 20));
            let packet = wire::startup_with(&[
                ("user", "app_trust"),
                ("database", "postgres"),
                ("options", &options),
            ])?;
            ensure!(
                packet.len() == 10_004,
                "the test builds {} bytes",
                packet.len()
            );
            let mut stream = stage.dial()?;
            stream.write_all(&packet)?;
            wire::read_through(&mut stream, b'Z')?;
            drop(stream);
            accepted_session(&stage.pgusher.trail.only_session()?, "app_trust")
        })?;
    }
    Ok(())
}

#[test]
fn the_last_of_several_users_is_the_one_on_record() -> Result<()> {
    for version in VERSIONS {
        Setup::with(version).play(|stage| {
            let long = format!("app_trust{}", "x".repeat(80));
            let parameters = [
                ("user", long.as_str()),
                ("database", "missing"),
                ("user", "app_trust"),
                ("database", "postgres"),
            ];
            let mut stream = stage.dial()?;
            stream.write_all(&wire::startup_with(&parameters)?)?;
            wire::read_through(&mut stream, b'Z')?;
            ensure!(wire::ask(&mut stream, "select current_user")? == "app_trust");
            drop(stream);
            let record = stage.pgusher.trail.only_session()?;
            accepted_session(&record, "app_trust")?;
            field_is(&record, "/startup/database", "postgres")
        })?;
    }
    Ok(())
}

#[test]
fn a_newer_minor_version_is_negotiated_with_the_server() -> Result<()> {
    for version in VERSIONS {
        Setup::with(version).play(|stage| {
            let mut stream = stage.dial()?;
            let body = b"user\0app_trust\0database\0postgres\0_pq_.no_such\0on\0\0";
            stream.write_all(&wire::packet(0x0003_270f, body)?)?;
            let messages = wire::read_through(&mut stream, b'Z')?;
            let negotiated = messages.first().context("a message")?;
            ensure!(
                negotiated.kind == b'v',
                "no NegotiateProtocolVersion but {negotiated:?}"
            );
            drop(stream);
            accepted_session(&stage.pgusher.trail.only_session()?, "app_trust")
        })?;
    }
    Ok(())
}

#[test]
fn a_gss_request_gets_the_servers_answer() -> Result<()> {
    for version in VERSIONS {
        Setup::with(version).play(|stage| {
            let direct = one_byte(stage.cluster.connect()?)?;
            let through = one_byte(stage.dial()?)?;
            ensure!(
                direct == through,
                "{direct:?} without, {through:?} through pgusher"
            );
            Ok(())
        })?;
    }
    Ok(())
}

fn one_byte(mut stream: TcpStream) -> Result<u8> {
    stream.write_all(&wire::packet(wire::GSSENC_REQUEST, &[])?)?;
    let mut answer = [0_u8; 1];
    stream.read_exact(&mut answer)?;
    let [answer] = answer;
    Ok(answer)
}

#[test]
fn a_client_that_says_nothing_is_closed_after_the_startup_timeout() -> Result<()> {
    Setup::with(Version::V15)
        .argument("--startup-timeout=1s")
        .play(|stage| {
            let mut silent = stage.dial()?;
            let mut slow = stage.dial()?;
            slow.write_all(b"\0\0\0")?;
            read_to_close(&mut silent)?;
            read_to_close(&mut slow)?;
            for record in stage.pgusher.trail.wait_for_sessions(2)? {
                field_is(&record, "/close", "startup_timeout")?;
                field_is(&record, "/startup", Value::Null)?;
            }
            Ok(())
        })
}

#[test]
fn a_session_outlives_the_startup_timeout() -> Result<()> {
    // A login has to fit in, on a machine that is busy with others.
    Setup::with(Version::V15)
        .argument("--startup-timeout=5s")
        .play(|stage| {
            let mut stream = stage.dial()?;
            wire::log_in(&mut stream, "app_trust")?;
            ensure!(wire::ask(&mut stream, "select 'still' from pg_sleep(6)")? == "still");
            Ok(())
        })
}

#[test]
fn a_connection_that_nobody_redirected_is_refused() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let listeners = stage.pgusher.listeners()?;
        ensure!(listeners.len() == 2, "not two listeners: {listeners:?}");
        for (index, listener) in listeners.iter().enumerate() {
            let mut stream = TcpStream::connect(listener)?;
            stream.write_all(&wire::startup("postgres")?)?;
            let (answer, _) = read_to_close(&mut stream)?;
            drop(stream);
            refused_with(&answer, "08006")?;
            let sessions = stage.pgusher.trail.wait_for_sessions(index + 1)?;
            let record = sessions.last().context("a record")?;
            field_is(record, "/close", "no_original_destination")?;
            field_is(record, "/destination", Value::Null)?;
            field_is(record, "/origin", Value::Null)?;
        }
        // The stage wants to see that interception itself works.
        wire::log_in(&mut stage.dial()?, "postgres")?;
        Ok(())
    })
}

/// SSLRequest, as every client sends it first unless told otherwise.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

#[test]
fn a_client_that_leaves_when_encryption_is_refused_is_on_record_as_refused() -> Result<()> {
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = server.local_addr()?.port();
    Setup::with(Version::V15).port(port).play(|stage| {
        let mut client = stage.dialer()?.dial(port)?;
        client.write_all(&SSL_REQUEST)?;
        let mut accepted = wire::accept_spoken(&server)?;
        let mut request = [0; 8];
        accepted.read_exact(&mut request)?;
        ensure!(request == SSL_REQUEST, "{request:?}");
        accepted.write_all(b"N")?;
        let mut answer = [0];
        client.read_exact(&mut answer)?;
        drop(client);
        let record = stage.pgusher.trail.only_session()?;
        field_is(&record, "/close", "no_startup")?;
        field_is(&record, "/encryption", "refused")?;
        field_is(&record, "/bytes_to_server", 8)?;
        field_is(&record, "/bytes_to_client", 1)
    })
}

#[test]
fn a_client_that_asked_for_gss_first_is_on_record_with_its_user_when_refused() -> Result<()> {
    let dead = free_port()?;
    Setup::with(Version::V15).port(dead).play(|stage| {
        let mut client = stage.dialer()?.dial(dead)?;
        client.write_all(&wire::packet(wire::GSSENC_REQUEST, &[])?)?;
        let mut answer = [0];
        client.read_exact(&mut answer)?;
        ensure!(answer == *b"N", "{answer:?}");
        client.write_all(&wire::startup("somebody")?)?;
        refused_with(&read_to_close(&mut client)?.0, "57P03")?;
        drop(client);
        let record = stage.pgusher.trail.only_session()?;
        field_is(&record, "/close", "upstream_unreachable")?;
        field_is(&record, "/encryption", "refused")?;
        field_is(&record, "/startup/user", "somebody")
    })
}

#[test]
fn a_client_that_only_asked_for_tls_when_refused_is_answered_yes() -> Result<()> {
    let dead = free_port()?;
    Setup::with(Version::V15).port(dead).play(|stage| {
        let mut client = stage.dialer()?.dial(dead)?;
        client.write_all(&SSL_REQUEST)?;
        let mut answer = [0];
        client.read_exact(&mut answer)?;
        ensure!(answer == *b"S", "{answer:?}");
        drop(client);
        let record = stage.pgusher.trail.only_session()?;
        field_is(&record, "/close", "upstream_unreachable")
    })
}
