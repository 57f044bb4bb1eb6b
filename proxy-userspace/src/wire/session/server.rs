//! Reads the server's stream: bytes in, one [`Reply`] for each message out.

use bytes::Bytes;

use super::event::{ServerError, Setting, Violation};
use crate::wire::collect::Prefix;
use crate::wire::frame::{BACKEND_LARGEST, Framer, Header, Piece, Run, is_backend_type};

/// How much of a body is looked at: the fields of an error that are told come first.
const MAX_BODY_BYTES: usize = 4096;
/// Bytes of an error's message that are kept.
pub(in crate::wire) const MAX_MESSAGE_BYTES: usize = 2048;
/// Bytes of a setting's name and of its value that are kept, each.
pub(in crate::wire) const MAX_SETTING_BYTES: usize = 1024;

/// A message of the server's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reply<'a> {
    pub(super) kind: u8,
    /// The beginning of the body, nothing of it where it does not matter.
    pub(super) body: &'a [u8],
    /// Bytes of the whole body.
    pub(super) length: u64,
}

/// The server's side of a session.
#[derive(Debug, Default)]
pub(super) struct ServerReader {
    framer: Framer,
    kind: u8,
    prefix: Prefix,
}

impl ServerReader {
    /// Takes DataRow or CopyData messages off the front, all that lie wholly within `bytes`.
    pub(super) fn run(&mut self, kind: u8, bytes: &mut &[u8]) -> Run {
        self.framer.run(kind, bytes)
    }

    /// Reads until a message is complete or the bytes are used up.
    ///
    /// # Errors
    /// When no server sends such a message.
    pub(super) fn next<'s, 'a: 's>(
        &'s mut self,
        bytes: &mut &'a [u8],
    ) -> Option<Result<Reply<'s>, Violation>> {
        if let Some((header, body)) = self.framer.whole(bytes) {
            return Some(check(header).map(|()| Reply {
                kind: header.kind,
                body: body.get(..most(header.kind)).unwrap_or(body),
                length: body.len() as u64,
            }));
        }
        loop {
            match self.framer.next(bytes)? {
                Piece::Header(header) => {
                    if let Err(violation) = check(header) {
                        return Some(Err(violation));
                    }
                    self.kind = header.kind;
                    self.prefix.clear();
                }
                Piece::Body { bytes, last: false } => self.prefix.feed(bytes, most(self.kind)),
                Piece::Body { bytes, last: true } => {
                    let (body, length) = self.prefix.last(bytes, most(self.kind));
                    return Some(Ok(Reply {
                        kind: self.kind,
                        body,
                        length,
                    }));
                }
            }
        }
    }
}

/// Checks that some server sends such a message.
fn check(header: Header) -> Result<(), Violation> {
    let Header { kind, length } = header;
    if !is_backend_type(kind) {
        Err(Violation::BackendType(kind))
    } else if !header.fits(BACKEND_LARGEST) {
        Err(Violation::BackendLength { kind, length })
    } else {
        Ok(())
    }
}

fn most(kind: u8) -> usize {
    match kind {
        b'C' | b'E' | b'K' | b'R' | b'S' | b'Z' | b'v' => MAX_BODY_BYTES,
        _ => 0,
    }
}

/// The main fields of an ErrorResponse whose body begins so.
pub(super) fn server_error(body: &[u8]) -> ServerError {
    let mut error = ServerError::default();
    let mut has_unlocalised = false;
    for field in body.split(|byte| *byte == 0) {
        match field.split_first() {
            // The terminator, or the end of what was kept.
            None => break,
            Some((b'V', severity)) => {
                has_unlocalised = true;
                error.severity = cut(severity, MAX_SETTING_BYTES);
            }
            Some((b'S', severity)) if !has_unlocalised => {
                error.severity = cut(severity, MAX_SETTING_BYTES);
            }
            Some((b'C', code)) => error.sqlstate = sqlstate(code),
            Some((b'M', message)) => error.message = cut(message, MAX_MESSAGE_BYTES),
            Some(_) => {}
        }
    }
    error
}

/// The SQLSTATE of an ErrorResponse whose body begins so, if it has one.
pub(in crate::wire) fn error_sqlstate(body: &[u8]) -> Option<String> {
    server_error(body).sqlstate
}

fn sqlstate(code: &[u8]) -> Option<String> {
    let is_code = code.len() == 5
        && code
            .iter()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    is_code.then(|| String::from_utf8_lossy(code).into_owned())
}

/// Name and value of a ParameterStatus.
pub(super) fn setting(body: &[u8]) -> Setting {
    let mut parts = body.splitn(3, |byte| *byte == 0);
    let mut part = || cut(parts.next().unwrap_or_default(), MAX_SETTING_BYTES);
    Setting {
        name: part(),
        value: part(),
    }
}

fn cut(bytes: &[u8], most: usize) -> Bytes {
    Bytes::copy_from_slice(bytes.get(..most).unwrap_or(bytes))
}
