//! Stage 3 and, once there is a server, 5b: drives [`Negotiation`] over the client's socket, and where TLS passes
//! through, over the server's.
//!
//! Bytes read and not yet forwarded travel with the leg ([`ClientLeg`]) to the next stage; none is ever lost. Where
//! a session cannot be had, [`refuse`] tells the client in words it can read, inside TLS where it asked for TLS.
//! Previous stage: [`crate::identify`]; next: [`crate::policy`], then [`crate::relay`].

mod authenticate;
mod open;
mod refuse;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::{Buf as _, BytesMut};
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout_at};

use crate::audit::record::tls;
use crate::leg::Leg;
use crate::policy::Denial;
use crate::stream::Stream;
use crate::tls::Certificates;
use crate::wire::negotiation::{Negotiation, Step};
use crate::wire::opening::{self, MAX_PACKET_BYTES, Opening, OpeningError};

pub use crate::wire::negotiation::Encryption;
pub use authenticate::{AuthenticationError, authenticate};
pub use open::{Opened, Turned, open};
pub use refuse::{refuse, refuse_malformed, tell};

/// The client's side of a connection and what was read from it and not passed on yet.
pub struct ClientLeg {
    /// The socket, and TLS on it where TLS ends here.
    pub leg: Leg,
    /// Unforwarded bytes, at most one opening packet and what came with it.
    pub buffer: BytesMut,
    /// What a client that asks for TLS is shown.
    pub certificates: Arc<Certificates>,
    /// Where it wanted to go, if that is known.
    pub address: Option<IpAddr>,
    /// TLS with it, once there is any.
    pub tls: Option<ClientTlsState>,
    negotiation: Negotiation,
}

/// What is known of a client's TLS with us.
pub struct ClientTlsState {
    /// The certificate it was shown.
    pub shown: CertificateDer<'static>,
    /// What goes on record.
    pub facts: tls::ClientLeg,
}

/// Why an opening ended without a session.
#[derive(Debug, thiserror::Error)]
pub enum StartupError {
    /// The client closed, or reset, before it said anything complete.
    #[error("the client closed before its startup packet was complete")]
    Closed,
    /// Time ran out.
    #[error("no complete startup packet within the startup timeout")]
    TimedOut,
    /// The bytes are no opening packet.
    #[error(transparent)]
    Malformed(#[from] OpeningError),
    /// The server agrees to encrypt, and the policies do not permit a session they cannot see into.
    #[error("{0}")]
    Denied(Denial),
    /// The client's connection failed.
    #[error("the client's connection failed during startup: {0}")]
    Client(io::Error),
    /// The server's connection failed.
    #[error("the server's connection failed during startup: {0}")]
    Server(io::Error),
}

impl ClientLeg {
    /// Starts with an accepted socket; should its client ask for TLS with us, it is shown one of `certificates`.
    pub fn new(stream: impl Into<Stream>, certificates: Arc<Certificates>) -> Self {
        Self {
            leg: stream.into().into(),
            buffer: BytesMut::new(),
            certificates,
            address: None,
            tls: None,
            negotiation: Negotiation::terminating(),
        }
    }

    /// How the client is encrypted with us, if it is.
    pub fn encryption(&self) -> Encryption {
        self.negotiation.encryption()
    }

    /// Reads until the next opening packet is complete; the packet stays in the buffer.
    ///
    /// # Errors
    /// [`StartupError`]
    ///
    /// # Cancel safety
    /// Cancel safe: what was read is in the buffer.
    pub async fn next_packet(
        &mut self,
        deadline: Instant,
    ) -> Result<opening::Packet, StartupError> {
        loop {
            if let Some(packet) = opening::parse(&self.buffer)? {
                return Ok(packet);
            }
            self.read(deadline).await?;
        }
    }

