//! One connection's life: calls the stages in order and does nothing else.
//!
//! **Invariant:** every accepted connection gets exactly one pair of audit records, whatever happens to it.

mod registry;

use std::sync::Arc;
use std::time::Duration;

use proxy_ebpf::interception::Interception;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::audit::record::{CloseReason, Kind, Login, Startup};
use crate::audit::{Audit, AuditLimits, ClosingPlace, SessionGuard};
use crate::config::{RouteRule, Routes, SessionLimits};
use crate::identify::{Identifier, Identity};
use crate::intercept::{Accepted, Handover, HandoverError};
use crate::policy;
use crate::relay::{Legs, Observer as _, Side, relay};
use crate::route::{DialError, Router};
use crate::socket;
use crate::startup::{self, ClientLeg, Encryption, Negotiated, StartupError};
use crate::wire::error_response::{FatalError, SqlState};
use crate::wire::opening::{Opening, OpeningError};

pub use registry::{Connection, SessionCounts, Sessions, Slot};

/// How long a connection that did not come through the hooks may take to send what the refusal answers.
const STRANGER_LIMIT: Duration = Duration::from_secs(2);

/// What a session needs of the rest of the program.
pub struct Stages {
    /// Where intercepted connections are handed over.
    pub handover: Arc<Handover>,
    /// The network namespace of our listeners.
    pub netns_cookie: u64,
    /// Who is it?
    pub identifier: Identifier,
    /// Where to?
    pub router: Router,
    /// Where records go.
    pub audit: Audit,
    /// How much of a statement is recorded.
    pub audit_limits: AuditLimits,
    /// Who is there already.
    pub sessions: Sessions,
    /// What applies to which destination.
    pub routes: Routes,
    /// Timeouts.
    pub limits: SessionLimits,
    /// Cancelled when sessions must end at once.
    pub force: CancellationToken,
}

/// A session that has a server.
struct Established {
    client: ClientLeg,
    upstream: TcpStream,
    /// What applies to it.
    rule: Arc<RouteRule>,
    /// Whether what follows the opening can be read.
    readable: bool,
    /// How many bytes of the client's buffer are its startup packet; what comes behind it are messages.
    startup_bytes: usize,
    /// Held for as long as the session lives.
    _slot: Option<Slot>,
}

/// A connection that gets no session.
enum Refusal {
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
    /// There is nobody to tell.
    Closed(CloseReason),
}

/// Serves one accepted connection from its first byte to its closing record.
pub async fn serve(stages: Arc<Stages>, accepted: Accepted, place: ClosingPlace) {
    let mut guard = SessionGuard::open(place, accepted.client);
    let deadline = Instant::now() + stages.limits.startup_timeout;
    let established = tokio::select! {
        // Shutdown first: a client that says nothing would otherwise hold it up.
        biased;
        () = stages.force.cancelled() => Err(Refusal::Closed(CloseReason::Shutdown)),
        established = establish(&stages, accepted, &mut guard, deadline) => established,
    };
    match established {
        Ok(established) => carry(&stages, established, guard).await,
        Err(refusal) => turn_away(&stages, refusal, guard, deadline).await,
    }
}

/// Stages 1 to 5: from an accepted connection to one with a server.
async fn establish(
    stages: &Stages,
    accepted: Accepted,
    guard: &mut SessionGuard,
    deadline: Instant,
) -> Result<Established, Refusal> {
    let (mut client, interception, identity) = identify(stages, accepted, guard).await?;

    let first = match client.next_packet(deadline).await {
        Ok(packet) => packet,
        Err(error) => return Err(Refusal::startup(client, error)),
    };
    record_opening(guard, &first.opening, Encryption::None);
    let Ok(slot) = stages.sessions.admit(&first.opening) else {
        return Err(Refusal::too_many(client));
    };

    let destination = interception.route().original().socket_addr();
    let rule = Arc::clone(stages.routes.find(destination));
    let permit = policy::observe(&identity, destination);

    let mut upstream = match stages.router.dial(&permit, interception.route()).await {
        Ok(upstream) => upstream,
        Err(error) => return Err(Refusal::unreachable(client, &error)),
    };
    let mut negotiated = Negotiated::from(first.opening.clone());
    // The dial may have taken long; the server's answers get their own time.
    let deadline = Instant::now() + stages.limits.startup_timeout;
    let outcome =
        startup::negotiate(&mut client, &mut upstream, first, deadline, &mut negotiated).await;
    // Also of a negotiation that failed: what was said is on record.
    record_opening(guard, &negotiated.opening, negotiated.encryption);
    guard.delivered(negotiated.passed);
    match outcome {
        Ok(()) => Ok(Established {
            client,
            upstream,
            rule,
            readable: negotiated.readable,
            startup_bytes: negotiated.startup_bytes,
            _slot: slot,
        }),
        Err(error) => Err(Refusal::startup(client, error)),
    }
}

