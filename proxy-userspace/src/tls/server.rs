//! TLS towards a server: one attempt, in the words of the protocol. Which attempts are made is `server_sslmode`'s to
//! say, see [`crate::session`].

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::SingleCertAndKey;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::authorities::{Authorities, Purpose};
use super::certificates::{certified, mismatch};
use super::verify::{Level, Verifier, explain};
use super::{ALPN, TlsError, files, provider};
use crate::config::{ServerAuthority, ServerSslMode, ServerTlsSettings};
use crate::leg::{HandshakeError, Leg};
use crate::stream::Stream;
use crate::wire::negotiation::{NOT_SUPPORTED, TLS_ACCEPTED};

/// SSLRequest (protocol documentation, "Message Formats").
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// How a route's servers are spoken to.
pub struct ServerTls {
    /// What the operator asked for, with what follows from it: `require` with an authority is `verify-ca`.
    pub mode: ServerSslMode,
    config: Arc<ClientConfig>,
    /// The name to verify and to send, instead of the client's.
    name: Option<ServerName<'static>>,
}

/// What a server that was asked for TLS gave.
pub enum Secured {
    /// TLS, and the server's certificate.
    Tls(Leg, Option<CertificateDer<'static>>),
    /// A no: the connection goes on in plain text.
    Refused(Stream),
}

/// Why there is no TLS with a server.
#[derive(Debug)]
pub enum SecureError {
    /// The server is not who it should be.
    NotVerified(String),
    /// The server cannot do what is asked of it.
    Failed(String),
    /// The TLS handshake failed.
    Handshake(String),
    /// The server is not there, or not ready.
    Gone(String),
}

impl SecureError {
    /// A server without TLS.
    pub fn unsupported() -> Self {
        Self::Failed("it does not support TLS".to_owned())
    }

    /// Whether it was the handshake that failed: the one failure after which libpq's `prefer` goes on without TLS.
    pub fn is_handshake(&self) -> bool {
        matches!(self, Self::Handshake(_))
    }
}

impl fmt::Display for SecureError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotVerified(reason)
            | Self::Failed(reason)
            | Self::Handshake(reason)
            | Self::Gone(reason) => formatter.write_str(reason),
        }
    }
}

impl ServerTls {
    /// Loads what the settings name.
    pub(super) fn load(settings: &ServerTlsSettings) -> Result<Self, TlsError> {
        let mode = match (settings.mode, &settings.authority) {
            // libpq documentation, "SSL Mode Descriptions": for backwards compatibility, and never weaker.
            (ServerSslMode::Require, Some(_)) => ServerSslMode::VerifyCa,
            (mode, _) => mode,
        };
        let trusted = settings.authority.as_ref().map(trusted).transpose()?;
        let level = match (mode, trusted) {
            (ServerSslMode::VerifyCa, Some(trusted)) => Level::Authority(trusted),
            (ServerSslMode::VerifyFull, Some(trusted)) => Level::Name(trusted),
            _ => Level::Nothing,
        };
        let verifier = Arc::new(Verifier::new(level, provider()));
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::new("server_sslmode", error))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match &settings.own {
            Some((certificate, key)) => {
                let chain = files::certificates(certificate)
                    .map_err(|error| TlsError::new("server_certificate", error))?;
                let key =
                    files::private_key(key).map_err(|error| TlsError::new("server_key", error))?;
                let own = certified(chain, key)
                    .map_err(|error| TlsError::new("server_key", mismatch(&error, certificate)))?;
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own)))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        // The server has no session cache and no tickets either.
        config.resumption = Resumption::disabled();
        let name = settings.name.clone().map(ServerName::try_from).transpose();
        Ok(Self {
            mode,
            config: Arc::new(config),
            name: name.map_err(|error| TlsError::new("server_name", error))?,
        })
    }

    /// Whether anything is asked of a server's certificate.
    fn verifies(&self) -> bool {
        matches!(
            self.mode,
            ServerSslMode::VerifyCa | ServerSslMode::VerifyFull
        )
    }

    /// Who the server should be: what the operator said, else what the client asked for, else its address.
    fn name(&self, asked_for: Option<&str>, address: std::net::IpAddr) -> ServerName<'static> {
        self.name
            .clone()
            .or_else(|| ServerName::try_from(asked_for?.to_owned()).ok())
            .unwrap_or_else(|| ServerName::from(address.to_canonical()))
    }

    /// Asks the server for TLS and, if it agrees, begins it.
    ///
    /// # Errors
    /// [`SecureError`]; its text is fit for the client.
    ///
    /// # Cancel safety
    /// Not cancel safe; the connection is of no further use.
    pub async fn ask(
        &self,
        mut stream: Stream,
        asked_for: Option<&str>,
    ) -> Result<Secured, SecureError> {
        let gone = |error: io::Error| SecureError::Gone(format!("its connection failed: {error}"));
        let Stream::Tcp(socket) = &stream else {
            // PostgreSQL speaks no TLS over unix sockets (`ProcessSSLRequest` in src/backend/tcop/backend_startup.c).
            return Err(SecureError::unsupported());
        };
        let address = socket.peer_addr().map_err(gone)?.ip();
        stream.write_all(&SSL_REQUEST).await.map_err(gone)?;
        // Two bytes on purpose: anything behind the answer was sent in plain text and must not be taken for what
        // TLS carries (CVE-2021-23222).
        let mut answer = [0_u8; 2];
        let read = stream.read(&mut answer).await.map_err(gone)?;
        match (read, answer[0]) {
            (0, _) => Err(SecureError::Gone(
                "it closed the connection when asked for TLS".to_owned(),
            )),
            (1, TLS_ACCEPTED) => self.begin(stream, self.name(asked_for, address)).await,
            (1, NOT_SUPPORTED) => Ok(Secured::Refused(stream)),
            (_, TLS_ACCEPTED | NOT_SUPPORTED) => Err(SecureError::Failed(
                "it sent unencrypted data behind its answer to the request for TLS".to_owned(),
            )),
            // An error, of which libpq does not show the text either (CVE-2024-10977).
            _ => Err(SecureError::Gone(
                "it answered with an error when asked for TLS".to_owned(),
            )),
        }
    }

    async fn begin(
        &self,
        stream: Stream,
        name: ServerName<'static>,
    ) -> Result<Secured, SecureError> {
        let leg = Leg::connect(stream, Arc::clone(&self.config), name.clone())
            .await
            .map_err(|error| match error {
                HandshakeError::Tls(error) => match explain(&error, &name) {
                    Some(reason) if self.verifies() => SecureError::NotVerified(reason),
                    _ => SecureError::Handshake(format!("the TLS handshake failed: {error}")),
                },
                HandshakeError::Io(error) => SecureError::Handshake(format!(
                    "the connection failed during the TLS handshake: {error}"
                )),
            })?;
        let shown = leg
            .tls()
            .and_then(|tls| tls.peer_certificates()?.first())
            .map(|leaf| leaf.clone().into_owned());
        Ok(Secured::Tls(leg, shown))
    }
}

fn trusted(authority: &ServerAuthority) -> Result<Authorities, TlsError> {
    let refuse = |error: &dyn ToString| TlsError::new("server_ca", error.to_string());
    match authority {
        ServerAuthority::File(path) => {
            Authorities::read(path, Purpose::Servers).map_err(|error| refuse(&error))
        }
        ServerAuthority::System => Authorities::of_system()
            .ok_or_else(|| refuse(&"this system has no trusted authorities")),
    }
}
