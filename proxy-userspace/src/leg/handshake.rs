//! Beginning TLS on a leg, as server towards clients and as client towards servers.

use std::io;
use std::sync::Arc;

use bytes::{Buf as _, BytesMut};
use rustls::pki_types::ServerName;
use rustls::server::{Accepted, AcceptedAlert, Acceptor};
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig};
use tokio::net::TcpStream;

use super::Leg;
use super::port::Socket;

/// How much a client may still send whose handshake has failed.
const MAX_IGNORED_BYTES: usize = 64 * 1024;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// TLS says what is wrong.
    #[error("{0}")]
    Tls(#[from] rustls::Error),
    /// The connection ended or failed before it was done.
    #[error("the connection failed during the TLS handshake: {0}")]
    Io(io::Error),
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        // A failure of TLS travels inside an I/O error.
        match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(tls) => Self::Tls(rustls::Error::clone(tls)),
            None => Self::Io(error),
        }
    }
}

/// A client that has said hello and waits to be answered.
pub struct Greeting {
    stream: TcpStream,
    accepted: Accepted,
    /// What came behind the hello.
    rest: BytesMut,
}

impl Greeting {
    /// Reads the hello; `first` is what of it was read from the socket already.
    ///
    /// # Errors
    /// [`HandshakeError`]; the client has been told by an alert.
    ///
    /// # Cancel safety
    /// Not cancel safe; the connection is of no further use.
    pub async fn read(stream: TcpStream, first: BytesMut) -> Result<Self, HandshakeError> {
        let mut acceptor = Acceptor::default();
        let mut rest = first;
        loop {
            let read = if rest.is_empty() {
                stream.readable().await?;
                match acceptor.read_tls(&mut Socket(&stream)) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                    read => read?,
                }
            } else {
                let mut unread = &rest[..];
                let read = acceptor.read_tls(&mut unread)?;
                rest.advance(read);
                read
            };
            if read == 0 {
                return Err(HandshakeError::Io(io::ErrorKind::UnexpectedEof.into()));
            }
            match acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    return Ok(Self {
                        stream,
                        accepted,
                        rest,
                    });
                }
                Err((error, alert)) => return Err(fail(stream, error, alert).await),
            }
        }
    }

    /// The name of the server the client says it wants (SNI).
    pub fn server_name(&self) -> Option<String> {
        self.accepted
            .client_hello()
            .server_name()
            .map(str::to_owned)
    }

    /// Completes the handshake.
    ///
    /// # Errors
    /// [`HandshakeError`]; the client has been told by an alert.
    ///
    /// # Cancel safety
    /// Not cancel safe; the connection is of no further use.
    pub async fn answer(self, config: Arc<ServerConfig>) -> Result<Leg, HandshakeError> {
        let mut tls = match self.accepted.into_connection(config) {
            Ok(tls) => Connection::Server(tls),
            Err((error, alert)) => return Err(fail(self.stream, error, alert).await),
        };
        let mut rest = &self.rest[..];
        while !rest.is_empty() {
            tls.read_tls(&mut rest)?;
            // A failure is told again below, where the alert about it is sent.
            let _ = tls.process_new_packets();
        }
        let mut leg = Leg::with_tls(self.stream, tls);
        match shake_hands(&mut leg).await {
            Ok(()) => Ok(leg),
            Err(error) => {
                Leg::from(leg.into_stream()).finish(MAX_IGNORED_BYTES).await;
                Err(error)
            }
        }
    }
}

impl Leg {
    /// Begins TLS with a server.
    ///
    /// # Errors
    /// [`HandshakeError`]
    ///
    /// # Cancel safety
    /// Not cancel safe; the connection is of no further use.
    pub async fn connect(
        stream: TcpStream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, HandshakeError> {
        let tls = ClientConnection::new(config, name)?;
        let mut leg = Self::with_tls(stream, Connection::Client(tls));
        shake_hands(&mut leg).await?;
        Ok(leg)
    }
}

async fn shake_hands(leg: &mut Leg) -> Result<(), HandshakeError> {
    let mut port = leg.port();
    std::future::poll_fn(|context| port.poll_handshake(context)).await?;
    Ok(())
}

/// Sends the alert that says why, if the socket takes it, and closes so that it arrives.
async fn fail(stream: TcpStream, error: rustls::Error, mut alert: AcceptedAlert) -> HandshakeError {
    let _ = alert.write_all(&mut Socket(&stream));
    Leg::from(stream).finish(MAX_IGNORED_BYTES).await;
    HandshakeError::Tls(error)
}