/// Stages 1 and 2: where was the connection going, and whose is it? The opening record is written either way.
async fn identify(
    stages: &Stages,
    accepted: Accepted,
    guard: &mut SessionGuard,
) -> Result<(ClientLeg, Interception, Identity), Refusal> {
    let taken = stages
        .handover
        .take(stages.netns_cookie, accepted.client, accepted.listener);
    let identified = match taken {
        Ok(interception) => {
            let identity = stages.identifier.identify(interception.origin()).await;
            guard.identified(
                identity.clone(),
                interception.route().original().socket_addr(),
            );
            Ok((interception, identity))
        }
        Err(error) => Err(error),
    };
    stages.audit.record(guard.start_record()).await;
    let prepared = socket::prepare_leg(&accepted.stream);
    let client = ClientLeg::new(accepted.stream);
    match (identified, prepared) {
        (Ok((interception, identity)), Ok(())) => Ok((client, interception, identity)),
        (Ok(_), Err(_)) => Err(Refusal::Closed(CloseReason::ClientReset)),
        (Err(error), _) => Err(Refusal::unknown_destination(client, &error)),
    }
}

/// Stages 6 and 7 of a session: relay, and close the record.
async fn carry(stages: &Stages, established: Established, mut guard: SessionGuard) {
    let Established {
        client,
        upstream,
        rule,
        readable,
        startup_bytes,
        _slot,
    } = established;
    debug!(session = %guard.id(), route = rule.name, "session established");
    let mut observation = guard.observe(&stages.audit, rule.audit, stages.audit_limits, readable);
    observation.sent(
        Side::Client,
        client.buffer.get(startup_bytes..).unwrap_or_default(),
    );
    let legs = Legs {
        client: client.stream,
        upstream,
        from_client: client.buffer,
    };
    let relayed = relay(
        legs,
        &mut observation,
        stages.limits.half_closed_timeout,
        &stages.force,
    )
    .await;
    debug!(session = %guard.id(), ?relayed, "session ended");
    guard.login(Login::observed(observation.login()));
    // Before the closing record, which comes last of the session's.
    observation.finish(&stages.force).await;
    guard.relayed(&relayed);
}

/// The end of a connection that gets no session: tell the client, and close the record.
async fn turn_away(stages: &Stages, refusal: Refusal, mut guard: SessionGuard, deadline: Instant) {
    let reason = refusal.reason();
    // A stranger at our own listener gets no time to hold a place with.
    let deadline = match reason {
        CloseReason::NoOriginalDestination => deadline.min(Instant::now() + STRANGER_LIMIT),
        _ => deadline,
    };
    debug!(session = %guard.id(), ?reason, "connection refused");
    stages.sessions.count_refused();
    let answering = async {
        match refusal {
            Refusal::Answered { client, error, .. } => {
                startup::refuse(client, &error, deadline).await
            }
            Refusal::Malformed { client, error } => {
                startup::refuse_malformed(client, error, deadline).await;
                None
            }
            Refusal::Closed(_) => None,
        }
    };
    let last_opening = tokio::select! {
        biased;
        () = stages.force.cancelled() => None,
        opening = answering => opening,
    };
    if let Some(opening) = last_opening {
        record_opening(&mut guard, &opening, Encryption::None);
    }
    guard.close(reason);
}

impl Refusal {
    fn answered(client: ClientLeg, error: FatalError, reason: CloseReason) -> Self {
        Self::Answered {
            client,
            error,
            reason,
        }
    }

    fn unknown_destination(client: ClientLeg, error: &HandoverError) -> Self {
        let error = FatalError::new(SqlState::ConnectionFailure, error.to_string())
            .with_hint("Connect to the server's own address; pgusher intercepts that.");
        Self::answered(client, error, CloseReason::NoOriginalDestination)
    }

    fn unreachable(client: ClientLeg, error: &DialError) -> Self {
        // A lack of ours must not look like a database that is down.
        let (sqlstate, reason) = match error {
            DialError::NoSocket { .. } => {
                (SqlState::InsufficientResources, CloseReason::OutOfResources)
            }
            _ => (SqlState::CannotConnectNow, CloseReason::UpstreamUnreachable),
        };
        Self::answered(client, FatalError::new(sqlstate, error.to_string()), reason)
    }

    fn too_many(client: ClientLeg) -> Self {
        let error = FatalError::new(
            SqlState::TooManyConnections,
            "too many sessions through pgusher".to_owned(),
        )
        .with_hint("The operator can raise max_sessions.");
        Self::answered(client, error, CloseReason::TooManySessions)
    }

    fn startup(client: ClientLeg, error: StartupError) -> Self {
        match error {
            StartupError::Malformed(error) => Self::Malformed { client, error },
            StartupError::TimedOut => Self::Closed(CloseReason::StartupTimeout),
            StartupError::Closed => Self::Closed(CloseReason::NoStartup),
            StartupError::Client(_) => Self::Closed(CloseReason::ClientReset),
            StartupError::Server(_) => Self::Closed(CloseReason::ServerReset),
        }
    }

    fn reason(&self) -> CloseReason {
        match self {
            Self::Answered { reason, .. } | Self::Closed(reason) => *reason,
            Self::Malformed { .. } => CloseReason::MalformedStartup,
        }
    }
}

/// Puts what is known of the opening into the record.
fn record_opening(guard: &mut SessionGuard, opening: &Opening, encryption: Encryption) {
    let (kind, startup) = match opening {
        Opening::Startup(message) if message.replication().is_some() => {
            (Kind::Replication, Some(Startup::from(message)))
        }
        Opening::Startup(message) => (Kind::Session, Some(Startup::from(message))),
        Opening::Cancel { .. } => (Kind::Cancel, None),
        Opening::SslRequest | Opening::GssRequest | Opening::DirectTls | Opening::Other { .. } => {
            (Kind::Opaque, None)
        }
    };
    guard.opened(kind, startup, encryption);
}
