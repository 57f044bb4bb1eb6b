//! Connections that get no session: who is told what, and what goes on record.

use tokio::time::Instant;
use tracing::debug;

use super::{GOODBYE_LIMIT, STRANGER_LIMIT, Stages, record_opening};
use crate::audit::SessionGuard;
use crate::audit::record::CloseReason;
use crate::intercept::HandoverError;
use crate::leg::Leg;
use crate::policy::Denial;
use crate::route::DialError;
use crate::startup::{self, ClientLeg, StartupError, Turned};
use crate::tls::SecureError;
use crate::wire::error_response::{FatalError, SqlState};
use crate::wire::negotiation::Violation;
use crate::wire::opening::OpeningError;

/// A connection that gets no session.
pub(super) enum Refusal {
    /// The client is told why, if it can be.
    Answered {
        client: ClientLeg,
        error: FatalError,
        reason: CloseReason,
    },
    /// What the client sent is no opening.
    Malformed {
        client: ClientLeg,
        error: OpeningError,
    },
    /// The client broke the rules of the opening.
    Violation {
        client: ClientLeg,
        violation: Violation,
    },
    /// The client has named what it wants, and is told why it cannot have it.
    Told {
        leg: Leg,
        error: FatalError,
        reason: CloseReason,
    },
    /// There is nobody to tell.
    Closed(CloseReason),
}

/// Until when a client may take to hear why it is turned away.
fn time_to_tell(reason: CloseReason, deadline: Instant, now: Instant) -> Instant {
    match reason {
        // A stranger at our own listener gets no time to hold a place with.
        CloseReason::NoOriginalDestination => deadline.min(now + STRANGER_LIMIT),
        // Whatever came before may have taken all of the client's time.
        _ => deadline.max(now + GOODBYE_LIMIT),
    }
}

/// The end of a connection that gets no session: tell the client, and close the record.
pub(super) async fn turn_away(
    stages: &Stages,
    refusal: Refusal,
    mut guard: SessionGuard,
    deadline: Instant,
) {
    let reason = refusal.reason();
    let deadline = time_to_tell(reason, deadline, Instant::now());
    debug!(session = %guard.id(), ?reason, "connection refused");
    stages.sessions.count_refused();
    let answering = async {
        match refusal {
            Refusal::Answered { client, error, .. } => {
                return Some(startup::refuse(client, &error, deadline).await);
            }
            Refusal::Malformed { client, error } => {
                startup::refuse_malformed(client, error, deadline).await;
            }
            Refusal::Violation { client, violation } => {
                startup::tell(client.leg, &violation.error(), deadline).await;
            }
            Refusal::Told { leg, error, .. } => {
                startup::tell(leg, &error, deadline).await;
            }
            Refusal::Closed(_) => {}
        }
        None
    };
    let answered = tokio::select! {
        biased;
        () = stages.force.cancelled() => None,
        answered = answering => answered,
    };
    if let Some((opening, encryption)) = answered {
        let encryption = guard.encrypted(encryption);
        if let Some(opening) = opening {
            record_opening(&mut guard, &opening, encryption);
        }
    }
    guard.close(reason);
}

impl Refusal {
    pub(super) fn answered(client: ClientLeg, error: FatalError, reason: CloseReason) -> Self {
        Self::Answered {
            client,
            error,
            reason,
        }
    }

    pub(super) fn unknown_destination(client: ClientLeg, error: &HandoverError) -> Self {
        let error = FatalError::new(SqlState::ConnectionFailure, error.to_string())
            .with_hint("Connect to the server's own address; pgusher intercepts that.");
        Self::answered(client, error, CloseReason::NoOriginalDestination)
    }

    pub(super) fn unreachable(client: ClientLeg, error: &DialError) -> Self {
        // A lack of ours must not look like a database that is down.
        let (sqlstate, reason) = match error {
            DialError::NoSocket { .. } => {
                (SqlState::InsufficientResources, CloseReason::OutOfResources)
            }
            _ => (SqlState::CannotConnectNow, CloseReason::UpstreamUnreachable),
        };
        Self::answered(client, FatalError::new(sqlstate, error.to_string()), reason)
    }

