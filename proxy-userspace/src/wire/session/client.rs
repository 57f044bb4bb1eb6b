//! Reads the client's stream: bytes in, one [`Sent`] for each message out.
//!
//! Owns what is kept of a message that is not complete yet. Knows nothing of what the server has answered.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::Capture;
use super::event::{Prepared, Target, Violation};
use super::request::{Request, Sent};
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

/// The client's side of a session.
#[derive(Debug)]
pub(super) struct ClientReader {
    capture: Capture,
    framer: Framer,
    /// When the first byte of the message being read was seen.
    started: Option<Instant>,
    body: Body,
    prefix: Prefix,
    /// Parse messages so far.
    parses: u64,
}

/// What is collected of the message being read.
#[derive(Debug)]
enum Body {
    /// Nothing: its type and length say it all.
    None(u8, u32),
    Query(TextCollector),
    Parse(Name, TextCollector),
    Bind(Name, Name),
    /// Its beginning.
    Prefix(u8),
    /// An answer to authentication: nothing, or the name of the mechanism in front of it.
    Answer(Option<Name>),
}

impl std::fmt::Debug for TextCollector {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("TextCollector")
    }
}

impl std::fmt::Debug for Name {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Name")
    }
}

impl ClientReader {
    /// Starts behind the startup packet.
    pub(super) fn new(capture: Capture) -> Self {
        Self {
            capture,
            framer: Framer::new(),
            started: None,
            body: Body::None(0, 0),
            prefix: Prefix::default(),
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
                        return Some(Sent {
                            started,
                            malformed: true,
                            request: Request::Broken(violation),
                        });
                    }
                }
                Piece::Body { bytes, last: false } => self.feed(bytes),
                Piece::Body { bytes, last: true } => {
                    let (request, malformed) = self.complete(bytes, login);
                    return Some(Sent {
                        started,
                        malformed,
                        request,
                    });
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
        let text = || {
            let keep = self.capture.text_bytes.min(room);
            TextCollector::new(keep, u64::from(header.body_bytes()))
        };
        self.body = match kind {
            b'Q' => Body::Query(text()),
            b'P' => Body::Parse(Name::default(), text()),
            b'B' => Body::Bind(Name::default(), Name::default()),
            b'F' | b'D' | b'E' | b'C' => Body::Prefix(kind),
            b'p' => Body::Answer(login.expects_mechanism().then(Name::default)),
            _ => Body::None(kind, header.body_bytes()),
        };
        self.prefix.clear();
        Ok(())
    }

