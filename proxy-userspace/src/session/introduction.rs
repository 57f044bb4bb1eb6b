//! Stages 1 and 2: where was the connection going, and whose is it? And what goes on meanwhile.
//!
//! Reading /proc takes about as long as a server takes to accept and to have a process for its client. Over TCP, and where
//! no decision could keep the client from its server, both happen at once; elsewhere the server is dialled after the
//! decision. Nothing that the client says goes to the server before the opening record has been queued, whatever was done
//! ahead.

use std::sync::Arc;

use tokio::time::Instant;

use super::Stages;
use super::arrival::{Arrival, Who};
use super::dialling::Dialling;
use super::pace::Stage;
use super::refusal::Refusal;
use crate::audit::SessionGuard;
use crate::audit::record::CloseReason;
use crate::config::TlsMode;
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
    let taken = match taken {
        Ok(taken) => taken,
        Err(error) => {
            record_start(stages, guard).await;
            return Err(match error {
                HandoverError::Reset => Refusal::Closed(CloseReason::ClientReset),
                error => Refusal::unknown_destination(client, &error),
            });
        }
    };
    let obvious = obvious_way(&taken, &namespace);
    let identifying = identify(stages, &taken, (obvious.clone(), namespace), guard);
    if prepared.is_err() {
        identifying.await;
        return Err(Refusal::Closed(CloseReason::ClientReset));
    }
    let (known, ahead) = match obvious {
        Some(way) => {
            let going_ahead = go_ahead(stages, &mut client, way, deadline);
            let (known, ahead) = tokio::join!(identifying, going_ahead);
            (known, Some(ahead))
        }
        None => (identifying.await, None),
    };
    let Some((way, identity)) = known else {
        let error = HandoverError::Unknown;
        return Err(Refusal::unknown_destination(client, &error));
    };
    let (first, dialling) = match ahead {
        Some(ahead) => ahead,
        None => (client.next_packet(deadline).await, None),
    };
    let first = match first {
        Ok(packet) => packet,
        Err(error) => return Err(Refusal::startup(client, error)),
    };
    let destination = way.destination();
    client.address = destination.ip();
    Ok(Introduced {
        arrival: Arrival {
            client,
            rule: Arc::clone(stages.routes.find(&destination)),
            who: Who::new(identity, destination),
            way,
            deadline,
        },
        first,
        dialling,
    })
}

/// The way of a connection over TCP: it is the same whoever goes it.
fn obvious_way(taken: &Taken, namespace: &Arc<Namespace>) -> Option<Way> {
    match taken {
        Taken::Tcp(interception) => Some(Way::Tcp {
            route: *interception.route(),
            namespace: Arc::clone(namespace),
        }),
        Taken::Unix(_) => None,
    }
}

/// Learns who it is and, where that is not obvious, which way leads to its server, and writes the opening record. None if
/// there is no such way.
async fn identify(
    stages: &Stages,
    taken: &Taken,
    (obvious, namespace): (Option<Way>, Arc<Namespace>),
    guard: &mut SessionGuard,
) -> Option<(Way, Arc<Identity>)> {
    let since = Instant::now();
    let identity = stages.identifier.identify(taken.origin()).await;
    stages.pace.took(Stage::Identify, since.elapsed());
    let way = match taken {
        Taken::Tcp(_) => obvious,
        Taken::Unix(interception) => {
            let client = (interception.origin(), &identity);
            let path = interception.path();
            stages.router.find(client, path, namespace).await
        }
    };
    let known = way.map(|way| (way, Arc::new(identity)));
    if let Some((way, identity)) = &known {
        guard.identified(Arc::clone(identity), &way.destination());
    }
    record_start(stages, guard).await;
    known
}

async fn record_start(stages: &Stages, guard: &SessionGuard) {
    let since = Instant::now();
    stages.audit.record(guard.start_record()).await;
    stages.pace.took(Stage::Record, since.elapsed());
}

/// Waits for the client's first packet, and begins to dial its server if nothing about its owner could be in the way.
async fn go_ahead(
    stages: &Arc<Stages>,
    client: &mut ClientLeg,
    way: Way,
    deadline: Instant,
) -> (Result<Packet, StartupError>, Option<Dialling>) {
    let first = client.next_packet(deadline).await;
    let dialling = first.as_ref().ok();
    let dialling = dialling.and_then(|first| dial_ahead(stages, first, way));
    (first, dialling)
}

fn dial_ahead(stages: &Arc<Stages>, first: &Packet, way: Way) -> Option<Dialling> {
    let destination = way.destination();
    // Where TLS ends here, the client's handshake comes before the dial.
    if stages.routes.find(&destination).tls_default == TlsMode::Terminate {
        return None;
    }
    let clearance = stages.policy.unasked(&destination)?;
    // Who finds no place asks again in its turn.
    let slot = stages.sessions.admit(&first.opening).ok()?;
    let stages = Arc::clone(stages);
    let dial = async move { stages.dial(&clearance, &way).await };
    Some(Dialling::begin(slot, dial))
}
