//! The TLS settings of a `[[route]]`, checked against each other. What files hold is [`crate::tls`]'s to check.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::routes::RouteSettings;

/// Where TLS ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsMode {
    /// At the server: pgusher passes it through and sees nothing of it.
    Passthrough,
    /// At pgusher, which speaks TLS of its own with the server.
    Terminate,
}

/// Where TLS ends on a route, as it can be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsSetting {
    /// At the server.
    #[default]
    Passthrough,
    /// At pgusher.
    Terminate,
    /// At pgusher where a policy asks for that, otherwise at the server.
    ByPolicy,
}

/// Whether clients without TLS are admitted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientTls {
    /// They are.
    #[default]
    Prefer,
    /// They are refused.
    Require,
}

/// What is asked of clients' certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientCertificates {
    /// Nothing.
    #[default]
    Ignore,
    /// A client may show one; it must be valid then.
    Request,
    /// A client must show a valid one.
    Require,
}

/// libpq's `sslmode`, for the connection to the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServerSslMode {
    /// No TLS.
    Disable,
    /// TLS if the server refuses a session without.
    Allow,
    /// No TLS if the server has none, or refuses a session with it.
    #[default]
    Prefer,
    /// TLS.
    Require,
    /// TLS with a server whose certificate comes from a trusted authority.
    VerifyCa,
    /// That, and the certificate names the server.
    VerifyFull,
}

/// Whom to trust with servers' certificates.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "PathBuf")]
pub enum ServerAuthority {
    /// The certificates of a file.
    File(PathBuf),
    /// The authorities this system trusts.
    System,
}

impl From<PathBuf> for ServerAuthority {
    fn from(path: PathBuf) -> Self {
        if path == Path::new("system") {
            Self::System
        } else {
            Self::File(path)
        }
    }
}

/// Where the certificate shown to clients comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateSource {
    /// Two PEM files.
    Files {
        /// The certificate, and its chain behind it.
        certificate: PathBuf,
        /// Its private key.
        key: PathBuf,
    },
    /// Minted by the authority in this directory.
    Authority(PathBuf),
}

/// How servers are spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTlsSettings {
    /// Whether and how.
    pub mode: ServerSslMode,
    /// Whom to trust.
    pub authority: Option<ServerAuthority>,
    /// Certificate and key of our own, should the server ask.
    pub own: Option<(PathBuf, PathBuf)>,
    /// The name to verify and send.
    pub name: Option<String>,
}

/// TLS that ends at pgusher: settings that go together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TerminationSettings {
    /// What clients are shown.
    pub source: CertificateSource,
    /// Whether they must speak TLS.
    pub client_tls: ClientTls,
    /// Whether they must show a certificate.
    pub client_certificates: ClientCertificates,
    /// From which authority.
    pub client_ca: Option<PathBuf>,
    /// The other leg.
    pub server: ServerTlsSettings,
}

/// A setting and what is wrong with it.
pub(super) type Mistake = (&'static str, String);

impl TerminationSettings {
    /// Checks a table; none where TLS passes through.
    pub(super) fn check(table: &RouteSettings) -> Result<Option<Self>, Mistake> {
        if table.tls.unwrap_or_default() == TlsSetting::Passthrough {
            return match first_tls_setting(table) {
                Some(setting) => Err((
                    setting,
                    "means something only with tls = \"terminate\" or \"by-policy\"".to_owned(),
                )),
                None => Ok(None),
            };
        }
        let client_tls = table.client_tls.unwrap_or_default();
        let client_certificates = table.client_certificates.unwrap_or_default();
        check_client(table, client_tls, client_certificates)?;
        Ok(Some(Self {
            source: source(table)?,
            client_tls,
            client_certificates,
            client_ca: table.client_ca.clone(),
            server: server(table)?,
        }))
    }
}

/// The first TLS setting of a table besides `tls` itself.
fn first_tls_setting(table: &RouteSettings) -> Option<&'static str> {
    let settings = [
        ("certificate", table.certificate.is_some()),
        ("key", table.key.is_some()),
        ("ca", table.ca.is_some()),
        ("client_tls", table.client_tls.is_some()),
        ("client_ca", table.client_ca.is_some()),
        ("client_certificates", table.client_certificates.is_some()),
        ("server_sslmode", table.server_sslmode.is_some()),
        ("server_ca", table.server_ca.is_some()),
        ("server_certificate", table.server_certificate.is_some()),
        ("server_key", table.server_key.is_some()),
        ("server_name", table.server_name.is_some()),
    ];
    let mut set = settings.iter().filter(|(_, is_set)| *is_set);
    set.next().map(|(name, _)| *name)
}

