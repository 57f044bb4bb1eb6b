//! Stage 4, policy: may this identity reach this destination? The answer is a value that dialling requires.
//!
//! The embedded default observes: everything is permitted and every session is recorded. A [`Permit`] can be made
//! only here, so no path leads from a connection to a server that has not passed this stage.
//! Previous stage: [`crate::startup`]; next: [`crate::route`].

use std::net::SocketAddr;

use crate::identify::Identity;
use crate::tls::ClientCertificate;

/// Leave to connect to one destination.
#[derive(Debug)]
pub struct Permit {
    destination: SocketAddr,
}

impl Permit {
    /// Where it lets go.
    pub fn destination(&self) -> SocketAddr {
        self.destination
    }
}

/// Decides under the embedded default: observe. A client's verified certificate is there where TLS ends at pgusher.
pub fn observe(
    _identity: &Identity,
    _certificate: Option<&ClientCertificate>,
    destination: SocketAddr,
) -> Permit {
    Permit { destination }
}

/// A permit for the unit tests of the stages behind this one.
#[cfg(test)]
pub(crate) fn tests_permit(destination: SocketAddr) -> Permit {
    Permit { destination }
}
