//! TLS that ends at pgusher, on a route that says so: the certificates shown to clients, what is asked of theirs, and
//! how servers are spoken to.
//!
//! Also what a refused client gets on any other route, so that it can read why ([`Certificates::ephemeral`]).
//! Settings: docs/tls.md. Keys never leave this module: they are neither logged nor printed, and wiped when dropped.

mod authority;
mod certificates;
mod client;
mod files;
mod server;
mod termination;
mod verify;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

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
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

#[cfg(test)]
pub(crate) mod tests;
