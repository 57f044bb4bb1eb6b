//! Whether a server is the one it should be, at the levels libpq has (libpq documentation, "SSL Mode Descriptions").

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use x509_parser::time::ASN1Time;

/// What is checked of a server's certificate besides that it holds the key.
#[derive(Debug)]
pub(super) enum Level {
    /// Nothing.
    Nothing,
    /// That an authority we trust issued it, or that it is itself trusted.
    Authority(Trusted),
    /// That, and that it names the server.
    Name(Trusted),
}

/// Who is trusted.
#[derive(Debug)]
pub(super) struct Trusted {
    pub(super) roots: RootCertStore,
    /// The same certificates as they are: a server may show one of them as its own.
    pub(super) exact: Vec<CertificateDer<'static>>,
}

/// Checks servers.
#[derive(Debug)]
pub(super) struct Verifier {
    level: Level,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    pub(super) fn new(level: Level, provider: Arc<CryptoProvider>) -> Self {
        Self { level, provider }
    }

    fn verify_authority(
        &self,
        trusted: &Trusted,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        // A self-signed certificate is an authority in webpki's eyes, and no authority is a server. As its own
        // trust anchor it is what the operator said it is, down to the last byte.
        if trusted.exact.iter().any(|known| known == leaf) {
            return check_time(leaf, now);
        }
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(leaf)?,
            &trusted.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )
    }
}

fn check_time(leaf: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let bad = || Error::InvalidCertificate(CertificateError::BadEncoding);
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| bad())?;
    let now = i64::try_from(now.as_secs())
        .ok()
        .and_then(|seconds| ASN1Time::from_timestamp(seconds).ok())
        .ok_or_else(bad)?;
    let validity = parsed.validity();
    if now < validity.not_before {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > validity.not_after {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.level {
            Level::Nothing => {}
            Level::Authority(trusted) => {
                self.verify_authority(trusted, end_entity, intermediates, now)?;
            }
            Level::Name(trusted) => {
                self.verify_authority(trusted, end_entity, intermediates, now)?;
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// What is wrong with a server's certificate, for people; none if it is something else.
pub(super) fn explain(error: &Error, name: &ServerName<'_>) -> Option<String> {
    let Error::InvalidCertificate(reason) = error else {
        return None;
    };
    let name = name.to_str();
    Some(match reason {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate is not issued by an authority in server_ca".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("its certificate does not name {name}")
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet".to_owned()
        }
        other => format!("its certificate is not acceptable ({other})"),
    })
}
