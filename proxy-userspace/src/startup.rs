//! Stage 3 and, once there is a server, 5b: reads the client's opening packets and carries the encryption
//! negotiation to the server and back, every byte unchanged.
//!
//! Bytes read and not yet forwarded travel with the leg ([`ClientLeg`]) to the next stage; none is ever lost. Where
//! a session cannot be had, [`refuse`] tells the client in words it can read.
//! Previous stage: [`crate::identify`]; next: [`crate::policy`], then [`crate::relay`].

use std::io;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::wire::error_response::{FatalError, SqlState};
use crate::wire::opening::{self, MAX_PACKET_BYTES, Opening, OpeningError};

/// "No encryption": the one-byte answer to SSLRequest and GSSENCRequest.
const NOT_SUPPORTED: u8 = b'N';
/// "Go ahead with TLS"
const TLS_ACCEPTED: u8 = b'S';
/// "Go ahead with GSSAPI encryption"
const GSS_ACCEPTED: u8 = b'G';
/// How long a refused client may take to close, once it has been told.
const FAREWELL_LIMIT: Duration = Duration::from_secs(2);
/// How many encryption requests a refused client may send before its startup packet: one of each kind.
const MAX_REQUESTS_BEFORE_REFUSAL: usize = 2;

/// The client's socket and what was read from it and not passed on yet.
pub struct ClientLeg {
    /// The socket.
    pub stream: TcpStream,
    /// Unforwarded bytes, at most one opening packet and what came with it.
    pub buffer: BytesMut,
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
    /// The client's connection failed.
    #[error("the client's connection failed during startup: {0}")]
    Client(io::Error),
    /// The server's connection failed.
    #[error("the server's connection failed during startup: {0}")]
    Server(io::Error),
}

/// How the opening is encrypted, as far as it can be seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Encryption {
    /// Never asked for.
    #[default]
    None,
    /// Asked for, and the server said no.
    Refused,
    /// TLS after SSLRequest.
    Tls,
    /// TLS from the first byte.
    DirectTls,
    /// GSSAPI encryption.
    Gss,
}

impl ClientLeg {
    /// Starts with an accepted socket.
    pub fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
        }
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
            // `parse` never wants more than one packet, so the buffer stays bounded.
            self.buffer
                .reserve(MAX_PACKET_BYTES.saturating_sub(self.buffer.len()));
            match timeout_at(deadline, self.stream.read_buf(&mut self.buffer)).await {
                Err(_) => return Err(StartupError::TimedOut),
                Ok(Ok(0)) => return Err(StartupError::Closed),
                Ok(Ok(_)) => {}
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(StartupError::Closed);
                }
                Ok(Err(error)) => return Err(StartupError::Client(error)),
            }
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
/// `so_far` says how far it came, whether it succeeds or not.
///
/// # Errors
/// [`StartupError`]
///
/// # Cancel safety
/// Not cancel safe: a request may have been forwarded in part.
pub async fn negotiate(
    client: &mut ClientLeg,
    upstream: &mut TcpStream,
    first: opening::Packet,
    deadline: Instant,
    so_far: &mut Negotiated,
) -> Result<(), StartupError> {
    let mut packet = first;
    let mut asked = Vec::new();
    loop {
        so_far.opening = packet.opening.clone();
        match packet.opening {
            Opening::DirectTls => {
                so_far.encryption = Encryption::DirectTls;
                return Ok(());
            }
            // A second request of a kind is a protocol error, and so is anything sent along with a request; both
            // are the server's to answer (CVE-2021-23214).
            Opening::SslRequest | Opening::GssRequest
                if asked.contains(&packet.opening) || client.buffer.len() > packet.bytes =>
            {
                return Ok(());
            }
            Opening::SslRequest | Opening::GssRequest => {}
            _ => {
                so_far.readable = true;
                so_far.startup_bytes = packet.bytes;
                return Ok(());
            }
        }
        let request = client.buffer.split();
        within(deadline, upstream.write_all(&request))
            .await?
            .map_err(StartupError::Server)?;
        so_far.passed.0 += request.len() as u64;
        // One byte and no more: what follows a yes belongs to the TLS handshake.
        let Some(answer) = read_byte(upstream, deadline).await? else {
            return Ok(());
        };
        within(deadline, client.stream.write_all(&[answer]))
            .await?
            .map_err(StartupError::Client)?;
        so_far.passed.1 += 1;
        so_far.encryption = match answer {
            NOT_SUPPORTED => Encryption::Refused,
            TLS_ACCEPTED => Encryption::Tls,
            GSS_ACCEPTED => Encryption::Gss,
            // An error without a length word (report_fork_failure_to_client); the rest follows it.
            _ => so_far.encryption,
        };
        if answer != NOT_SUPPORTED {
            return Ok(());
        }
        asked.push(packet.opening);
        packet = client.next_packet(deadline).await?;
    }
}

