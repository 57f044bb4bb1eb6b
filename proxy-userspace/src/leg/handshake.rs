//! Beginning TLS on a leg, as server towards clients and as client towards servers. tokio-rustls shakes hands; what has
//! come of it is a socket and a TLS connection, which the leg then drives itself.

use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use rustls::pki_types::ServerName;
use rustls::server::Acceptor;
use rustls::{ClientConfig, ServerConfig};
use tokio_rustls::{LazyConfigAcceptor, StartHandshake, TlsConnector};

use super::Leg;
use super::rewound::Rewound;
use crate::stream::Stream;

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
pub struct Greeting(StartHandshake<Rewound>);

impl Greeting {
    /// Reads the hello; `first` is what of it was read from the socket already.
    ///
    /// # Errors
    /// [`HandshakeError`]; the client has been told by an alert, where there is one for the failure.
    ///
    /// # Cancel safety
    /// Not cancel safe; the connection is of no further use.
    pub async fn read(stream: Stream, first: BytesMut) -> Result<Self, HandshakeError> {
        let socket = Rewound::new(first, stream);
        let mut acceptor = LazyConfigAcceptor::new(Acceptor::default(), socket);
        match (&mut acceptor).await {
            Ok(start) => Ok(Self(start)),
            Err(error) => {
                if let Some(socket) = acceptor.take_io() {
                    finish(socket).await;
                }
                Err(error.into())
            }
        }
    }

    /// The name of the server the client says it wants (SNI).
    pub fn server_name(&self) -> Option<String> {
        self.0.client_hello().server_name().map(str::to_owned)
    }

    /// Completes the handshake.
    ///
    /// # Errors
    /// [`HandshakeError`]; the client has been told by an alert.
    ///
    /// # Cancel safety
    /// Not cancel safe; the connection is of no further use.
    pub async fn answer(self, config: Arc<ServerConfig>) -> Result<Leg, HandshakeError> {
        let handshake = self.0.into_stream_with(config, |tls| {
            // What came right behind the hello waits in TLS, and would wait until more comes. Its failure is told
            // again when that is read; the alert leaves with our answer.
            let _ = tls.process_new_packets();
        });
        match handshake.into_fallible().await {
            Ok(established) => {
                let (socket, tls) = established.into_inner();
                Ok(Leg::with_tls(socket.into_stream()?, tls.into()))
            }
            Err((error, socket)) => {
                finish(socket).await;
                Err(error.into())
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
        stream: Stream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, HandshakeError> {
        let handshake = TlsConnector::from(config).connect(name, stream);
        let (stream, tls) = handshake.await?.into_inner();
        Ok(Self::with_tls(stream, tls.into()))
    }
}

/// Closes so that the alert that says why arrives.
async fn finish(socket: Rewound) {
    Leg::from(socket.abandon()).finish(MAX_IGNORED_BYTES).await;
}

#[cfg(test)]
mod tests;
