//! One connection's life: calls the stages and does nothing else.
//!
//! **Invariant:** every accepted connection gets exactly one pair of audit records, whatever happens to it.

mod arrival;
mod cancel;
mod dialling;
mod introduction;
mod pace;
mod passthrough;
mod refusal;
mod registry;
mod terminated;
mod upstream;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use crate::audit::record::{CloseReason, Kind, Login, Startup};
use crate::audit::{Audit, AuditLimits, ClosingPlace, SessionGuard};
use crate::config::{RouteRule, Routes, SessionLimits};
use crate::identify::Identifier;
use crate::intercept::{Accepted, FastPath, Handover, Namespace, NoFastPath};
use crate::leg::Leg;
use crate::policy::{Clearance, Denial, Enforcer, Permit};
use crate::relay::{EndedBy, Legs, Observer as _, Shortcut, Side, Stops, relay};
use crate::route::{DialError, Router, Way};
use crate::startup::{self, AuthenticationError, ClientLeg, Encryption};
use crate::stream::Stream;
use crate::tls::{self, Certificates};
use crate::wire::binding::Binding;
use crate::wire::boundary::Boundary;
use crate::wire::error_response::{FatalError, SqlState};
use crate::wire::opening::Opening;

use introduction::{Introduced, introduce};
use refusal::{Refusal, turn_away};
use watch::{Candidate, Watch};

pub use cancel::{CancelChange, CancelKeys, CancelTarget, Inherited};
pub use pace::{Pace, Stage, StagePace};
pub use registry::{Connection, SessionCounts, Sessions, Slot};

/// How long a connection that did not come through the hooks may take to send what the refusal answers.
const STRANGER_LIMIT: Duration = Duration::from_secs(2);

/// How long a client whose session ends may take to hear why.
const GOODBYE_LIMIT: Duration = Duration::from_secs(5);
/// How much of what it still sends is read and dropped meanwhile.
const GOODBYE_BYTES: usize = 64 * 1024 * 1024;

/// What a session needs of the rest of the program.
pub struct Stages {
    /// Where intercepted connections are handed over.
    pub handover: Arc<Handover>,
    /// Who is it?
    pub identifier: Identifier,
    /// May it?
    pub policy: Enforcer,
    /// Whose session is it that somebody wants to cancel?
    pub cancel_keys: CancelKeys,
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
    /// What a refused client that asks for TLS is shown, where its route has nothing to show.
    pub certificates: Arc<Certificates>,
    /// What makes sessions faster, or why there is nothing.
    pub fast_path: Result<Arc<FastPath>, NoFastPath>,
    /// How long the stages take.
    pub pace: Pace,
    /// Timeouts.
    pub limits: SessionLimits,
    /// Cancelled when sessions must end at once.
    pub force: CancellationToken,
}

impl Stages {
    /// Reads policies and certificates again; what is wrong with them is logged, and the old ones stay in force. Returns
    /// whether the policies could be used.
    pub async fn reload(stages: &Arc<Self>) -> bool {
        let stages = Arc::clone(stages);
        let reading = tokio::task::spawn_blocking(move || {
            tls::reload(&stages.routes);
            let read = stages.policy.reload();
            if let Err(error) = &read {
                error!("policy not reloaded; the old one stays in force: {error}");
            }
            read.is_ok()
        });
        reading.await.unwrap_or_else(|error| {
            error!(%error, "reloading failed");
            false
        })
    }

    /// Connects to a server.
    async fn dial(&self, clearance: &Clearance, way: &Way) -> Result<Stream, DialError> {
        let since = Instant::now();
        let dialled = self.router.dial(clearance, way).await;
        self.pace.took(Stage::Dial, since.elapsed());
        dialled
    }
}

/// A session that has a server.
struct Established {
    client: ClientLeg,
    upstream: Leg,
    /// What the server has said already.
    from_server: BytesMut,
    /// What applies to it.
    rule: Arc<RouteRule>,
    /// Leave to have it, held for as long as it lives.
    permit: Permit,
    /// Whose it is, should somebody want to cancel what it runs and policies have to say whether they may.
    target: Option<CancelTarget>,
    /// Whether what follows the opening can be read.
    readable: bool,
    /// How many bytes of the client's buffer are its startup packet; what comes behind it are messages.
    startup_bytes: usize,
    /// What has to be watched of its login.
    binding: Option<Binding>,
    /// Held for as long as the session lives.
    _slot: Option<Slot>,
}

