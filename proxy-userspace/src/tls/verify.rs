//! Whether a server is the one it should be, at the levels libpq has (libpq documentation, "SSL Mode Descriptions").

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    CryptoProvider, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme};
use webpki::RawPublicKeyEntity;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Version;

use super::authorities::Authorities;

/// What is checked of a server's certificate besides that it holds the key.
#[derive(Debug)]
pub(super) enum Level {
    /// Nothing.
    Nothing,
    /// That an authority we trust issued it, or that it is itself trusted.
    Authority(Authorities),
    /// That, and that it names the server.
    Name(Authorities),
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

    /// The certificate's key, where nothing else of it counts, whatever it may hold.
    fn bare_key(
        &self,
        certificate: &CertificateDer<'_>,
    ) -> Option<SubjectPublicKeyInfoDer<'static>> {
        match self.level {
            Level::Nothing => key_if(certificate, |_| true),
            Level::Authority(_) | Level::Name(_) => key_of_version_1(certificate),
        }
    }

    fn verify_authority(
        &self,
        trusted: &Authorities,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        // A self-signed certificate is an authority in webpki's eyes, and no authority is a server. As its own
        // trust anchor it is what the operator said it is, down to the last byte.
        if trusted.names(leaf) {
            return check_time(leaf, now);
        }
        if key_of_version_1(leaf).is_some() {
            return Err(CertificateError::Other(OtherError(Arc::new(OldVersion))).into());
        }
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(leaf)?,
            &trusted.at(now),
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )
    }
}

/// A certificate that webpki takes nothing of.
#[derive(Debug, thiserror::Error)]
#[error(
    "it is of X.509 version 1; make one with extensions (openssl x509 -req -extfile), or name this one itself in server_ca"
)]
struct OldVersion;

/// The public key of a certificate of version 1, which has no extensions at all: PostgreSQL's documentation makes such with
/// OpenSSL before 3.2 (`openssl x509 -req` without `-extfile`). Where nothing of it has to be believed but that its owner is
/// there, the key is enough; libpq asks no more either.
pub(super) fn key_of_version_1(
    certificate: &CertificateDer<'_>,
) -> Option<SubjectPublicKeyInfoDer<'static>> {
    key_if(certificate, |parsed| parsed.version() == X509Version::V1)
}

/// The public key of a certificate of this kind.
fn key_if(
    certificate: &CertificateDer<'_>,
    is_of_the_kind: impl FnOnce(&X509Certificate<'_>) -> bool,
) -> Option<SubjectPublicKeyInfoDer<'static>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    is_of_the_kind(&parsed).then(|| parsed.public_key().raw.to_vec().into())
}

/// Whether libpq takes a certificate for one that names the server (`pq_verify_peer_name_matches_certificate_name` in
/// fe-secure-common.c): by an alternative name that is a DNS name in form, also where an address stands in it, or a `*` in
/// front of any domain. Addresses proper are webpki's to compare.
fn is_named(leaf: &CertificateDer<'_>, server: &ServerName<'_>) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(leaf) else {
        return false;
    };
    let alternative = parsed.subject_alternative_name().ok().flatten();
    let names = alternative.map(|extension| &extension.value.general_names);
    let server = server.to_str();
    names.into_iter().flatten().any(|name| match name {
        GeneralName::DNSName(pattern) => matches_pattern(pattern, &server),
        _ => false,
    })
}

fn matches_pattern(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix("*.") {
        // One label, and no more, for the `*`.
        Some(domain) => name.split_once('.').is_some_and(|(label, rest)| {
            !label.is_empty() && !domain.is_empty() && rest.eq_ignore_ascii_case(domain)
        }),
        None => pattern.eq_ignore_ascii_case(name),
    }
}

pub(super) fn check_time(leaf: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
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
                if key_of_version_1(end_entity).is_some() {
                    // It has no alternative names.
                    return Err(CertificateError::NotValidForName.into());
                }
                if !is_named(end_entity, server_name) {
                    verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                }
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
        let Some(key) = self.bare_key(certificate) else {
            return verify_tls12_signature(message, certificate, signed, algorithms);
        };
        let key = RawPublicKeyEntity::try_from(&key);
        let key = key.map_err(|_| Error::from(CertificateError::BadEncoding))?;
        let mut known = algorithms.mapping.iter();
        let possible = known.find(|(scheme, _)| *scheme == signed.scheme);
        let mut possible = possible
            .map_or(&[][..], |(_, algorithms)| algorithms)
            .iter();
        possible
            .any(|algorithm| {
                let verified = key.verify_signature(*algorithm, message, signed.signature());
                verified.is_ok()
            })
            .then(HandshakeSignatureValid::assertion)
            .ok_or_else(|| CertificateError::BadSignature.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        match self.bare_key(certificate) {
            Some(key) => verify_tls13_signature_with_raw_key(message, &key, signed, algorithms),
            None => verify_tls13_signature(message, certificate, signed, algorithms),
        }
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
        CertificateError::Other(OtherError(reason)) => {
            format!("its certificate is not acceptable: {reason}")
        }
        other => format!("its certificate is not acceptable ({other})"),
    })
}

#[cfg(test)]
mod tests {
    use super::matches_pattern;

    #[test]
    fn a_star_stands_for_one_label_in_front_of_any_domain() {
        for (pattern, name, expected) in [
            ("db.example", "DB.example", true),
            ("*.example.com", "db.example.com", true),
            ("*.internal", "db.internal", true),
            ("*.internal", "a.db.internal", false),
            ("*.internal", "internal", false),
            ("*.internal", ".internal", false),
            ("*.", "db.", false),
            ("d*.internal", "db.internal", false),
            ("10.0.0.5", "10.0.0.5", true),
            ("*.0.0.5", "10.0.0.6", false),
        ] {
            assert_eq!(matches_pattern(pattern, name), expected, "{pattern} {name}");
        }
    }
}
