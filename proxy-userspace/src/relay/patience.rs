//! How long a session may go on that cannot go on for ever.

use std::time::Duration;

use super::ending::Closing;
use super::{Ended, EndedBy};

/// How long a direction may go on delivering after the other one found its peer dead.
pub(super) const ABORT_GRACE: Duration = Duration::from_secs(5);

/// Why a session that has not ended may not go on for ever.
#[derive(Clone, Copy)]
pub(super) enum Patience {
    /// The client is gone; what it sent may still be on its way to the server.
    DeadClient,
    /// The server is gone; the client may take its time to read what the server had sent.
    DeadServer(Duration),
    /// The server closed its side; PostgreSQL never answers after that, but the client may not have noticed.
    ClosedServer(Duration),
    /// The client takes nothing, which is its own affair for as long as there is a server; then it may for that long.
    StalledClient(Duration),
    /// The client may take its time to read what the server has begun, but not for ever.
    Revoked,
}

/// A client that takes nothing of what there is for it.
#[derive(Clone, Copy, Default)]
pub(super) struct Stall {
    /// How many bytes were on their way to it when its server was found to have ended.
    undelivered: Option<usize>,
}

impl Stall {
    /// Whether its server has ended and it has taken nothing since, for as long as it is since this was asked; `undelivered`
    /// bytes are on their way to it now.
    pub(super) fn has_lasted(&mut self, server_has_ended: bool, undelivered: usize) -> bool {
        let before = self.undelivered;
        self.undelivered = server_has_ended.then_some(undelivered);
        server_has_ended && before.is_some_and(|before| undelivered >= before)
    }
}

impl Patience {
    pub(super) fn limit(self) -> Duration {
        match self {
            Self::DeadClient | Self::Revoked => ABORT_GRACE,
            Self::DeadServer(limit) | Self::ClosedServer(limit) | Self::StalledClient(limit) => {
                limit
            }
        }
    }

    /// The end, now that the limit has passed with so many bytes delivered meanwhile.
    pub(super) fn exhausted(self, delivered: u64, first_end: Option<EndedBy>) -> Option<Ended> {
        let (by, closing) = match (self, delivered) {
            (Self::Revoked, _) => return Some(Ended::REVOKED_UNTOLD),
            (Self::DeadClient, _) => (
                first_end.unwrap_or(EndedBy::ClientReset),
                Closing::ResetServer,
            ),
            (Self::DeadServer(_), 0) => (
                first_end.unwrap_or(EndedBy::ServerReset),
                Closing::ResetClient,
            ),
            (Self::ClosedServer(_), 0) => (EndedBy::HalfClosedTimeout, Closing::Orderly),
            (Self::StalledClient(_), 0) => (
                first_end.unwrap_or(EndedBy::HalfClosedTimeout),
                Closing::ResetClient,
            ),
            (Self::DeadServer(_) | Self::ClosedServer(_) | Self::StalledClient(_), _) => {
                return None;
            }
        };
        Some(Ended { by, closing })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_a_whole_period_from_the_end_of_its_server_and_from_whatever_it_took() {
        let mut stall = Stall::default();
        assert!(!stall.has_lasted(false, 100));
        // Its server ended within the period that ends now.
        assert!(!stall.has_lasted(true, 100));
        assert!(!stall.has_lasted(true, 99));
        assert!(stall.has_lasted(true, 99));
    }
}