    /// How much is kept of what no collector of its own takes.
    fn most(&self) -> usize {
        match self.body {
            Body::Query(_) => 1,
            Body::Parse(..) => MAX_TYPES_BYTES,
            Body::Prefix(b'F') | Body::Bind(..) => {
                let values = self.capture.parameter_bytes.unwrap_or(0);
                MAX_FORMATS_BYTES.saturating_add(values)
            }
            Body::Prefix(_) => FRONTEND_SMALL as usize,
            Body::None(..) | Body::Answer(_) => 0,
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        let most = self.most();
        let rest = self.body.feed(bytes);
        self.prefix.feed(rest, most);
    }

    /// Handles the last piece: what the message asks for, and whether its body will be refused.
    fn complete(&mut self, bytes: &[u8], login: &mut LoginWatch) -> (Request, bool) {
        let most = self.most();
        let rest = self.body.feed(bytes);
        let (rest, length) = self.prefix.last(rest, most);
        let keep = self.capture.parameter_bytes;
        match std::mem::replace(&mut self.body, Body::None(0, 0)) {
            Body::None(kind, length) => (without_body(kind, length), false),
            Body::Query(text) => {
                let malformed = !text.is_ended() || length > 0;
                (Request::Query(text.finish()), malformed)
            }
            Body::Parse(name, text) => {
                self.parses += 1;
                let (types, refused) = parameter_types(rest, length);
                let malformed = !name.is_ended() || !text.is_ended() || refused;
                let prepared = Prepared {
                    number: self.parses,
                    name: owned(name.as_bytes()),
                    text: text.finish(),
                    parameter_types: types,
                };
                (Request::Parse(Arc::new(prepared)), malformed)
            }
            Body::Bind(portal, statement) => {
                let (parameters, refused) = values::read(rest, length, keep, ResultFormats::List);
                let request = Request::Bind {
                    portal: owned(portal.as_bytes()),
                    statement: owned(statement.as_bytes()),
                    parameters,
                };
                (request, refused || !statement.is_ended())
            }
            Body::Prefix(b'F') => function_call(rest, length, keep),
            Body::Prefix(kind) => small(kind, rest),
            Body::Answer(mechanism) => {
                if let Some(mechanism) = mechanism.filter(Name::is_ended) {
                    login.chose(mechanism.as_bytes());
                }
                (Request::Silent, false)
            }
        }
    }
}

impl Body {
    /// Feeds the collectors in their order; gives back what is behind them.
    fn feed<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        match self {
            Self::None(..) => &[],
            Self::Query(text) => text.feed(bytes),
            Self::Parse(name, text) => match name.feed(bytes) {
                rest if name.is_ended() => text.feed(rest),
                rest => rest,
            },
            Self::Bind(portal, statement) => match portal.feed(bytes) {
                rest if portal.is_ended() => statement.feed(rest),
                rest => rest,
            },
            Self::Prefix(_) => bytes,
            // Secrets follow the mechanism's name: they go nowhere.
            Self::Answer(mechanism) => {
                if let Some(mechanism) = mechanism {
                    mechanism.feed(bytes);
                }
                &[]
            }
        }
    }
}

fn owned(name: &[u8]) -> Bytes {
    if name.is_empty() {
        Bytes::new()
    } else {
        Bytes::copy_from_slice(name)
    }
}

fn without_body(kind: u8, length: u32) -> Request {
    match kind {
        b'S' => Request::Sync,
        b'd' => Request::CopyData(u64::from(length)),
        b'c' | b'f' => Request::CopyEnd,
        // Flush has no body (`pq_getmsgend`).
        b'H' if length > 0 => Request::RefusedFlush,
        _ => Request::Silent,
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

fn function_call(body: &[u8], length: u64, keep: Option<usize>) -> (Request, bool) {
    let mut cursor = Cursor::new(body);
    let function = cursor.u32();
    let length = length.saturating_sub(size_of::<u32>() as u64);
    let (arguments, refused) = values::read(cursor.rest(), length, keep, ResultFormats::One);
    let request = Request::FunctionCall {
        function: function.unwrap_or(0),
        arguments,
    };
    (request, refused || function.is_err())
}

/// Describe, Execute and Close, which are never longer than what is kept. Of one that is refused the name is not told.
fn small(kind: u8, body: &[u8]) -> (Request, bool) {
    let target = |named: Named<'_>| match named {
        Named::Statement(name) => Target::Statement(name_of(name)),
        Named::Portal(name) => Target::Portal(name_of(name)),
    };
    let request = match Frontend::parse(kind, body) {
        Ok(Frontend::Describe(named)) => Request::Describe(target(named)),
        Ok(Frontend::Close(named)) => Request::Close(target(named)),
        Ok(Frontend::Execute { portal, max_rows }) => Request::Execute {
            portal: name_of(portal),
            // Negative is all, as in the server (PortalRun).
            max_rows: max_rows.max(0).unsigned_abs(),
        },
        _ => return (refused(kind), true),
    };
    (request, false)
}

fn refused(kind: u8) -> Request {
    let nothing = Target::Portal(Bytes::new());
    match kind {
        b'D' => Request::Describe(nothing),
        b'C' => Request::Close(nothing),
        _ => Request::Execute {
            portal: Bytes::new(),
            max_rows: 0,
        },
    }
}

/// A name as the server looks it up.
fn name_of(name: &[u8]) -> Bytes {
    owned(name.get(..MAX_NAME_BYTES).unwrap_or(name))
}
