//! The few messages of the PostgreSQL protocol that raw clients and fake servers of the tests speak.
//!
//! Codes and layouts are those of the documentation's section "Message Formats".

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use anyhow::{Context, Result, bail, ensure};

use crate::condition::DEADLINE;

/// Protocol version 3.0.
pub const PROTOCOL_3_0: u32 = 0x0003_0000;
/// Code of a CancelRequest.
pub const CANCEL_REQUEST: u32 = 80_877_102;
/// Code of an SSLRequest.
pub const SSL_REQUEST: u32 = 80_877_103;
/// Code of a GSSENCRequest.
pub const GSSENC_REQUEST: u32 = 80_877_104;

/// AuthenticationOk, ReadyForQuery: the shortest login a fake server can give.
pub const FAKE_LOGIN: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";

/// A typed message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The type byte.
    pub kind: u8,
    /// What follows the length.
    pub body: Vec<u8>,
}

impl Message {
    /// The field `code` of an ErrorResponse or NoticeResponse.
    #[must_use]
    pub fn field(&self, code: u8) -> Option<String> {
        self.body
            .split(|byte| *byte == 0)
            .find(|field| field.first() == Some(&code))
            .map(|field| String::from_utf8_lossy(field.get(1..).unwrap_or_default()).into_owned())
    }

    /// The bytes on the wire.
    ///
    /// # Errors
    /// When the body does not fit the length word.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        message(self.kind, &self.body)
    }
}

/// A packet without a type byte: length, code, body.
///
/// # Errors
/// When the body does not fit the length word.
pub fn packet(code: u32, body: &[u8]) -> Result<Vec<u8>> {
    let length = u32::try_from(body.len() + 8)?;
    Ok([&length.to_be_bytes()[..], &code.to_be_bytes(), body].concat())
}

/// A StartupMessage for `user` on the database `postgres`.
///
/// # Errors
/// When the name does not fit the length word.
pub fn startup(user: &str) -> Result<Vec<u8>> {
    startup_with(&[
        ("user", user),
        ("database", "postgres"),
        ("application_name", "raw"),
    ])
}

/// A StartupMessage with `parameters` in order.
///
/// # Errors
/// When they do not fit the length word.
pub fn startup_with(parameters: &[(&str, &str)]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    for (name, value) in parameters {
        body.extend_from_slice(format!("{name}\0{value}\0").as_bytes());
    }
    body.push(0);
    packet(PROTOCOL_3_0, &body)
}

/// A typed message.
///
/// # Errors
/// When the body does not fit the length word.
pub fn message(kind: u8, body: &[u8]) -> Result<Vec<u8>> {
    let length = u32::try_from(body.len() + 4)?;
    Ok([&[kind][..], &length.to_be_bytes(), body].concat())
}

/// A simple Query.
///
/// # Errors
/// When it does not fit the length word.
pub fn query(sql: &str) -> Result<Vec<u8>> {
    message(b'Q', format!("{sql}\0").as_bytes())
}

/// Reads one typed message.
///
/// # Errors
/// When the stream ends or the deadline passes before it is complete.
pub fn read_message(stream: &mut impl Read) -> Result<Message> {
    let mut head = [0_u8; 5];
    stream.read_exact(&mut head).context("no message came")?;
    let [kind, length @ ..] = head;
    let length = usize::try_from(u32::from_be_bytes(length))?
        .checked_sub(4)
        .context("message length below 4")?;
    let mut body = vec![0_u8; length];
    stream
        .read_exact(&mut body)
        .with_context(|| format!("message {} is cut", char::from(kind)))?;
    Ok(Message { kind, body })
}

/// Reads messages up to and including the first of type `kind`; an ErrorResponse on the way is an error.
///
/// # Errors
/// When it does not come.
pub fn read_through(stream: &mut impl Read, kind: u8) -> Result<Vec<Message>> {
    let mut messages = Vec::new();
    loop {
        let message = read_message(stream)?;
        let found = message.kind == kind;
        ensure!(
            found || message.kind != b'E',
            "ErrorResponse {:?} {:?}",
            message.field(b'C'),
            message.field(b'M')
        );
        messages.push(message);
        if found {
            return Ok(messages);
        }
    }
}

/// Logs in as a trusted `user` and returns the backend's key data: process id and secret.
///
/// # Errors
/// When the server refuses or sends no key.
pub fn log_in(stream: &mut TcpStream, user: &str) -> Result<Vec<u8>> {
    stream.write_all(&startup(user)?)?;
    let messages = read_through(stream, b'Z')?;
    let key = messages.into_iter().find(|message| message.kind == b'K');
    Ok(key.context("no BackendKeyData")?.body)
}

/// Runs a query that returns one value and returns it.
///
/// # Errors
/// When the server refuses or returns no row.
pub fn ask(stream: &mut TcpStream, sql: &str) -> Result<String> {
    stream.write_all(&query(sql)?)?;
    let messages = read_through(stream, b'Z')?;
    let row = messages
        .iter()
        .find(|message| message.kind == b'D')
        .context("no row")?;
    // DataRow: number of columns (2 bytes), length of the first (4 bytes), its text.
    Ok(String::from_utf8_lossy(row.body.get(6..).unwrap_or_default()).into_owned())
}

/// Accepts a connection for a fake server and reads the packet that it begins with. A connection that ends without a word
/// is not the one: pgusher dials ahead, and leaves a server to which it has had nothing to say for half a second.
///
/// # Errors
/// When nobody can be accepted, or the packet is not complete.
pub fn accept(server: &TcpListener) -> Result<TcpStream> {
    let mut stream = accept_spoken(server)?;
    read_packet(&mut stream)?;
    Ok(stream)
}

/// The same without reading the packet.
///
/// # Errors
/// When nobody can be accepted, or two connections end without a word.
pub fn accept_spoken(server: &TcpListener) -> Result<TcpStream> {
    for _ in 0..2 {
        let (stream, _) = server.accept()?;
        stream.set_read_timeout(Some(DEADLINE))?;
        if stream.peek(&mut [0])? > 0 {
            return Ok(stream);
        }
    }
    bail!("two connections ended without a word")
}

/// Reads the StartupMessage (or another packet without type) that a fake server gets.
///
/// # Errors
/// When the stream ends before it is complete.
pub fn read_packet(stream: &mut impl Read) -> Result<Vec<u8>> {
    let mut length = [0_u8; 4];
    stream
        .read_exact(&mut length)
        .context("no startup packet came")?;
    let rest = usize::try_from(u32::from_be_bytes(length))?
        .checked_sub(4)
        .context("packet length below 4")?;
    let mut body = vec![0_u8; rest];
    stream
        .read_exact(&mut body)
        .context("the startup packet is cut")?;
    Ok(body)
}