    /// Reads some bytes. Nothing that reads an opening wants more than one packet, so the buffer stays bounded.
    async fn read(&mut self, deadline: Instant) -> Result<(), StartupError> {
        let most = MAX_PACKET_BYTES.saturating_sub(self.buffer.len()).max(1);
        match timeout_at(deadline, self.leg.read_buf(&mut self.buffer, most)).await {
            Err(_) => Err(StartupError::TimedOut),
            Ok(Ok(0)) => Err(StartupError::Closed),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => match error.kind() {
                io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => {
                    Err(StartupError::Closed)
                }
                _ => Err(StartupError::Client(error)),
            },
        }
    }
}

/// How far a negotiation has come.
#[derive(Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// The last packet that could be read.
    pub opening: Opening,
    /// How the session is encrypted.
    pub encryption: Encryption,
    /// Bytes already passed on: to the server, to the client.
    pub passed: (u64, u64),
    /// Whether what follows can be read at all.
    pub readable: bool,
    /// Length of the last packet, which is still at the start of the leg's buffer where the session is readable.
    pub startup_bytes: usize,
}

impl From<Opening> for Negotiated {
    fn from(opening: Opening) -> Self {
        Self {
            opening,
            encryption: Encryption::None,
            passed: (0, 0),
            readable: false,
            startup_bytes: 0,
        }
    }
}

/// Carries encryption requests and the server's answers until the client names its session, or encryption hides it.
/// `so_far` says how far it came, whether it succeeds or not. `may_hide` is asked before a client is told that the
/// server agrees to encrypt; a denied client's request is still in its buffer, for us to answer.
///
/// # Errors
/// [`StartupError`]
///
/// # Cancel safety
/// Not cancel safe: a request may have been forwarded in part.
pub async fn negotiate(
    client: &mut ClientLeg,
    upstream: &mut Stream,
    deadline: Instant,
    so_far: &mut Negotiated,
    may_hide: &mut (dyn FnMut(Encryption) -> Result<(), Denial> + Send),
) -> Result<(), StartupError> {
    let mut negotiation = Negotiation::relaying();
    loop {
        let step = negotiation.next(&client.buffer)?;
        so_far.encryption = negotiation.encryption();
        if let Some(opening) = negotiation.last() {
            so_far.opening = opening.clone();
        }
        match step {
            Step::Read => client.read(deadline).await?,
            Step::Forward { bytes } => {
                let request = client.buffer.get(..bytes).unwrap_or_default();
                let answer = ask(upstream, request, deadline).await?;
                so_far.passed.0 += bytes as u64;
                let goes_on = negotiation.answered(answer);
                so_far.encryption = negotiation.encryption();
                if answer.is_some() && !goes_on {
                    may_hide(so_far.encryption).map_err(StartupError::Denied)?;
                }
                client.buffer.advance(bytes);
                if let Some(answer) = answer {
                    within(deadline, client.leg.write_all(&[answer]))
                        .await?
                        .map_err(StartupError::Client)?;
                    so_far.passed.1 += 1;
                }
                if !goes_on {
                    return Ok(());
                }
            }
            Step::Opened(packet) => {
                so_far.readable = true;
                so_far.startup_bytes = packet.bytes;
                return Ok(());
            }
            // The last three are steps of a negotiation in which we answer.
            Step::Opaque | Step::Answer { .. } | Step::StartTls { .. } | Step::Refuse(_) => {
                return Ok(());
            }
        }
    }
}

async fn within<T>(deadline: Instant, step: impl Future<Output = T>) -> Result<T, StartupError> {
    timeout_at(deadline, step)
        .await
        .map_err(|_| StartupError::TimedOut)
}

/// Sends a request and reads exactly one byte, since what follows a yes belongs to the TLS handshake; `None` when the
/// server closed instead.
async fn ask(
    upstream: &mut Stream,
    request: &[u8],
    deadline: Instant,
) -> Result<Option<u8>, StartupError> {
    within(deadline, upstream.write_all(request))
        .await?
        .map_err(StartupError::Server)?;
    let mut byte = [0_u8];
    let read = within(deadline, upstream.read(&mut byte))
        .await?
        .map_err(StartupError::Server)?;
    Ok((read > 0).then_some(byte[0]))
}

#[cfg(test)]
mod tests;