/// Serves one accepted connection from its first byte to its closing record.
pub async fn serve(stages: Arc<Stages>, accepted: Accepted, place: ClosingPlace) {
    let mut guard = SessionGuard::open(place, accepted.client());
    let namespace = Arc::clone(&accepted.namespace);
    let deadline = Instant::now() + stages.limits.startup_timeout;
    let established = tokio::select! {
        // Shutdown first: a client that says nothing would otherwise hold it up.
        biased;
        () = stages.force.cancelled() => Err(Refusal::Closed(CloseReason::Shutdown)),
        // What a session needs only on its way is not to be carried along for as long as it lives: a future is as large
        // as the largest that it ever waits for.
        established = Box::pin(establish(&stages, accepted, &mut guard, deadline)) => established,
    };
    match established {
        Ok(established) => carry(&stages, established, namespace, guard).await,
        Err(refusal) => Box::pin(turn_away(&stages, refusal, guard, deadline)).await,
    }
}

/// Stages 1 to 5: from an accepted connection to one with a server.
async fn establish(
    stages: &Arc<Stages>,
    accepted: Accepted,
    guard: &mut SessionGuard,
    deadline: Instant,
) -> Result<Established, Refusal> {
    let Introduced {
        arrival,
        first,
        dialling,
    } = introduce(stages, accepted, guard, deadline).await?;
    let (who, rule) = (&arrival.who, &arrival.rule);
    match who.termination(stages, rule, &first.opening) {
        Some(termination) => terminated::establish(stages, arrival, &termination, guard).await,
        None => passthrough::establish(stages, arrival, (first, dialling), guard).await,
    }
}

/// Stages 6 and 7 of a session: relay, and close the record.
async fn carry(
    stages: &Stages,
    established: Established,
    namespace: Arc<Namespace>,
    mut guard: SessionGuard,
) {
    let Established {
        client,
        upstream,
        from_server,
        rule,
        permit,
        target,
        readable,
        startup_bytes,
        binding,
        _slot,
    } = established;
    debug!(session = %guard.id(), route = rule.name, "session established");
    let mut scope = rule.audit;
    scope.level = scope.level.max(permit.audit().unwrap_or(scope.level));
    let observation = guard.observe(&stages.audit, scope, stages.audit_limits, readable);
    let mut watch = Watch::new(
        observation,
        (readable && permit.is_revocable()).then(Boundary::new),
        target.filter(|_| readable).map(|target| Candidate {
            keys: stages.cancel_keys.clone(),
            target,
        }),
        permit.is_revocable(),
    );
    let early = client.buffer.get(startup_bytes..).unwrap_or_default();
    watch.sent(Side::Client, early);
    watch.sent(Side::Server, &from_server);
    let mut legs = Legs {
        client: client.leg,
        upstream,
        from_client: client.buffer,
        from_server,
        shortcut: stages
            .fast_path
            .as_ref()
            .ok()
            .map(|fast_path| Shortcut::new(Arc::clone(fast_path), namespace)),
    };
    let stops = Stops {
        force: &stages.force,
        revoked: permit.revocation(),
    };
    if let Some(binding) = binding {
        let login = log_in(stops, &mut legs, startup_bytes, binding, &mut watch);
        let (passed, outcome) = Box::pin(login).await;
        guard.delivered(passed);
        if let Err(failure) = outcome {
            guard.login(Login::observed(watch.observation.login()));
            watch.observation.finish(&stages.force).await;
            let ended = (legs, failure, passed.1 > 0);
            return Box::pin(end_login(stages, ended, &permit, guard)).await;
        }
    }
    let mut relayed = relay(legs, &mut watch, stages.limits.half_closed_timeout, stops).await;
    debug!(session = %guard.id(), ?relayed, "session ended");
    if relayed.ended_by == EndedBy::Revoked
        && let Some(denial) = permit.denial()
    {
        guard.ruled(denial.ruling());
        Box::pin(tell_revoked(stages, relayed.client.take(), denial)).await;
    }
    let mut observation = watch.observation;
    guard.login(Login::observed(observation.login()));
    // Before the closing record, which comes last of the session's.
    observation.finish(&stages.force).await;
    guard.relayed(&relayed);
}

