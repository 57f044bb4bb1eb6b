//! What a record says about TLS that ended at pgusher.

use serde::Serialize;

use crate::config::ServerSslMode;
use crate::tls::ClientCertificate;

/// The two legs of a session whose TLS ended at pgusher.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Tls {
    /// With the client; none where it did not ask for TLS.
    pub client: Option<ClientLeg>,
    /// With the server; none where it never came to that.
    pub server: Option<ServerLeg>,
}

/// TLS with a client.
#[derive(Clone, Debug, Serialize)]
pub struct ClientLeg {
    /// `1.2` or `1.3`.
    pub version: Option<&'static str>,
    /// The application protocol agreed on.
    pub alpn: Option<&'static str>,
    /// The name of the server it asked for.
    pub sni: Option<String>,
    /// Its certificate, verified.
    pub certificate: Option<ClientCertificate>,
}

/// The leg with a server.
#[derive(Clone, Debug, Serialize)]
pub struct ServerLeg {
    /// `1.2` or `1.3`; none for plain text.
    pub version: Option<&'static str>,
    /// Which `server_sslmode` applied.
    pub mode: ServerSslMode,
    /// What was verified of the server.
    pub verified: Verified,
}

/// What was verified of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verified {
    /// Nothing.
    Nothing,
    /// Who issued its certificate.
    Authority,
    /// That, and its name.
    Name,
}

impl ServerLeg {
    /// The leg as it came out under a mode.
    pub fn under(mode: ServerSslMode, version: Option<&'static str>) -> Self {
        let verified = match mode {
            ServerSslMode::VerifyFull => Verified::Name,
            ServerSslMode::VerifyCa => Verified::Authority,
            _ => Verified::Nothing,
        };
        Self {
            version,
            mode,
            verified,
        }
    }
}
