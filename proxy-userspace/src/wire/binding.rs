//! SCRAM channel binding where TLS ends at pgusher: what of it can work, what cannot, and who is told.
//!
//! With binding, a client proves to the server which certificate it was shown. Behind pgusher that is another
//! certificate than the server's, so the proof must fail; and without it the client's flag `y` ("I could, you did not
//! offer") fails as well (`read_client_first_message` in src/backend/libpq/auth-scram.c). Only a client that says `n`
//! gets through. This machine lets the offer pass and stops a client that chose what is bound to fail, before the
//! server hears of it. A client without TLS would break off at the very offer of SCRAM-SHA-256-PLUS
//! (`pg_SASL_init` in src/interfaces/libpq/fe-auth.c): for it alone the mechanism is taken out of the offer, the one
//! change pgusher ever makes to what a server said.
//!
//! Sans-IO and bounded: of either side at most one authentication message is held.

use bytes::{BufMut as _, BytesMut};
use zeroize::Zeroizing;

use super::error_response::{FatalError, SqlState};

/// What libpq takes for an authentication request at most (`CONNECTION_AWAITING_RESPONSE` in fe-connect.c).
const MAX_REQUEST_BYTES: usize = 2000;
/// `PG_MAX_SASL_MESSAGE_LENGTH` (src/include/libpq/sasl.h) and the message's type byte.
const MAX_RESPONSE_BYTES: usize = 1024 + 1;
/// How much of a client's is held while the server has not said how to authenticate.
const MAX_HELD_BYTES: usize = 4096;
/// The header of a message: type and length.
const HEADER_BYTES: usize = 5;
/// `AuthenticationSASL` (protocol documentation, "Message Formats").
const AUTHENTICATION_SASL: [u8; 4] = 10_u32.to_be_bytes();
const SCRAM: &[u8] = b"SCRAM-SHA-256";
const SCRAM_PLUS: &[u8] = b"SCRAM-SHA-256-PLUS";

const HINT: &str = "Any one of these helps: give pgusher the server's own certificate and key for this route; set \
tls = \"passthrough\" for it; set server_sslmode = \"disable\" where the path to the server is trusted; or connect with \
channel_binding=disable.";

/// A client that chose what cannot succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doomed {
    /// It bound its proof to our certificate.
    BoundToOurs,
    /// It said that it could bind and was offered nothing, which the server takes for an attack.
    CouldBind,
}

impl Doomed {
    /// What the client is told.
    pub fn error(self) -> FatalError {
        let detail = match self {
            Self::BoundToOurs => {
                "The client chose SCRAM-SHA-256-PLUS and bound its proof to pgusher's certificate; the server would compare it with its own."
            }
            Self::CouldBind => {
                "The client said that it supports channel binding and chose SCRAM-SHA-256 all the same; a server that offers SCRAM-SHA-256-PLUS takes that for a downgrade attack."
            }
        };
        let message = "channel binding cannot survive TLS termination here".to_owned();
        FatalError::new(SqlState::InvalidAuthorization, message)
            .with_detail(detail)
            .with_hint(HINT)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The server has not said how it wants the client to authenticate.
    Asking,
    /// It has offered channel binding; the client's choice is awaited.
    Offered,
    /// Nothing is left to watch.
    Done,
}

/// The watch over one login with a server on TLS.
#[derive(Debug)]
pub struct Binding {
    phase: Phase,
    /// The client has no TLS: the offer is changed.
    strips: bool,
    /// Header, and the body of an authentication request, until complete.
    request: Vec<u8>,
    /// Body bytes of another message still to come.
    skip: usize,
    /// The client's bytes not decided on yet.
    held: Zeroizing<Vec<u8>>,
}

impl Binding {
    /// For a client on TLS whose certificate from us is not the server's own.
    pub fn guarding() -> Self {
        Self::new(false)
    }

    /// For a client without TLS.
    pub fn stripping() -> Self {
        Self::new(true)
    }

    fn new(strips: bool) -> Self {
        Self {
            phase: Phase::Asking,
            strips,
            request: Vec::new(),
            skip: 0,
            held: Zeroizing::new(Vec::new()),
        }
    }

    /// Whether everything from here on passes as it is, and nothing is held any more.
    pub fn is_done(&self) -> bool {
        self.phase == Phase::Done && self.held.is_empty()
    }

    /// Whether the client may be read: not while it has sent more than there is to decide on.
    pub fn wants_client(&self) -> bool {
        self.held.len() < MAX_HELD_BYTES
    }

    /// Takes the server's next bytes, cut anywhere, and adds what the client is to get of them.
    pub fn server_sent(&mut self, mut bytes: &[u8], to_client: &mut BytesMut) {
        while self.phase == Phase::Asking && !bytes.is_empty() {
            bytes = self.read_request(bytes, to_client);
        }
        to_client.extend_from_slice(bytes);
    }