async fn within<T>(deadline: Instant, step: impl Future<Output = T>) -> Result<T, StartupError> {
    timeout_at(deadline, step)
        .await
        .map_err(|_| StartupError::TimedOut)
}

/// Reads exactly one byte; `None` when the server closed instead.
async fn read_byte(
    upstream: &mut TcpStream,
    deadline: Instant,
) -> Result<Option<u8>, StartupError> {
    let mut byte = [0_u8];
    let read = within(deadline, upstream.read(&mut byte))
        .await?
        .map_err(StartupError::Server)?;
    Ok((read > 0).then_some(byte[0]))
}

/// Tells a client why it cannot have a session, and closes.
///
/// A client that has asked for encryption is told there is none, so that it either goes on to its startup packet,
/// whose answer it can read, or gives up by its own rules; an error in place of that one byte would hide the reason
/// and keep libpq from trying its next host.
///
/// A client that does not take the answer is closed all the same. Returns the last packet it sent, for the record.
///
/// # Cancel safety
/// Not cancel safe; the connection is of no further use anyway.
pub async fn refuse(
    mut client: ClientLeg,
    error: &FatalError,
    deadline: Instant,
) -> Option<Opening> {
    let mut last = None;
    for _ in 0..=MAX_REQUESTS_BEFORE_REFUSAL {
        let Ok(packet) = client.next_packet(deadline).await else {
            break;
        };
        client.buffer.advance(packet.bytes);
        let opening = last.insert(packet.opening);
        let (answer, is_last) = match opening {
            Opening::SslRequest | Opening::GssRequest => (vec![NOT_SUPPORTED], false),
            Opening::Startup(_) | Opening::Other { .. } => (error.encode(), true),
            // Neither expects an answer it could read.
            Opening::Cancel { .. } | Opening::DirectTls => break,
        };
        let written = within(deadline, client.stream.write_all(&answer)).await;
        if is_last || !matches!(written, Ok(Ok(()))) {
            finish(client.stream).await;
            break;
        }
    }
    last
}

/// Tells a client that sent something else than an opening packet; as PostgreSQL, only where it can read it.
pub async fn refuse_malformed(client: ClientLeg, error: OpeningError, deadline: Instant) {
    let mut stream = client.stream;
    if error == OpeningError::Layout {
        let fatal = FatalError::new(SqlState::ProtocolViolation, error.to_string());
        // A client that does not take the answer is closed all the same.
        let _ = within(deadline, stream.write_all(&fatal.encode())).await;
    }
    finish(stream).await;
}

/// Closes so that the last answer arrives: bytes of the client's left unread would turn the close into a reset,
/// which may overtake it.
async fn finish(mut stream: TcpStream) {
    let deadline = Instant::now() + FAREWELL_LIMIT;
    let mut ignored = [0_u8; 1024];
    let mut budget = MAX_PACKET_BYTES;
    if !matches!(within(deadline, stream.shutdown()).await, Ok(Ok(()))) {
        return;
    }
    while let Ok(Ok(read @ 1..)) = within(deadline, stream.read(&mut ignored)).await {
        if budget < read {
            return;
        }
        budget -= read;
    }
}

#[cfg(test)]
mod tests;