    pub(super) fn denied(client: ClientLeg, denial: &Denial) -> Self {
        let reason = if denial.is_full() {
            CloseReason::TooManySessions
        } else {
            CloseReason::PolicyDenied
        };
        Self::answered(client, denial.error(), reason)
    }

    pub(super) fn too_many(client: ClientLeg) -> Self {
        let error = FatalError::new(
            SqlState::TooManyConnections,
            "too many sessions through pgusher".to_owned(),
        )
        .with_hint("The operator can raise max_sessions.");
        Self::answered(client, error, CloseReason::TooManySessions)
    }

    pub(super) fn startup(client: ClientLeg, error: StartupError) -> Self {
        match error {
            StartupError::Malformed(error) => Self::Malformed { client, error },
            StartupError::TimedOut => Self::Closed(CloseReason::StartupTimeout),
            StartupError::Closed => Self::Closed(CloseReason::NoStartup),
            StartupError::Client(_) => Self::Closed(CloseReason::ClientReset),
            StartupError::Denied(denial) => Self::denied(client, &denial),
            StartupError::Server(_) => Self::Closed(CloseReason::ServerReset),
        }
    }

    /// A client that was to be answered by us and never came to say what it wants.
    pub(super) fn turned(turned: Turned) -> Self {
        match turned {
            Turned::Startup(client, error) => Self::startup(client, error),
            Turned::Violation(client, violation) => Self::Violation { client, violation },
            Turned::Handshake(error, _) => {
                debug!(%error, "TLS with the client failed");
                Self::Closed(CloseReason::TlsHandshakeFailed)
            }
            Turned::HandshakeTimedOut(_) => Self::Closed(CloseReason::StartupTimeout),
            Turned::NoProtocol => Self::Closed(CloseReason::MalformedStartup),
        }
    }

    /// A client without TLS on a route that wants it.
    pub(super) fn tls_required(client: ClientLeg, route: &str) -> Self {
        let error = FatalError::new(
            SqlState::InvalidAuthorization,
            format!("connections without TLS are not admitted on pgusher's route \"{route}\""),
        )
        .with_hint("Connect with sslmode=require or stronger.");
        Self::answered(client, error, CloseReason::TlsRequired)
    }

    /// A server that TLS is wanted with and cannot be had.
    pub(super) fn insecure(
        client: ClientLeg,
        server: &crate::destination::Destination,
        error: &SecureError,
    ) -> Self {
        let text = |what: &str| format!("pgusher {what} {server}: {error}");
        let (fatal, reason) = match error {
            SecureError::NotVerified(_) => (
                FatalError::new(SqlState::ConnectionFailure, text("does not trust the server"))
                    .with_hint("The operator of pgusher decides whom it trusts: server_sslmode, server_ca, server_name."),
                CloseReason::UpstreamNotVerified,
            ),
            SecureError::Failed(_) | SecureError::Handshake(_) => (
                FatalError::new(
                    SqlState::ConnectionFailure,
                    text("cannot use TLS with the server"),
                )
                .with_hint("The operator of pgusher decides whether TLS is needed: server_sslmode."),
                CloseReason::UpstreamTlsFailed,
            ),
            // Not there, or not ready: another host may be.
            SecureError::Gone(_) => (
                FatalError::new(SqlState::CannotConnectNow, text("has no connection to the server")),
                CloseReason::UpstreamUnreachable,
            ),
        };
        Self::answered(client, fatal, reason)
    }

    pub(super) fn reason(&self) -> CloseReason {
        match self {
            Self::Answered { reason, .. } | Self::Told { reason, .. } | Self::Closed(reason) => {
                *reason
            }
            Self::Malformed { .. } | Self::Violation { .. } => CloseReason::MalformedStartup,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn whoever_waited_for_us_hears_why_and_a_stranger_gets_no_time() {
        let now = Instant::now();
        let (past, later) = (now, now + Duration::from_secs(60));
        let denied = CloseReason::PolicyDenied;
        assert_eq!(time_to_tell(denied, past, now), now + GOODBYE_LIMIT);
        assert_eq!(time_to_tell(denied, later, now), later);
        let stranger = CloseReason::NoOriginalDestination;
        assert_eq!(time_to_tell(stranger, later, now), now + STRANGER_LIMIT);
        assert_eq!(time_to_tell(stranger, past, now), past);
    }
}
