//! Whether a client's certificate is good: issued by an authority that is trusted, or itself one of those named.

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::authorities::Authorities;
use super::provider;
use super::verify::check_time;

/// Checks clients.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    authorities: Authorities,
    subjects: Vec<DistinguishedName>,
    /// Whether a client without a certificate is turned away.
    is_mandatory: bool,
}

impl ClientVerifier {
    pub(super) fn new(authorities: Authorities, is_mandatory: bool) -> Self {
        Self {
            subjects: authorities.subjects(),
            authorities,
            is_mandatory,
        }
    }
}

/// Whether its holder may use it as a client.
fn is_a_clients(leaf: &CertificateDer<'_>) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(leaf) else {
        return false;
    };
    match parsed.extended_key_usage() {
        Ok(usage) => usage.is_none_or(|usage| usage.value.client_auth || usage.value.any),
        Err(_) => false,
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.is_mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.subjects
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if self.authorities.names(end_entity) {
            check_time(end_entity, now)?;
            return is_a_clients(end_entity)
                .then(ClientCertVerified::assertion)
                .ok_or_else(|| CertificateError::InvalidPurpose.into());
        }
        let roots = self.authorities.at(now);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
        // Nobody may issue any at this time.
        let verifier = verifier.map_err(|_| Error::from(CertificateError::UnknownIssuer))?;
        verifier.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &provider().signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
