//! Watches a login until it is decided: accepted, rejected, or cut off; and by which method.
//!
//! Only headers are read, the first bytes of some of the server's messages, and of the client's only the name of the
//! SASL mechanism it chose. What else the client answers with is secret: it is neither kept nor looked at. Once the
//! outcome is known the watch is done and costs nothing.
//!
//! Messages: protocol documentation, "Start-up" and "SASL Authentication"; codes: src/include/libpq/protocol.h.

mod method;

pub use method::Method;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::collect::{Name, Prefix};
use super::frame::{BACKEND_LARGEST, Framer, Header, Piece, frontend_limit};
use super::session::error_sqlstate;

/// How much of a message's body is looked at: all of BackendKeyData (a process id and a key of up to 256 bytes), which is
/// enough for the SQLSTATE, which every server version sends within its first fields, and for the names of all
/// mechanisms.
const MAX_BODY_BYTES: usize = 4 + 256;

/// How the server answered the login.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LoginOutcome {
    /// No answer has been seen (yet).
    #[default]
    Unanswered,
    /// AuthenticationOk and ReadyForQuery.
    Accepted,
    /// ErrorResponse before ReadyForQuery.
    Rejected {
        /// Its SQLSTATE, where it has one.
        sqlstate: Option<String>,
    },
    /// The bytes are not protocol 3 messages; what they mean is not known.
    Opaque,
}

/// A backend's process id and secret key, as a digest: it tells whether two are the same and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CancelKey([u8; 32]);

impl CancelKey {
    /// Of the body of BackendKeyData, or of CancelRequest behind its code.
    pub fn of(body: &[u8]) -> Self {
        Self(Sha256::digest(body).into())
    }
}

/// A message that no server sends during a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server sent a message that does not belong to a login")]
pub struct NotALogin;

/// The watch over one login. [`crate::wire::session::Session`] has one and hands it whole messages; alone, it cuts the
/// streams itself.
#[derive(Debug, Default)]
pub struct LoginWatch {
    outcome: LoginOutcome,
    authenticated: bool,
    method: Option<Method>,
    offers_channel_binding: bool,
    backend_pid: Option<u32>,
    cancel_key_bytes: Option<u64>,
    cancel_key: Option<CancelKey>,
    negotiated: Option<u32>,
    server: ServerSide,
    client: ClientSide,
    done: bool,
}

#[derive(Debug, Default)]
struct ServerSide {
    framer: Framer,
    kind: u8,
    prefix: Prefix,
}

#[derive(Debug, Default)]
struct ClientSide {
    framer: Framer,
    mechanism: Name,
    /// The client broke the protocol.
    is_lost: bool,
}

impl LoginWatch {
    /// Starts watching.
    pub fn new() -> Self {
        Self::default()
    }

    /// A watch over a login that encryption hides: there is nothing to learn.
    pub fn hidden() -> Self {
        let mut watch = Self::new();
        watch.finish(LoginOutcome::Opaque);
        watch
    }

    /// How the login went.
    pub fn outcome(&self) -> &LoginOutcome {
        &self.outcome
    }

    /// How the client was asked to authenticate itself, as far as the login has come.
    pub fn method(&self) -> Option<Method> {
        self.method
    }

    /// Whether the server offered a mechanism with channel binding.
    pub fn offers_channel_binding(&self) -> bool {
        self.offers_channel_binding
    }

    /// The server process, as BackendKeyData named it.
    pub fn backend_pid(&self) -> Option<u32> {
        self.backend_pid
    }

    /// The length of the key that cancels this session's queries: 4 bytes in protocol 3.0, up to 256 in 3.2.
    pub fn cancel_key_bytes(&self) -> Option<u64> {
        self.cancel_key_bytes
    }

    /// What a request that cancels this session's queries has to hold.
    pub fn cancel_key(&self) -> Option<CancelKey> {
        self.cancel_key
    }

    /// The protocol version NegotiateProtocolVersion named, as sent: some servers put the minor version there alone.
    pub fn negotiated_protocol(&self) -> Option<u32> {
        self.negotiated
    }

