//! One side of a session: its socket, and the TLS on it where TLS ends at pgusher. Reading and writing mean plaintext
//! either way.
//!
//! Handshakes are tokio-rustls's. An established connection is driven here, because the relay has to tell apart what
//! `AsyncRead` and `AsyncWrite` join: bytes TLS has accepted from bytes the socket has taken, and a peer that said
//! goodbye (close_notify) from one whose connection merely ended, which is a failure and never an orderly end.
//!
//! **Invariant:** nothing is accepted for a TLS peer while ciphertext from before waits for its socket, so at most
//! [`TLS_BUFFER_BYTES`] wait.

mod handshake;
mod port;
mod rewound;

use std::io;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use rustls::{Connection, ProtocolVersion};

pub use handshake::{Greeting, HandshakeError};
pub use port::Port;

use crate::intercept::JoinedSocket;
use crate::stream::Stream;

/// How much ciphertext TLS may hold for its socket.
const TLS_BUFFER_BYTES: usize = 64 * 1024;
/// How long the last words on a leg may take.
pub(crate) const FAREWELL_LIMIT: Duration = Duration::from_secs(2);

/// One side of a session.
#[derive(Debug)]
pub struct Leg {
    stream: Stream,
    tls: Option<Box<Connection>>,
    /// What the fast path makes of its socket.
    joined: JoinedSocket,
}

impl<S: Into<Stream>> From<S> for Leg {
    fn from(stream: S) -> Self {
        Self {
            stream: stream.into(),
            tls: None,
            joined: JoinedSocket::default(),
        }
    }
}

impl Leg {
    /// Puts an established TLS connection on its socket; what it has decrypted already is read first.
    fn with_tls(stream: Stream, mut tls: Connection) -> Self {
        tls.set_buffer_limit(Some(TLS_BUFFER_BYTES));
        Self {
            stream,
            tls: Some(Box::new(tls)),
            joined: JoinedSocket::default(),
        }
    }

    /// The socket.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Its socket alone, for closing: what TLS still held is lost.
    pub fn into_stream(self) -> Stream {
        self.stream
    }

    /// Closes with a reset where the socket has one, whatever is on its way.
    pub fn reset(self) {
        self.stream.set_reset();
    }

    /// Whether it is encrypted.
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The TLS connection, if there is one.
    pub fn tls(&self) -> Option<&Connection> {
        self.tls.as_deref()
    }

    /// The version of its TLS as records name it.
    pub fn tls_version(&self) -> Option<&'static str> {
        match self.tls.as_ref()?.protocol_version()? {
            ProtocolVersion::TLSv1_2 => Some("1.2"),
            ProtocolVersion::TLSv1_3 => Some("1.3"),
            _ => Some("unknown"),
        }
    }

    /// Both parts, to be polled.
    pub fn port(&mut self) -> Port<'_> {
        Port::new(&self.stream, self.tls.as_deref_mut(), &mut self.joined)
    }

    /// Reads some bytes into `buffer`, as many as it has room for and at least one; 0 is the peer's orderly end.
    ///
    /// # Errors
    /// The connection's failure; `UnexpectedEof` when TLS ended without its goodbye.
    ///
    /// # Cancel safety
    /// Cancel safe: what was read is in the buffer.
    pub async fn read_buf(&mut self, buffer: &mut BytesMut, most: usize) -> io::Result<usize> {
        let before = buffer.len();
        buffer.resize(before.saturating_add(most), 0);
        let mut port = self.port();
        // The room must be given back also when this future is dropped half-way.
        let mut room = Room {
            buffer,
            filled: before,
        };
        let read = std::future::poll_fn(|context| {
            let space = room.buffer.get_mut(before..).unwrap_or_default();
            port.poll_read(context, space)
        })
        .await?;
        room.filled = before.saturating_add(read);
        Ok(read)
    }

    /// Writes everything and waits until the socket has taken it.
    ///
    /// # Errors
    /// The connection's failure.
    ///
    /// # Cancel safety
    /// Not cancel safe: part of it may have been written.
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut left = bytes;
        let mut port = self.port();
        std::future::poll_fn(|context| port.poll_write_all(context, &mut left)).await
    }

    /// Tells the peer that no more will come: close_notify where there is TLS, then FIN.
    ///
    /// # Errors
    /// The connection's failure.
    ///
    /// # Cancel safety
    /// Cancel safe: it can be called again.
    pub async fn shut_down(&mut self) -> io::Result<()> {
        let mut port = self.port();
        std::future::poll_fn(|context| port.poll_shutdown(context)).await
    }

    /// Closes so that the last words arrive: bytes of the peer's left unread would turn the close into a reset, which
    /// may overtake them. Takes [`FAREWELL_LIMIT`] at most, and reads `budget` bytes at most.
    pub async fn finish(mut self, mut budget: usize) {
        let farewell = async {
            if self.shut_down().await.is_err() {
                return;
            }
            // The socket itself: what is said inside TLS is of no more interest.
            let mut ignored = [0_u8; 1024];
            loop {
                if self.stream.readable().await.is_err() {
                    return;
                }
                match self.stream.try_read_some(&mut ignored) {
                    Ok(read @ 1..) if read <= budget => budget -= read,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    _ => return,
                }
            }
        };
        // A peer that takes longer is closed all the same.
        let _ = tokio::time::timeout(FAREWELL_LIMIT, farewell).await;
    }
}

/// A buffer lent to a read: cut back to what was filled, whatever becomes of the read.
struct Room<'a> {
    buffer: &'a mut BytesMut,
    filled: usize,
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.buffer.truncate(self.filled);
    }
}

/// Takes the bytes written off the front of what is left.
fn advance(left: &mut &[u8], written: usize) {
    left.advance(written.min(left.len()));
}
