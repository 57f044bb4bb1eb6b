//! TLS towards a client: the handshake, and what a client's certificate says.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::BytesMut;
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use super::authorities::{Authorities, Purpose};
use super::certificates::Verifier;
use super::client_verifier::ClientVerifier;
use super::distinguished::shown;
use super::{Certificates, TlsError};
use crate::config::ClientCertificates;
use crate::leg::{Greeting, HandshakeError, Leg};
use crate::stream::Stream;
use crate::wire::text::{hex, printable};

/// Alternative names of a client's certificate that are recorded.
const MAX_NAMES: usize = 32;

/// A client whose TLS is established.
pub struct Admitted {
    /// Its leg.
    pub leg: Leg,
    /// The name of the server it asked for (SNI).
    pub server_name: Option<String>,
    /// Whether PostgreSQL's application protocol was agreed on (ALPN).
    pub agreed_protocol: bool,
    /// The certificate it was shown.
    pub shown: CertificateDer<'static>,
    /// Its own certificate, verified.
    pub certificate: Option<ClientCertificate>,
}

/// What a verified client certificate says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientCertificate {
    subject: Option<String>,
    common_name: Option<String>,
    names: Vec<String>,
    issuer: Option<String>,
    sha256: String,
}

/// Completes TLS with a client; `first` is what of it was read already, `address` where it wanted to go.
///
/// # Errors
/// [`HandshakeError`]; the client has been told by an alert.
///
/// # Cancel safety
/// Not cancel safe; the connection is of no further use.
pub async fn admit(
    stream: Stream,
    first: BytesMut,
    certificates: &Certificates,
    address: Option<IpAddr>,
) -> Result<Admitted, HandshakeError> {
    let greeting = Greeting::read(stream, first).await?;
    let server_name = greeting.server_name();
    let offer = certificates.offer(server_name.as_deref(), address)?;
    let leg = greeting.answer(Arc::clone(&offer.config)).await?;
    let tls = leg.tls();
    let certificate = tls
        .and_then(|tls| tls.peer_certificates()?.first())
        .map(ClientCertificate::of);
    Ok(Admitted {
        server_name,
        agreed_protocol: tls.is_some_and(|tls| tls.alpn_protocol().is_some()),
        shown: offer.leaf.clone(),
        certificate,
        leg,
    })
}

/// What asks for clients' certificates and checks them.
pub(super) fn verifier(
    wanted: ClientCertificates,
    authority: Option<&Path>,
) -> Result<Verifier, TlsError> {
    let (ClientCertificates::Request | ClientCertificates::Require, Some(authority)) =
        (wanted, authority)
    else {
        return Ok(None);
    };
    let authorities = Authorities::read(authority, Purpose::Clients)
        .map_err(|error| TlsError::new("client_ca", error.to_string()))?;
    let is_mandatory = wanted == ClientCertificates::Require;
    let verifier = ClientVerifier::new(authorities, is_mandatory);
    Ok(Some(Arc::new(verifier)))
}

impl ClientCertificate {
    fn of(certificate: &CertificateDer<'_>) -> Self {
        let digest = hex(&Sha256::digest(certificate));
        let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
            return Self {
                subject: None,
                common_name: None,
                names: Vec::new(),
                issuer: None,
                sha256: digest,
            };
        };
        let mut common_names = parsed.subject().iter_common_name();
        let alternative = parsed.subject_alternative_name().ok().flatten();
        Self {
            subject: Some(shown(parsed.subject())),
            common_name: common_names
                .next()
                .map(|name| printable(name.attr_value().data)),
            names: alternative
                .map(|extension| &extension.value.general_names)
                .into_iter()
                .flatten()
                .take(MAX_NAMES)
                .filter_map(name)
                .collect(),
            issuer: Some(shown(parsed.issuer())),
            sha256: digest,
        }
    }
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(format!("DNS:{}", printable(name.as_bytes()))),
        GeneralName::RFC822Name(name) => Some(format!("email:{}", printable(name.as_bytes()))),
        GeneralName::URI(uri) => Some(format!("URI:{}", printable(uri.as_bytes()))),
        GeneralName::IPAddress(bytes) => {
            let address = <[u8; 4]>::try_from(*bytes)
                .map(IpAddr::from)
                .or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
            address.ok().map(|address| format!("IP:{address}"))
        }
        _ => None,
    }
}