    /// Whether there is nothing more to learn.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Takes the next bytes the server sent, cut anywhere.
    pub fn observe(&mut self, mut bytes: &[u8]) {
        while !self.done {
            let Some(piece) = self.server.framer.next(&mut bytes) else {
                return;
            };
            match piece {
                Piece::Header(header) if header.fits(BACKEND_LARGEST) => {
                    self.server.kind = header.kind;
                    self.server.prefix.clear();
                    if !belongs_to_login(header.kind) {
                        self.finish(LoginOutcome::Opaque);
                    }
                }
                Piece::Header(_) => self.finish(LoginOutcome::Opaque),
                Piece::Body { bytes, last: false } => {
                    self.server.prefix.feed(bytes, MAX_BODY_BYTES);
                }
                Piece::Body { bytes, last: true } => {
                    let ServerSide {
                        kind, mut prefix, ..
                    } = std::mem::take(&mut self.server);
                    let (body, length) = prefix.last(bytes, MAX_BODY_BYTES);
                    if self.server_message(kind, body, length).is_err() {
                        self.finish(LoginOutcome::Opaque);
                    }
                }
            }
        }
    }

    /// Takes the next bytes the client sent behind its startup packet, cut anywhere; before the server's answers to
    /// them.
    pub fn observe_client(&mut self, mut bytes: &[u8]) {
        while !self.done && !self.client.is_lost {
            let Some(piece) = self.client.framer.next(&mut bytes) else {
                return;
            };
            match piece {
                Piece::Header(header) => {
                    let wanted = header.kind == b'p' && self.expects_mechanism();
                    self.client.mechanism.begin(wanted);
                    // The server will say what it makes of that; its side goes on being watched.
                    self.client.is_lost = !is_from_a_client(header);
                }
                Piece::Body { bytes, last } => {
                    self.client.mechanism.feed(bytes);
                    if last {
                        let name = self.client.mechanism;
                        self.client.mechanism.wipe();
                        if name.is_wanted() && name.is_ended() {
                            self.chose(name.as_bytes());
                        }
                    }
                }
            }
        }
    }

    /// Whether the client's next password message begins with the mechanism it chose.
    pub(super) fn expects_mechanism(&self) -> bool {
        self.method == Some(Method::Sasl)
    }

    /// The client chose a SASL mechanism.
    pub(super) fn chose(&mut self, mechanism: &[u8]) {
        if self.expects_mechanism() {
            self.method = Some(Method::of_mechanism(mechanism));
        }
    }

    /// Takes a message of the server's: its type, the beginning of its body, the length of the whole body.
    ///
    /// # Errors
    /// When it does not belong to a login.
    pub(super) fn server_message(
        &mut self,
        kind: u8,
        body: &[u8],
        length: u64,
    ) -> Result<(), NotALogin> {
        let word = |bytes: &[u8]| bytes.first_chunk().map(|raw| u32::from_be_bytes(*raw));
        match kind {
            b'R' => match word(body) {
                Some(code) => self.asked(code, body.get(4..).unwrap_or_default()),
                None => return Err(NotALogin),
            },
            b'K' => {
                self.backend_pid = word(body);
                self.cancel_key_bytes = length.checked_sub(4);
                let is_whole = u64::try_from(body.len()).is_ok_and(|bytes| bytes == length);
                self.cancel_key = is_whole.then(|| CancelKey::of(body));
            }
            b'v' => self.negotiated = word(body),
            b'E' => {
                let sqlstate = error_sqlstate(body.get(..MAX_BODY_BYTES).unwrap_or(body));
                self.finish(LoginOutcome::Rejected { sqlstate });
            }
            b'Z' if self.authenticated => self.finish(LoginOutcome::Accepted),
            b'N' | b'S' => {}
            _ => return Err(NotALogin),
        }
        Ok(())
    }

    /// The streams turned out not to be what they seemed.
    pub(super) fn is_not_understood(&mut self) {
        if !self.done {
            self.finish(LoginOutcome::Opaque);
        }
    }

    /// The server asked for a step of authentication, or for none any more.
    fn asked(&mut self, code: u32, rest: &[u8]) {
        if code == method::OK {
            self.authenticated = true;
        }
        if code == method::SASL {
            self.offers_channel_binding = rest
                .split(|byte| *byte == 0)
                .any(|mechanism| mechanism.ends_with(b"-PLUS"));
        }
        if let Some(method) = Method::of_request(code) {
            // AuthenticationOk ends whatever was asked before; alone it means that nothing was.
            let is_new = code != method::OK || self.method.is_none();
            self.method = if is_new { Some(method) } else { self.method };
        }
    }

    fn finish(&mut self, outcome: LoginOutcome) {
        self.client.mechanism.wipe();
        self.outcome = outcome;
        self.done = true;
        self.server = ServerSide::default();
        self.client = ClientSide::default();
    }
}

fn belongs_to_login(kind: u8) -> bool {
    matches!(kind, b'R' | b'E' | b'N' | b'S' | b'K' | b'Z' | b'v')
}

fn is_from_a_client(header: Header) -> bool {
    frontend_limit(header.kind).is_some_and(|most| header.fits(most))
}

#[cfg(test)]
mod tests;
