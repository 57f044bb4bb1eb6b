//! The values that a decision comes to. Their fields are private to this stage: dialling asks for a [`Clearance`], a
//! session for a [`Permit`], and nobody else can make either.

use std::sync::{Arc, LazyLock};

use tokio_util::sync::CancellationToken;

use super::enforcer::Registration;
use super::ruling::{Denial, PolicyMode, Ruling};
use crate::config::AuditLevel;
use crate::destination::Destination;

/// Leave to connect to one server.
#[derive(Debug)]
pub struct Clearance {
    destination: Destination,
}

impl Clearance {
    pub(super) fn new(destination: Destination) -> Self {
        Self { destination }
    }

    /// Where it lets go.
    pub fn destination(&self) -> &Destination {
        &self.destination
    }
}

/// Leave to have a session, or to cancel what one runs, for as long as it is held.
#[derive(Debug)]
pub struct Permit {
    clearance: Clearance,
    ruling: Option<Arc<Ruling>>,
    registration: Option<Registration>,
}

impl Permit {
    pub(super) fn new(
        destination: Destination,
        ruling: Option<Arc<Ruling>>,
        registration: Option<Registration>,
    ) -> Self {
        Self {
            clearance: Clearance::new(destination),
            ruling,
            registration,
        }
    }

    /// Leave to dial.
    pub fn clearance(&self) -> &Clearance {
        &self.clearance
    }

    /// What the policies said; none where there are no policies.
    pub fn ruling(&self) -> Option<&Arc<Ruling>> {
        self.ruling.as_ref()
    }

    /// What they ask to be recorded.
    pub fn audit(&self) -> Option<AuditLevel> {
        self.ruling.as_ref()?.obligations.audit
    }

    /// Whether it may be taken back while the session lives.
    pub fn is_revocable(&self) -> bool {
        let ruling = self.ruling.as_ref();
        ruling.is_some_and(|ruling| ruling.mode == PolicyMode::Enforce)
    }

    /// Cancelled when it is taken back, which may be never.
    pub fn revocation(&self) -> &CancellationToken {
        match &self.registration {
            Some(registration) => registration.revocation(),
            None => &NEVER,
        }
    }

    /// Why it was taken back.
    pub fn denial(&self) -> Option<&Denial> {
        self.registration.as_ref().and_then(Registration::denial)
    }
}

/// The revocation of what cannot be revoked.
static NEVER: LazyLock<CancellationToken> = LazyLock::new(CancellationToken::new);

/// Leave for the unit tests of the stages behind this one.
#[cfg(test)]
pub(crate) fn tests_clearance(destination: impl Into<Destination>) -> Clearance {
    Clearance::new(destination.into())
}
