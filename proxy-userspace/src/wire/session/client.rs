//! Reads the client's stream: bytes in, one [`Sent`] for each message out.
//!
//! Owns the place in the stream. Knows nothing of what the server has answered.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::Capture;
use super::event::{Parameters, Prepared, Subject, Target, Violation};
use super::fields::{Fields, Keep, MAX_PARAMETER_TYPES, Pieces};
use super::request::Sent;
use super::values::{self, ResultFormats};
use crate::wire::collect::MAX_NAME_BYTES;
use crate::wire::cursor::Cursor;
use crate::wire::frame::{Framer, Header, Piece, Run, frontend_limit};
use crate::wire::frontend::{Frontend, Named};
use crate::wire::login::LoginWatch;

/// The client's side of a session.
#[derive(Debug)]
pub(super) struct ClientReader {
    framer: Framer,
    /// When the first byte of the message being read was seen.
    started: Option<Instant>,
    /// The header of the message being read.
    header: Header,
    pieces: Pieces,
    maker: Maker,
}

impl ClientReader {
    /// Starts behind the startup packet.
    pub(super) fn new(capture: Capture) -> Self {
        Self {
            framer: Framer::new(),
            started: None,
            header: Header::default(),
            pieces: Pieces::new(capture),
            maker: Maker { capture, parses: 0 },
        }
    }

    /// Takes CopyData messages off the front, all that lie wholly within `bytes`.
    pub(super) fn copy_data(&mut self, bytes: &mut &[u8]) -> Run {
        self.framer.run(b'd', bytes)
    }

    /// Reads until a message is complete or the bytes are used up. `room` is how much may be kept of a text.
    pub(super) fn next(
        &mut self,
        bytes: &mut &[u8],
        now: Instant,
        room: usize,
        login: &mut LoginWatch,
    ) -> Option<Sent> {
        let keep = Keep::new(self.maker.capture, room, login.expects_mechanism());
        if let Some((header, body)) = self.framer.whole(bytes) {
            if let Err(violation) = check(header, login) {
                return Some(Sent::Broken(violation));
            }
            let fields = Fields::of_body(header.kind, body, keep);
            return Some(self.maker.sent(header, fields, now, login));
        }
        if self.framer.is_between_messages() {
            if bytes.is_empty() {
                return None;
            }
            self.started = Some(now);
        }
        let started = self.started.unwrap_or(now);
        loop {
            match self.framer.next(bytes)? {
                Piece::Header(header) => {
                    if let Err(violation) = check(header, login) {
                        return Some(Sent::Broken(violation));
                    }
                    self.header = header;
                    self.pieces.begin(header, keep);
                }
                Piece::Body { bytes, last: false } => self.pieces.feed(bytes),
                Piece::Body { bytes, last: true } => {
                    let fields = self.pieces.last(bytes);
                    let sent = self.maker.sent(self.header, fields, started, login);
                    if self.header.kind == b'p' {
                        self.pieces.wipe();
                    }
                    return Some(sent);
                }
            }
        }
    }
}

/// Checks that PostgreSQL takes such a message.
fn check(header: Header, login: &LoginWatch) -> Result<(), Violation> {
    let Header { kind, length } = header;
    let limit = frontend_limit(kind)
        // Once the login is over, the server knows no password messages any more.
        .filter(|_| kind != b'p' || !login.is_done())
        .ok_or(Violation::FrontendType(kind))?;
    if header.fits(limit) {
        Ok(())
    } else {
        Err(Violation::FrontendLength { kind, length })
    }
}

/// Makes of each message what the machine works with.
#[derive(Debug)]
struct Maker {
    capture: Capture,
    /// Parse messages so far.
    parses: u64,
}

