//! Certificates that an operator trusts: those of authorities, and others, each of which stands for itself alone.
//!
//! To the verifier below a trust anchor is a name and a key: it does not ask whether the certificate is an authority's,
//! nor whether it is still valid. OpenSSL does, and so do libpq and PostgreSQL.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, UnixTime};
use tracing::warn;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::X509Version;

use super::files::{self, FileError};

/// Who is trusted.
#[derive(Debug)]
pub(super) struct Authorities {
    /// All that may issue certificates.
    all: Arc<RootCertStore>,
    issuers: Vec<Issuer>,
    /// Every certificate as it is: a peer may show one of them as its own.
    exact: Vec<CertificateDer<'static>>,
}

/// What the certificates are for that an authority may issue.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    Servers,
    Clients,
}

#[derive(Debug)]
struct Issuer {
    certificate: CertificateDer<'static>,
    /// In seconds since 1970.
    validity: RangeInclusive<i64>,
}

impl Authorities {
    /// Reads all certificates of a file, to verify peers of one kind.
    ///
    /// # Errors
    /// [`FileError`], also where one cannot be understood.
    pub(super) fn read(path: &Path, purpose: Purpose) -> Result<Self, FileError> {
        let exact = files::certificates(path)?;
        let mut authorities = Self::none();
        for certificate in &exact {
            let added = authorities.add(certificate, purpose);
            added.map_err(|source| FileError::Untrustworthy {
                path: path.to_path_buf(),
                source,
            })?;
        }
        authorities.exact = exact;
        let now = UnixTime::now();
        if authorities
            .issuers
            .iter()
            .any(|issuer| !issuer.is_valid(now))
        {
            warn!(file = %path.display(), "an authority's certificate has expired, or is not valid yet; what it issued is not trusted");
        }
        Ok(authorities)
    }

    /// This system's. None if there are none.
    pub(super) fn of_system() -> Option<Self> {
        let mut authorities = Self::none();
        for certificate in rustls_native_certs::load_native_certs().certs {
            // What of it cannot be used is nobody's fault here.
            let _ = authorities.add(&certificate, Purpose::Servers);
        }
        (!authorities.issuers.is_empty()).then_some(authorities)
    }

    fn none() -> Self {
        Self {
            all: Arc::new(RootCertStore::empty()),
            issuers: Vec::new(),
            exact: Vec::new(),
        }
    }

    /// Adds a certificate to the issuers, if it may be one.
    fn add(
        &mut self,
        certificate: &CertificateDer<'_>,
        purpose: Purpose,
    ) -> Result<(), rustls::Error> {
        let bad = rustls::Error::InvalidCertificate(rustls::CertificateError::BadEncoding);
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| bad)?;
        if !may_issue(&parsed) || !is_for(&parsed, purpose) {
            return Ok(());
        }
        let certificate = certificate.clone().into_owned();
        Arc::make_mut(&mut self.all).add(certificate.clone())?;
        let validity = parsed.validity();
        self.issuers.push(Issuer {
            certificate,
            validity: validity.not_before.timestamp()..=validity.not_after.timestamp(),
        });
        Ok(())
    }

    /// Whether a peer's certificate is one of those that were named.
    pub(super) fn names(&self, leaf: &CertificateDer<'_>) -> bool {
        self.exact.iter().any(|known| known == leaf)
    }

    /// Whoever may issue certificates at that time.
    pub(super) fn at(&self, now: UnixTime) -> Arc<RootCertStore> {
        if self.issuers.iter().all(|issuer| issuer.is_valid(now)) {
            return Arc::clone(&self.all);
        }
        let mut store = RootCertStore::empty();
        let valid = self.issuers.iter().filter(|issuer| issuer.is_valid(now));
        store.add_parsable_certificates(valid.map(|issuer| issuer.certificate.clone()));
        Arc::new(store)
    }

    /// The names that clients are told, to choose a certificate by.
    pub(super) fn subjects(&self) -> Vec<rustls::DistinguishedName> {
        self.all.subjects()
    }
}

impl Issuer {
    fn is_valid(&self, now: UnixTime) -> bool {
        i64::try_from(now.as_secs()).is_ok_and(|now| self.validity.contains(&now))
    }
}

/// Whether an authority's extended key usage, if it has one, allows it (`check_purpose_ssl_client`, `_ssl_server` there).
fn is_for(certificate: &X509Certificate<'_>, purpose: Purpose) -> bool {
    match certificate.extended_key_usage() {
        Ok(Some(usage)) => match purpose {
            Purpose::Servers => usage.value.server_auth,
            Purpose::Clients => usage.value.client_auth,
        },
        Ok(None) => true,
        Err(_) => false,
    }
}

/// Whether OpenSSL takes the certificate for an authority's (`check_ca` in crypto/x509/v3_purp.c).
fn may_issue(certificate: &X509Certificate<'_>) -> bool {
    let key_usage = certificate.key_usage().ok().flatten();
    if key_usage
        .as_ref()
        .is_some_and(|usage| !usage.value.key_cert_sign())
    {
        return false;
    }
    match certificate.basic_constraints() {
        Ok(Some(constraints)) => constraints.value.ca,
        Ok(None) if certificate.version() == X509Version::V1 => {
            certificate.subject() == certificate.issuer()
        }
        Ok(None) => key_usage.is_some(),
        Err(_) => false,
    }
}