/// Tells a client why its session ends, if it can be told. It may be in the midst of a COPY: bytes of its left unread
/// would turn the close into a reset, which may overtake the message.
async fn tell_revoked(stages: &Stages, client: Option<Leg>, denial: &Denial) {
    let Some(mut client) = client else {
        return;
    };
    let message = denial.ending().encode();
    let goodbye = async {
        // A client that does not take it is closed all the same.
        let _ = tokio::time::timeout(GOODBYE_LIMIT, client.write_all(&message)).await;
        client.finish(GOODBYE_BYTES).await;
    };
    tokio::select! {
        biased;
        () = stages.force.cancelled() => {}
        () = goodbye => {}
    }
}

/// Why a watched login led to no session.
enum LoginFailure {
    Shutdown,
    Revoked,
    Authentication(AuthenticationError),
}

/// Carries the login as far as it has to be watched. Returns the bytes delivered, too.
async fn log_in(
    stops: Stops<'_>,
    legs: &mut Legs,
    startup_bytes: usize,
    binding: Binding,
    observation: &mut Watch,
) -> ((u64, u64), Result<(), LoginFailure>) {
    let mut passed = (0, 0);
    let outcome = tokio::select! {
        biased;
        () = stops.force.cancelled() => Err(LoginFailure::Shutdown),
        () = stops.revoked.cancelled() => Err(LoginFailure::Revoked),
        outcome = startup::authenticate(legs, startup_bytes, binding, observation, &mut passed) => {
            outcome.map_err(LoginFailure::Authentication)
        }
    };
    (passed, outcome)
}

/// Ends a session whose login was broken off, and closes its record; the last of the three says whether the client has heard of
/// the server.
async fn end_login(
    stages: &Stages,
    (legs, failure, has_answer): (Legs, LoginFailure, bool),
    permit: &Permit,
    mut guard: SessionGuard,
) {
    if let (LoginFailure::Revoked, Some(denial)) = (&failure, permit.denial()) {
        guard.ruled(denial.ruling());
    }
    let refusal = broken_off(legs, failure, has_answer).await;
    let deadline = Instant::now() + stages.limits.startup_timeout;
    turn_away(stages, refusal, guard, deadline).await;
}

/// What to tell the client of a session whose login was broken off.
async fn broken_off(legs: Legs, failure: LoginFailure, has_answer: bool) -> Refusal {
    let (error, reason) = match failure {
        LoginFailure::Authentication(AuthenticationError::Doomed(doomed)) => {
            // An orderly end: the server has heard of no login, and is to log no failed one.
            legs.upstream.finish(0).await;
            (doomed.error(), CloseReason::ChannelBinding)
        }
        // With TLS 1.3 a server refuses our certificate only after the handshake.
        LoginFailure::Authentication(AuthenticationError::Failed(Side::Server, error))
            if !has_answer =>
        {
            let message = format!("the server ended the connection with pgusher: {error}");
            let error = FatalError::new(SqlState::ConnectionFailure, message);
            (error, EndedBy::ServerReset.into())
        }
        LoginFailure::Authentication(AuthenticationError::Failed(side, _)) => {
            let ended_by = match side {
                Side::Client => EndedBy::ClientReset,
                Side::Server => EndedBy::ServerReset,
            };
            return reset(legs, ended_by);
        }
        LoginFailure::Shutdown => return reset(legs, EndedBy::Shutdown),
        // Who may have been told half a message cannot be told more.
        LoginFailure::Revoked => return reset(legs, EndedBy::Revoked),
    };
    Refusal::Told {
        leg: legs.client,
        error,
        reason,
    }
}

/// Ends both sides at once, as the relay would.
fn reset(legs: Legs, ended_by: EndedBy) -> Refusal {
    legs.client.reset();
    legs.upstream.reset();
    Refusal::Closed(ended_by.into())
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

#[cfg(test)]
mod tests;