impl Maker {
    fn sent(
        &mut self,
        header: Header,
        fields: Fields<'_>,
        started: Instant,
        login: &mut LoginWatch,
    ) -> Sent {
        let (rest, length) = (fields.rest, fields.rest_bytes);
        let keep = self.capture.parameter_bytes;
        let (subject, malformed) = match header.kind {
            b'Q' => {
                let malformed = !fields.are_ended || length > 0;
                let text = fields.text.keep();
                return Sent::message(Subject::Query { text }, malformed, started);
            }
            b'S' => return Sent::Sync(started),
            b'd' => return Sent::CopyData(u64::from(header.body_bytes())),
            b'c' | b'f' => return Sent::CopyEnd,
            // Flush has no body (`pq_getmsgend`).
            b'H' if header.body_bytes() > 0 => return Sent::RefusedFlush,
            b'p' => {
                if fields.are_ended {
                    login.chose(fields.first_name);
                }
                return Sent::Silent;
            }
            b'P' => self.parse(fields),
            b'B' => {
                let (parameters, refused) = values::read(rest, length, keep, ResultFormats::List);
                let subject = Subject::Bind {
                    portal: owned(fields.first_name),
                    statement: owned(fields.second_name),
                    prepared: None,
                    forgotten: false,
                    parameters,
                };
                (subject, refused || !fields.are_ended)
            }
            b'F' => function_call(rest, length, keep),
            b'D' | b'E' | b'C' => small(header.kind, rest),
            _ => return Sent::Silent,
        };
        Sent::message(subject, malformed, started)
    }

    fn parse(&mut self, fields: Fields<'_>) -> (Subject, bool) {
        self.parses += 1;
        let (types, refused) = parameter_types(fields.rest, fields.rest_bytes);
        let prepared = Arc::new(Prepared {
            number: self.parses,
            name: owned(fields.first_name),
            text: fields.text.keep(),
            parameter_types: types,
        });
        (Subject::Parse { prepared }, !fields.are_ended || refused)
    }
}

fn owned(name: &[u8]) -> Bytes {
    if name.is_empty() {
        Bytes::new()
    } else {
        Bytes::copy_from_slice(name)
    }
}

/// The first of the parameter types behind a Parse's text, and whether the server will refuse them.
fn parameter_types(body: &[u8], length: u64) -> (Vec<u32>, bool) {
    let mut cursor = Cursor::new(body);
    let count = cursor.u16().unwrap_or(0);
    if length != (size_of::<u16>() + size_of::<u32>() * usize::from(count)) as u64 {
        return (Vec::new(), true);
    }
    let kept = usize::from(count).min(MAX_PARAMETER_TYPES);
    let types = (0..kept).map_while(|_| cursor.u32().ok());
    (types.collect(), false)
}

fn function_call(body: &[u8], length: u64, keep: Option<usize>) -> (Subject, bool) {
    let mut cursor = Cursor::new(body);
    let function = cursor.u32();
    let length = length.saturating_sub(size_of::<u32>() as u64);
    let (arguments, refused) = values::read(cursor.rest(), length, keep, ResultFormats::One);
    let subject = Subject::FunctionCall {
        function: function.unwrap_or(0),
        arguments,
    };
    (subject, refused || function.is_err())
}

/// Describe, Execute and Close, which are never longer than what is kept. Of one that is refused the name is not told.
fn small(kind: u8, body: &[u8]) -> (Subject, bool) {
    let target = |named: Named<'_>| match named {
        Named::Statement(name) => Target::Statement(name_of(name)),
        Named::Portal(name) => Target::Portal(name_of(name)),
    };
    let nothing = || Target::Portal(Bytes::new());
    match (kind, Frontend::parse(kind, body)) {
        (_, Ok(Frontend::Describe(named))) => (Subject::Describe(target(named)), false),
        (_, Ok(Frontend::Close(named))) => (Subject::Close(target(named)), false),
        // Negative is all, as in the server (PortalRun).
        (_, Ok(Frontend::Execute { portal, max_rows })) => (
            execute(name_of(portal), max_rows.max(0).unsigned_abs()),
            false,
        ),
        (b'D', _) => (Subject::Describe(nothing()), true),
        (b'C', _) => (Subject::Close(nothing()), true),
        _ => (execute(Bytes::new(), 0), true),
    }
}

/// An Execute of which only the portal is known.
fn execute(portal: Bytes, max_rows: u32) -> Subject {
    Subject::Execute {
        portal,
        statement: None,
        prepared: None,
        forgotten: false,
        parameters: Parameters::default(),
        max_rows,
    }
}

/// A name as the server looks it up.
fn name_of(name: &[u8]) -> Bytes {
    owned(name.get(..MAX_NAME_BYTES).unwrap_or(name))
}