fn source(table: &RouteSettings) -> Result<CertificateSource, Mistake> {
    match (&table.certificate, &table.key, &table.ca) {
        (Some(certificate), Some(key), None) => Ok(CertificateSource::Files {
            certificate: certificate.clone(),
            key: key.clone(),
        }),
        (None, None, Some(directory)) => Ok(CertificateSource::Authority(directory.clone())),
        (None, None, None) => Err((
            "tls",
            "`terminate` needs `certificate` and `key`, or `ca`: what else would clients be shown?"
                .to_owned(),
        )),
        (Some(_), None, None) => Err(("key", "missing: `certificate` needs it".to_owned())),
        (None, Some(_), None) => Err(("certificate", "missing: `key` needs it".to_owned())),
        (_, _, Some(_)) => Err((
            "ca",
            "either certificates are minted by `ca`, or there is one in `certificate` and `key`"
                .to_owned(),
        )),
    }
}

fn check_client(
    table: &RouteSettings,
    tls: ClientTls,
    certificates: ClientCertificates,
) -> Result<(), Mistake> {
    match (certificates, &table.client_ca) {
        (ClientCertificates::Ignore, Some(_)) => Err((
            "client_ca",
            "means something only with client_certificates = \"request\" or \"require\"".to_owned(),
        )),
        (ClientCertificates::Request | ClientCertificates::Require, None) => Err((
            "client_certificates",
            "needs `client_ca`: from whom are clients' certificates?".to_owned(),
        )),
        (ClientCertificates::Require, Some(_)) if tls == ClientTls::Prefer => Err((
            "client_certificates",
            "`require` needs client_tls = \"require\": without TLS nobody shows a certificate"
                .to_owned(),
        )),
        _ => Ok(()),
    }
}

fn server(table: &RouteSettings) -> Result<ServerTlsSettings, Mistake> {
    let mode = table.server_sslmode.unwrap_or_default();
    let verifies = matches!(mode, ServerSslMode::VerifyCa | ServerSslMode::VerifyFull);
    match &table.server_ca {
        None if verifies => {
            return Err((
                "server_sslmode",
                "needs `server_ca`, a file or \"system\", to verify the server".to_owned(),
            ));
        }
        // As libpq: any public authority vouches for anybody, only the name makes a difference.
        Some(ServerAuthority::System) if mode != ServerSslMode::VerifyFull => {
            return Err((
                "server_ca",
                "`system` needs server_sslmode = \"verify-full\"".to_owned(),
            ));
        }
        Some(_) if !verifies && mode != ServerSslMode::Require => {
            return Err((
                "server_ca",
                "is never looked at unless server_sslmode is \"require\", \"verify-ca\" or \"verify-full\""
                    .to_owned(),
            ));
        }
        _ => {}
    }
    let own = match (&table.server_certificate, &table.server_key) {
        (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
        (None, None) => None,
        (Some(_), None) => {
            return Err((
                "server_key",
                "missing: `server_certificate` needs it".to_owned(),
            ));
        }
        (None, Some(_)) => {
            return Err((
                "server_certificate",
                "missing: `server_key` needs it".to_owned(),
            ));
        }
    };
    if mode == ServerSslMode::Disable {
        let unused = [
            ("server_certificate", own.is_some()),
            ("server_name", table.server_name.is_some()),
        ];
        if let Some((setting, _)) = unused.iter().find(|(_, is_set)| *is_set) {
            return Err((
                *setting,
                "means nothing with server_sslmode = \"disable\"".to_owned(),
            ));
        }
    }
    Ok(ServerTlsSettings {
        mode,
        authority: table.server_ca.clone(),
        own,
        name: table.server_name.clone(),
    })
}

#[cfg(test)]
mod tests;
