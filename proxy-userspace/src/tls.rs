//! TLS that ends at pgusher, on a route that says so: the certificates shown to clients, what is asked of theirs, and
//! how servers are spoken to.
//!
//! Also what a refused client gets on any other route, so that it can read why ([`Certificates::ephemeral`]).
//! Settings: docs/tls.md. Keys never leave this module: they are neither logged nor printed, and wiped when dropped.

mod authorities;
mod authority;
mod certificates;
mod client;
mod client_verifier;
mod distinguished;
mod files;
mod server;
mod termination;
mod verify;

use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;
use rustls::{CipherSuiteCommon, SupportedCipherSuite, Tls12CipherSuite};

pub use authority::{DEFAULT_DIRECTORY, export, init};
pub use certificates::{Certificates, Offer};
pub use client::{Admitted, ClientCertificate, admit};
pub use server::{SecureError, Secured, ServerTls};
pub use termination::{Material, Termination, reload};

/// The application protocol of PostgreSQL (ALPN; `PG_ALPN_PROTOCOL` in src/include/libpq/pqcomm.h).
pub(crate) const ALPN: &[u8] = b"postgresql";

/// What is wrong with a route's TLS settings.
#[derive(Debug, thiserror::Error)]
#[error("setting `{setting}`: {reason}")]
pub struct TlsError {
    /// The setting.
    pub setting: &'static str,
    /// What is wrong, and what would be right.
    pub reason: String,
}

impl TlsError {
    fn new(setting: &'static str, reason: impl ToString) -> Self {
        Self {
            setting,
            reason: reason.to_string(),
        }
    }
}

/// The one provider of cryptography: docs/decisions/0021-tls-library.md.
fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    for suite in &mut provider.cipher_suites {
        if let SupportedCipherSuite::Tls12(known) = *suite {
            *suite = SupportedCipherSuite::Tls12(Box::leak(Box::new(without_limit(known))));
        }
    }
    Arc::new(provider)
});

/// The suite, for sessions of any length. After 2^24 records with AES-GCM rustls says goodbye by itself where keys cannot be
/// exchanged anew, as in TLS 1.2, and takes what is written from then on without sending it. PostgreSQL and libpq know no such
/// limit, and a session of short statements meets it within hours.
fn without_limit(known: &Tls12CipherSuite) -> Tls12CipherSuite {
    Tls12CipherSuite {
        common: CipherSuiteCommon {
            suite: known.common.suite,
            hash_provider: known.common.hash_provider,
            confidentiality_limit: u64::MAX,
        },
        prf_provider: known.prf_provider,
        kx: known.kx,
        sign: known.sign,
        aead_alg: known.aead_alg,
    }
}

#[cfg(test)]
pub(crate) mod tests;