    /// Takes the client's next bytes, cut anywhere.
    pub fn client_sent(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// Adds what the server is to get of the client's bytes by now.
    ///
    /// # Errors
    /// [`Doomed`] when the client's choice cannot succeed; the server gets nothing of it.
    pub fn release(&mut self, to_server: &mut BytesMut) -> Result<(), Doomed> {
        if self.phase == Phase::Offered {
            match judge(&self.held) {
                Judgement::NotYet => {}
                Judgement::Passes => self.phase = Phase::Done,
                Judgement::Doomed(doomed) => return Err(doomed),
            }
        }
        if self.phase == Phase::Done {
            to_server.extend_from_slice(&self.held);
            self.held = Zeroizing::new(Vec::new());
        }
        Ok(())
    }

    /// Gives back what is held, undecided, because a side has ended: to go to the server, and to the client.
    pub fn give_up(mut self, to_server: &mut BytesMut, to_client: &mut BytesMut) {
        to_server.extend_from_slice(&self.held);
        self.finish(to_client);
    }

    fn read_request<'a>(&mut self, bytes: &'a [u8], to_client: &mut BytesMut) -> &'a [u8] {
        if self.skip > 0 {
            let (skipped, rest) = bytes.split_at(self.skip.min(bytes.len()));
            self.skip -= skipped.len();
            to_client.extend_from_slice(skipped);
            return rest;
        }
        let wanted = self.request_bytes().unwrap_or(HEADER_BYTES);
        let missing = wanted.saturating_sub(self.request.len());
        let (taken, rest) = bytes.split_at(missing.min(bytes.len()));
        self.request.extend_from_slice(taken);
        match (self.request.first(), self.request_bytes()) {
            (_, None) => {}
            (Some(b'R'), Some(total)) if (9..=MAX_REQUEST_BYTES).contains(&total) => {
                if self.request.len() == total {
                    self.decide(to_client);
                }
            }
            // Neither is an answer to the startup packet yet.
            (Some(b'v' | b'N'), Some(total)) if total >= HEADER_BYTES => {
                self.skip = total - HEADER_BYTES;
                to_client.extend_from_slice(&std::mem::take(&mut self.request));
            }
            // An error, or nothing a server says here: the client's to judge.
            _ => self.finish(to_client),
        }
        rest
    }

    /// The size of the message whose header is in `request`; none until the header is complete.
    fn request_bytes(&self) -> Option<usize> {
        let [_, a, b, c, d] = *self.request.first_chunk::<HEADER_BYTES>()?;
        let length = u32::from_be_bytes([a, b, c, d]);
        Some(usize::try_from(length).map_or(usize::MAX, |length| length.saturating_add(1)))
    }

    /// A complete authentication request is there.
    fn decide(&mut self, to_client: &mut BytesMut) {
        let offer = self.request.get(HEADER_BYTES..).unwrap_or_default();
        let mechanisms = offer.strip_prefix(&AUTHENTICATION_SASL);
        let offers_plus = mechanisms.is_some_and(|list| names(list).any(|name| name == SCRAM_PLUS));
        match mechanisms {
            Some(list) if offers_plus && self.strips => {
                put_offer_without_plus(list, to_client);
                self.request = Vec::new();
                self.phase = Phase::Done;
            }
            _ if offers_plus => {
                self.finish(to_client);
                self.phase = Phase::Offered;
            }
            _ => self.finish(to_client),
        }
    }

    fn finish(&mut self, to_client: &mut BytesMut) {
        to_client.extend_from_slice(&std::mem::take(&mut self.request));
        self.phase = Phase::Done;
    }
}

/// The names in a mechanism list: NUL-terminated each, and an empty one at the end.
fn names(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == 0)
        .take_while(|name| !name.is_empty())
}

fn put_offer_without_plus(list: &[u8], to_client: &mut BytesMut) {
    let mut body = AUTHENTICATION_SASL.to_vec();
    for name in names(list).filter(|name| *name != SCRAM_PLUS) {
        body.extend_from_slice(name);
        body.push(0);
    }
    body.push(0);
    to_client.put_u8(b'R');
    // At most as long as the offer was.
    to_client.put_u32(u32::try_from(body.len() + 4).unwrap_or(u32::MAX));
    to_client.extend_from_slice(&body);
}

enum Judgement {
    NotYet,
    Passes,
    Doomed(Doomed),
}

/// Looks at a SASLInitialResponse: mechanism, length of the initial response, and the flag it begins with.
fn judge(held: &[u8]) -> Judgement {
    let Some((&[kind, a, b, c, d], rest)) = held.split_first_chunk::<HEADER_BYTES>() else {
        return match held.first() {
            None | Some(b'p') => Judgement::NotYet,
            Some(_) => Judgement::Passes,
        };
    };
    let total = usize::try_from(u32::from_be_bytes([a, b, c, d]))
        .map_or(usize::MAX, |length| length.saturating_add(1));
    // What is no such message is the server's to refuse.
    if kind != b'p' || !(HEADER_BYTES..=MAX_RESPONSE_BYTES).contains(&total) {
        return Judgement::Passes;
    }
    let body = rest.get(..total - HEADER_BYTES).unwrap_or(rest);
    let is_complete = held.len() >= total;
    let unless_complete = if is_complete {
        Judgement::Passes
    } else {
        Judgement::NotYet
    };
    let Some(end) = body.iter().position(|byte| *byte == 0) else {
        return unless_complete;
    };
    let (mechanism, data) = body.split_at(end);
    if mechanism == SCRAM_PLUS {
        return Judgement::Doomed(Doomed::BoundToOurs);
    }
    if mechanism != SCRAM {
        return Judgement::Passes;
    }
    // The terminator and the length of the initial response come before it.
    match data.get(5) {
        Some(b'y') => Judgement::Doomed(Doomed::CouldBind),
        Some(_) => Judgement::Passes,
        None => unless_complete,
    }
}

#[cfg(test)]
mod tests;
