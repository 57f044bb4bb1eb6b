//! Reads the client's stream: bytes in, one [`Sent`] for each message out.
//!
//! Owns what is kept of a message that is not complete yet. Knows nothing of what the server has answered.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::Capture;
use super::event::{Parameters, Prepared, Subject, Target, Violation};
use super::request::Sent;
use super::values::{self, ResultFormats};
use crate::wire::collect::{MAX_NAME_BYTES, Name, Prefix, TextCollector};
use crate::wire::cursor::Cursor;
use crate::wire::frame::{FRONTEND_SMALL, Framer, Header, Piece, Run, frontend_limit};
use crate::wire::frontend::{Frontend, Named};
use crate::wire::login::LoginWatch;

/// What Bind and FunctionCall need before their values: two counts and 65,535 format codes.
const MAX_FORMATS_BYTES: usize = 2 + 2 * 65_535 + 2;
/// What Parse has behind its text at most: a count and 65,535 type OIDs.
const MAX_TYPES_BYTES: usize = 2 + 4 * 65_535;

/// The client's side of a session. The collectors stay where they are and are used again for every message.
#[derive(Debug)]
pub(super) struct ClientReader {
    capture: Capture,
    framer: Framer,
    /// When the first byte of the message being read was seen.
    started: Option<Instant>,
    /// What is being read.
    kind: u8,
    body_bytes: u32,
    /// A Parse's statement, a Bind's portal, the mechanism a client chose.
    first_name: Name,
    /// A Bind's statement.
    second_name: Name,
    text: TextCollector,
    /// What no other collector takes.
    rest: Prefix,
    /// Parse messages so far.
    parses: u64,
}

impl ClientReader {
    /// Starts behind the startup packet.
    pub(super) fn new(capture: Capture) -> Self {
        Self {
            capture,
            framer: Framer::new(),
            started: None,
            kind: 0,
            body_bytes: 0,
            first_name: Name::default(),
            second_name: Name::default(),
            text: TextCollector::default(),
            rest: Prefix::default(),
            parses: 0,
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
                    if let Err(violation) = self.begin(header, room, login) {
                        return Some(Sent::Broken(violation));
                    }
                }
                Piece::Body { bytes, last: false } => self.feed(bytes),
                Piece::Body { bytes, last: true } => {
                    return Some(self.complete(bytes, started, login));
                }
            }
        }
    }

    fn begin(&mut self, header: Header, room: usize, login: &LoginWatch) -> Result<(), Violation> {
        let Header { kind, length } = header;
        let limit = frontend_limit(kind)
            // Once the login is over, the server knows no password messages any more.
            .filter(|_| kind != b'p' || !login.is_done())
            .ok_or(Violation::FrontendType(kind))?;
        if !header.fits(limit) {
            return Err(Violation::FrontendLength { kind, length });
        }
        self.kind = kind;
        self.body_bytes = header.body_bytes();
        match kind {
            b'Q' | b'P' => {
                let keep = self.capture.text_bytes.min(room);
                self.first_name.begin(kind == b'P');
                self.text.begin(keep, u64::from(self.body_bytes));
            }
            b'B' => {
                self.first_name.begin(true);
                self.second_name.begin(true);
            }
            b'p' => self.first_name.begin(login.expects_mechanism()),
            _ => {}
        }
        self.rest.clear();
        Ok(())
    }

    /// How much is kept of what no collector of its own takes.
    fn most(&self) -> usize {
        match self.kind {
            b'Q' => 1,
            b'P' => MAX_TYPES_BYTES,
            b'F' | b'B' => {
                let values = self.capture.parameter_bytes.unwrap_or(0);
                MAX_FORMATS_BYTES.saturating_add(values)
            }
            b'D' | b'E' | b'C' => FRONTEND_SMALL as usize,
            _ => 0,
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        let most = self.most();
        let rest = self.collect(bytes);
        self.rest.feed(rest, most);
    }

    /// Feeds the collectors in their order; gives back what is behind them.
    fn collect<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        match self.kind {
            b'Q' => self.text.feed(bytes),
            b'P' => match self.first_name.feed(bytes) {
                rest if self.first_name.is_ended() => self.text.feed(rest),
                rest => rest,
            },
            b'B' => match self.first_name.feed(bytes) {
                rest if self.first_name.is_ended() => self.second_name.feed(rest),
                rest => rest,
            },
            // Secrets follow the mechanism's name: they go nowhere.
            b'p' => {
                self.first_name.feed(bytes);
                &[]
            }
            _ => bytes,
        }
    }

    /// Handles the last piece.
    fn complete(&mut self, bytes: &[u8], started: Instant, login: &mut LoginWatch) -> Sent {
        let most = self.most();
        let rest = self.collect(bytes);
        let (rest, length) = self.rest.last(rest, most);
        let keep = self.capture.parameter_bytes;
        let (subject, malformed) = match self.kind {
            b'S' => return Sent::Sync(started),
            b'd' => return Sent::CopyData(u64::from(self.body_bytes)),
            b'c' | b'f' => return Sent::CopyEnd,
            // Flush has no body (`pq_getmsgend`).
            b'H' if self.body_bytes > 0 => return Sent::RefusedFlush,
            b'p' => {
                if self.first_name.is_wanted() && self.first_name.is_ended() {
                    login.chose(self.first_name.as_bytes());
                }
                self.first_name.wipe();
                return Sent::Silent;
            }
            b'Q' => {
                let malformed = !self.text.is_ended() || length > 0;
                let text = self.text.finish();
                (Subject::Query { text }, malformed)
            }
            b'P' => {
                self.parses += 1;
                let (types, refused) = parameter_types(rest, length);
                let malformed = !self.first_name.is_ended() || !self.text.is_ended() || refused;
                let prepared = Arc::new(Prepared {
                    number: self.parses,
                    name: owned(self.first_name.as_bytes()),
                    text: self.text.finish(),
                    parameter_types: types,
                });
                (Subject::Parse { prepared }, malformed)
            }
            b'B' => {
                let (parameters, refused) = values::read(rest, length, keep, ResultFormats::List);
                let subject = Subject::Bind {
                    portal: owned(self.first_name.as_bytes()),
                    statement: owned(self.second_name.as_bytes()),
                    prepared: None,
                    forgotten: false,
                    parameters,
                };
                (subject, refused || !self.second_name.is_ended())
            }
            b'F' => function_call(rest, length, keep),
            b'D' | b'E' | b'C' => small(self.kind, rest),
            _ => return Sent::Silent,
        };
        Sent::message(subject, malformed, started)
    }
}

fn owned(name: &[u8]) -> Bytes {
    if name.is_empty() {
        Bytes::new()
    } else {
        Bytes::copy_from_slice(name)
    }
}

/// The parameter types behind a Parse's text, and whether the server will refuse them.
fn parameter_types(body: &[u8], length: u64) -> (Vec<u32>, bool) {
    let read = || {
        let mut cursor = Cursor::new(body);
        let types = cursor.oids()?;
        cursor.end().map(|()| types)
    };
    let is_cut = (body.len() as u64) < length;
    read().map_or((Vec::new(), true), |types| (types, is_cut))
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
