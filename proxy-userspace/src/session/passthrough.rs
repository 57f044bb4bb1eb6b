//! Stages 3 to 5 where TLS passes through: the client negotiates with the server, and pgusher reads along for as long as
//! it can.
//!
//! A connection that asks for encryption first has not said what it wants. It gets leave to have its request carried to
//! the server if any policy may permit what it will say; the decision falls when it has said it, or when the server
//! agrees to encrypt and so hides it for good.

use bytes::BytesMut;
use tokio::time::Instant;

use super::arrival::{Arrival, Who};
use super::dialling::Dialling;
use super::pace::Stage;
use super::refusal::Refusal;
use super::{Established, Stages, record_opening};
use crate::audit::SessionGuard;
use crate::policy::{Denial, Permit, TlsFacts};
use crate::relay::EndedBy;
use crate::route::{DialError, Way};
use crate::startup::{self, ClientLeg, Encryption, Negotiated, StartupError};
use crate::stream::Stream;
use crate::wire::opening::{Opening, Packet};

/// A client on its way.
struct Passage<'a> {
    stages: &'a Stages,
    who: Who,
    guard: &'a mut SessionGuard,
    /// Whether enforced policies could have had TLS end here instead.
    could_end_here: bool,
    /// Leave to have the session, once it is decided.
    permit: Option<Permit>,
}

/// Leads a client to its server.
pub(super) async fn establish(
    stages: &Stages,
    arrival: Arrival,
    (first, mut dialling): (Packet, Option<Dialling>),
    guard: &mut SessionGuard,
) -> Result<Established, Refusal> {
    let Arrival {
        client,
        way,
        rule,
        who,
        ..
    } = arrival;
    record_opening(guard, &first.opening, Encryption::None);
    let slot = match &mut dialling {
        Some(dialling) => dialling.take_slot(),
        None => match stages.sessions.admit(&first.opening) {
            Ok(slot) => slot,
            Err(_) => return Err(Refusal::too_many(client)),
        },
    };
    let mut passage = Passage {
        stages,
        could_end_here: who.could_be_terminated(stages, &rule),
        who,
        guard,
        permit: None,
    };
    let asks_first = matches!(first.opening, Opening::SslRequest | Opening::GssRequest);
    // A client that asks for encryption will say what it wants once it knows.
    let encryption = match first.opening {
        Opening::DirectTls => Encryption::DirectTls,
        _ => Encryption::None,
    };
    if !asks_first {
        match passage.decide(&first, &client.buffer, encryption) {
            Ok(permit) => passage.permit = Some(permit),
            Err(denial) => return Err(Refusal::denied(client, &denial)),
        }
    }
    let (mut client, mut upstream) = passage.reach(client, &way, dialling).await?;
    let mut negotiated = Negotiated::from(first.opening);
    let outcome = passage
        .negotiate(&mut client, &mut upstream, &mut negotiated)
        .await;
    if let Err(error) = outcome {
        return Err(Refusal::startup(client, error));
    }
    let packet = Packet {
        opening: negotiated.opening,
        bytes: negotiated.startup_bytes,
    };
    let permit = match passage.finish(&packet, &client.buffer, negotiated.encryption) {
        Ok(permit) => permit,
        // The server closed instead of answering; so do we.
        Err(_) if asks_first && client.buffer.is_empty() => {
            return Err(Refusal::Closed(EndedBy::ServerClosed.into()));
        }
        Err(denial) => return Err(Refusal::denied(client, &denial)),
    };
    Ok(Established {
        client,
        upstream: upstream.into(),
        from_server: BytesMut::new(),
        rule,
        target: passage.who.target(&permit, &packet.opening, passage.guard),
        permit,
        readable: negotiated.readable,
        startup_bytes: negotiated.startup_bytes,
        binding: None,
        _slot: slot,
    })
}

impl Passage<'_> {
    /// Decides about what a packet asks for.
    fn decide(
        &mut self,
        packet: &Packet,
        buffer: &[u8],
        encryption: Encryption,
    ) -> Result<Permit, Denial> {
        let facts = facts(encryption, self.could_end_here);
        self.who
            .decide(self.stages, (packet, buffer), facts, self.guard)
    }

    /// Dials for a client that has a permit, or may come to have one, unless that was begun ahead.
    async fn reach(
        &mut self,
        client: ClientLeg,
        way: &Way,
        dialling: Option<Dialling>,
    ) -> Result<(ClientLeg, Stream), Refusal> {
        let ahead = match dialling {
            Some(dialling) => self.catch_up(dialling).await,
            None => None,
        };
        let dialled = match (ahead, &self.permit) {
            (Some(dialled), _) => dialled,
            (None, Some(permit)) => self.stages.dial(permit.clearance(), way).await,
            (None, None) => match self.who.consider(self.stages) {
                Ok(clearance) => self.stages.dial(&clearance, way).await,
                Err(denial) => {
                    self.guard.ruled(denial.ruling());
                    return Err(Refusal::denied(client, &denial));
                }
            },
        };
        match dialled {
            Ok(upstream) => Ok((client, upstream)),
            Err(error) => Err(Refusal::unreachable(client, &error)),
        }
    }

    /// Waits for a dial that was begun ahead; none if its server has been left.
    async fn catch_up(&self, dialling: Dialling) -> Option<Result<Stream, DialError>> {
        let dialled = dialling.finish().await;
        if let Some(waited) = dialled.waited {
            self.stages.pace.took(Stage::HeldUp, waited);
        }
        dialled.upstream
    }

    /// Lets client and server agree on encryption, if the policies permit a session that nobody can see into.
    async fn negotiate(
        &mut self,
        client: &mut ClientLeg,
        upstream: &mut Stream,
        so_far: &mut Negotiated,
    ) -> Result<(), StartupError> {
        // The dial may have taken long; the server's answers get their own time.
        let deadline = Instant::now() + self.stages.limits.startup_timeout;
        let (stages, who) = (self.stages, &self.who);
        let (guard, permit) = (&mut *self.guard, &mut self.permit);
        let could_end_here = self.could_end_here;
        let mut may_hide = |encryption| {
            let facts = facts(encryption, could_end_here);
            *permit = Some(who.decide_hidden(stages, facts, guard)?);
            Ok(())
        };
        let outcome = startup::negotiate(client, upstream, deadline, so_far, &mut may_hide).await;
        // Also of a negotiation that failed: what was said is on record.
        record_opening(self.guard, &so_far.opening, so_far.encryption);
        self.guard.delivered(so_far.passed);
        outcome
    }

    /// The permit; decided now, if it has not been, about the packet that the client's opening ended with.
    fn finish(
        &mut self,
        packet: &Packet,
        buffer: &[u8],
        encryption: Encryption,
    ) -> Result<Permit, Denial> {
        match self.permit.take() {
            Some(permit) => Ok(permit),
            None => self.decide(packet, buffer, encryption),
        }
    }
}

fn facts(encryption: Encryption, could_end_here: bool) -> TlsFacts {
    TlsFacts {
        encryption,
        could_end_here,
        ..TlsFacts::default()
    }
}
