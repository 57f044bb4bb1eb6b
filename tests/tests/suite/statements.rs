//! Statement audit: what a session's records say of what it asked for, from real clients and bytes on the wire.

mod bulk;
mod delivery;
mod extended;
mod redaction;
mod simple;

use std::io::Write;
use std::net::TcpStream;

use anyhow::{Context, Result, ensure};
use pgusher_tests::cluster::Version;
use pgusher_tests::stage::{Setup, Stage};
use pgusher_tests::wire::{self, Message};
use serde_json::Value;

/// A stage on which every statement is recorded.
fn audited(version: Version) -> Setup {
    Setup::with(version).argument("--audit=statements")
}

/// A raw connection, logged in as superuser.
fn log_in(stage: &Stage) -> Result<TcpStream> {
    let mut stream = stage.dial()?;
    wire::log_in(&mut stream, "postgres")?;
    Ok(stream)
}

/// Sends messages and returns every answer up to a ReadyForQuery, errors included.
fn exchange(stream: &mut TcpStream, messages: &[Vec<u8>]) -> Result<Vec<Message>> {
    stream.write_all(&messages.concat())?;
    answers(stream)
}

fn answers(stream: &mut TcpStream) -> Result<Vec<Message>> {
    let mut answers = Vec::new();
    loop {
        let message = wire::read_message(stream)?;
        let is_last = message.kind == b'Z';
        answers.push(message);
        if is_last {
            return Ok(answers);
        }
    }
}

/// Sends Terminate and waits until the server has closed.
fn leave(mut stream: TcpStream) -> Result<()> {
    stream.write_all(&wire::message(b'X', &[])?)?;
    let mut rest = Vec::new();
    std::io::Read::read_to_end(&mut stream, &mut rest)?;
    ensure!(rest.is_empty(), "the server said {rest:?} at the end");
    Ok(())
}

fn parse(name: &str, sql: &str, types: &[u32]) -> Result<Vec<u8>> {
    let mut body = format!("{name}\0{sql}\0").into_bytes();
    body.extend(u16::try_from(types.len())?.to_be_bytes());
    for oid in types {
        body.extend(oid.to_be_bytes());
    }
    wire::message(b'P', &body)
}

fn bind(
    portal: &str,
    statement: &str,
    formats: &[i16],
    values: &[Option<&[u8]>],
) -> Result<Vec<u8>> {
    let mut body = format!("{portal}\0{statement}\0").into_bytes();
    body.extend(counted(formats, values)?);
    // Results as text.
    body.extend([0, 0]);
    wire::message(b'B', &body)
}

/// FunctionCall with a result as text.
fn call(function: u32, formats: &[i16], values: &[Option<&[u8]>]) -> Result<Vec<u8>> {
    let mut body = function.to_be_bytes().to_vec();
    body.extend(counted(formats, values)?);
    body.extend([0, 0]);
    wire::message(b'F', &body)
}

fn counted(formats: &[i16], values: &[Option<&[u8]>]) -> Result<Vec<u8>> {
    let mut body = u16::try_from(formats.len())?.to_be_bytes().to_vec();
    for format in formats {
        body.extend(format.to_be_bytes());
    }
    body.extend(u16::try_from(values.len())?.to_be_bytes());
    for value in values {
        match value {
            Some(value) => {
                body.extend(u32::try_from(value.len())?.to_be_bytes());
                body.extend(*value);
            }
            None => body.extend((-1_i32).to_be_bytes()),
        }
    }
    Ok(body)
}

fn execute(portal: &str, max_rows: u32) -> Result<Vec<u8>> {
    let mut body = format!("{portal}\0").into_bytes();
    body.extend(max_rows.to_be_bytes());
    wire::message(b'E', &body)
}

/// Describe (`D`) or Close (`C`) of a statement (`S`) or a portal (`P`).
fn about(kind: u8, what: char, name: &str) -> Result<Vec<u8>> {
    wire::message(kind, format!("{what}{name}\0").as_bytes())
}

fn sync() -> Result<Vec<u8>> {
    wire::message(b'S', &[])
}

/// Checks that a record has these fields with these values; an object is checked field by field.
fn has(record: &Value, expected: &Value) -> Result<()> {
    for (name, value) in expected.as_object().context("an object")? {
        let found = record.get(name).unwrap_or(&Value::Null);
        if value.is_object() && found.is_object() {
            has(found, value).with_context(|| format!("{name} in {record}"))?;
        } else {
            ensure!(
                found == value,
                "{name} is {found}, not {value}, in {record}"
            );
        }
    }
    Ok(())
}

/// Checks records one by one with [`has`].
fn have(records: &[Value], expected: &[Value]) -> Result<()> {
    for (record, expected) in records.iter().zip(expected) {
        has(record, expected)?;
    }
    ensure!(
        records.len() == expected.len(),
        "{} records, not {}: {records:#?}",
        records.len(),
        expected.len()
    );
    Ok(())
}
