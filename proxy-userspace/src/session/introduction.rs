//! Stages 1 and 2: where was the connection going, and whose is it? And what goes on meanwhile.
//!
//! Reading /proc takes about as long as a server takes to accept and to have a process for its client. So over TCP the
//! client's first packet is waited for at the same time, and where no decision could keep the client from its server and TLS
//! does not end here, the server is dialled too. Nothing that the client says goes to the server before the opening record
//! has been queued, whatever was done ahead.

use std::sync::Arc;
use std::time::Duration;

use proxy_ebpf::interception::Interception;
use proxy_ebpf::origin::Origin;
use proxy_ebpf::unix::UnixInterception;
use tokio::time::Instant;

use super::Stages;
use super::arrival::{Arrival, Who};
use super::dialling::Dialling;
use super::pace::Stage;
use super::refusal::Refusal;
use crate::audit::SessionGuard;
use crate::audit::record::CloseReason;
use crate::identify::Identity;
use crate::intercept::{Accepted, HandoverError, Namespace, Taken};
use crate::route::Way;
use crate::startup::{ClientLeg, StartupError};
use crate::wire::opening::Packet;

/// A connection whose owner is known, and that has said something.
pub(super) struct Introduced {
    pub(super) arrival: Arrival,
    /// The client's first packet, still at the start of its buffer.
    pub(super) first: Packet,
    /// There if its server is being dialled already.
    pub(super) dialling: Option<Dialling>,
}

/// A client that is known.
struct Met {
    way: Way,
    identity: Arc<Identity>,
    first: Result<Packet, StartupError>,
    /// For how long it waited for us with its first packet said, or to be read.
    kept_waiting: Duration,
    dialling: Option<Dialling>,
}

/// Learns whose connection it is, and what its client says first. The opening record is written either way.
pub(super) async fn introduce(
    stages: &Arc<Stages>,
    accepted: Accepted,
    guard: &mut SessionGuard,
    deadline: Instant,
) -> Result<Introduced, Refusal> {
    let take = || stages.handover.take(&accepted);
    let taken = stages.pace.time(Stage::Handover, take);
    let prepared = accepted.stream.prepare();
    let mut client = ClientLeg::new(accepted.stream, Arc::clone(&stages.certificates));
    let namespace = accepted.namespace;
    let met = match taken {
        Ok(Taken::Tcp(interception)) => {
            let caught = (interception, namespace);
            Ok(meet(stages, &mut client, caught, guard, deadline).await)
        }
        Ok(Taken::Unix(interception)) => {
            let caught = (interception, namespace);
            let met = meet_at_unix_socket(stages, &mut client, caught, guard, deadline).await;
            met.ok_or(HandoverError::Unknown)
        }
        Err(error) => {
            record_start(stages, guard).await;
            Err(error)
        }
    };
    let met = match (met, prepared) {
        (Ok(met), Ok(())) => met,
        (Ok(_), Err(_)) | (Err(HandoverError::Reset), _) => {
            return Err(Refusal::Closed(CloseReason::ClientReset));
        }
        (Err(error), _) => return Err(Refusal::unknown_destination(client, &error)),
    };
    let destination = met.way.destination();
    client.address = destination.ip();
    let first = match met.first {
        Ok(packet) => packet,
        Err(error) => return Err(Refusal::startup(client, error)),
    };
    Ok(Introduced {
        arrival: Arrival {
            client,
            rule: Arc::clone(stages.routes.find(&destination)),
            who: Who::new(met.identity, destination),
            way: met.way,
            deadline: deadline + met.kept_waiting,
        },
        first,
        dialling: met.dialling,
    })
}

/// Meets a client over TCP: its way is the same whoever goes it.
async fn meet(
    stages: &Arc<Stages>,
    client: &mut ClientLeg,
    (interception, namespace): (Interception, Arc<Namespace>),
    guard: &mut SessionGuard,
    deadline: Instant,
) -> Met {
    let way = Way::Tcp {
        route: *interception.route(),
        namespace,
    };
    let going_ahead = go_ahead(stages, client, way.clone(), deadline);
    let identifying = async {
        let identity = identify(stages, interception.origin()).await;
        guard.identified(Arc::clone(&identity), &way.destination());
        record_start(stages, guard).await;
        identity
    };
    // The dial first, if it can be: the server has most to do.
    let ((first, said, dialling), identity) = tokio::join!(biased; going_ahead, identifying);
    Met {
        way,
        identity,
        first,
        kept_waiting: said.elapsed(),
        dialling,
    }
}

/// Meets a client of a unix socket. None if there is no server at the path: what such a client says is not waited for.
async fn meet_at_unix_socket(
    stages: &Stages,
    client: &mut ClientLeg,
    (interception, namespace): (UnixInterception, Arc<Namespace>),
    guard: &mut SessionGuard,
    deadline: Instant,
) -> Option<Met> {
    let since = Instant::now();
    let identity = identify(stages, interception.origin()).await;
    let who = (interception.origin(), &*identity);
    let way = stages
        .router
        .find(who, interception.path(), namespace)
        .await;
    if let Some(way) = &way {
        guard.identified(Arc::clone(&identity), &way.destination());
    }
    record_start(stages, guard).await;
    let kept_waiting = since.elapsed();
    Some(Met {
        way: way?,
        identity,
        first: client.next_packet(deadline + kept_waiting).await,
        kept_waiting,
        dialling: None,
    })
}

async fn identify(stages: &Stages, origin: &Origin) -> Arc<Identity> {
    let since = Instant::now();
    let identity = stages.identifier.identify(origin).await;
    stages.pace.took(Stage::Identify, since.elapsed());
    Arc::new(identity)
}

async fn record_start(stages: &Stages, guard: &SessionGuard) {
    let since = Instant::now();
    stages.audit.record(guard.start_record()).await;
    stages.pace.took(Stage::Record, since.elapsed());
}

/// Waits for the client's first packet, and begins to dial its server if nothing about its owner could be in the way. Tells
/// when the packet was there.
async fn go_ahead(
    stages: &Arc<Stages>,
    client: &mut ClientLeg,
    way: Way,
    deadline: Instant,
) -> (Result<Packet, StartupError>, Instant, Option<Dialling>) {
    let first = client.next_packet(deadline).await;
    let said = Instant::now();
    let dialling = match &first {
        Ok(first) => dial_ahead(stages, first, way).await,
        Err(_) => None,
    };
    (first, said, dialling)
}

async fn dial_ahead(stages: &Arc<Stages>, first: &Packet, way: Way) -> Option<Dialling> {
    let destination = way.destination();
    // Where TLS ends here, the client's handshake comes before the dial.
    let rule = stages.routes.find(&destination);
    if rule.termination(&destination, None).is_some() {
        return None;
    }
    let clearance = stages.policy.unasked(&destination)?;
    // Who finds no place asks again in its turn.
    let slot = stages.sessions.admit(&first.opening).ok()?;
    let stages = Arc::clone(stages);
    let dial = async move { stages.dial(&clearance, &way).await };
    Some(Dialling::begin(slot, dial).await)
}
