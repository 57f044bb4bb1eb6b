//! A connection whose destination and owner are known, and what is asked of the policies about it.

use std::sync::{Arc, OnceLock};

use tokio::time::Instant;

use super::Stages;
use super::cancel::CancelTarget;
use super::pace::Stage;
use crate::audit::SessionGuard;
use crate::config::RouteRule;
use crate::destination::Destination;
use crate::identify::Identity;
use crate::policy::{
    CancelFacts, Clearance, Denial, Permit, PolicyMode, Question, Subject, TlsFacts,
};
use crate::route::Way;
use crate::startup::ClientLeg;
use crate::tls::Termination;
use crate::wire::login::CancelKey;
use crate::wire::opening::{Opening, Packet};
use crate::wire::text::printable;

/// What of a CancelRequest comes before the backend's process id: length and code.
const CANCEL_HEADER_BYTES: usize = 8;

/// A connection whose destination and owner are known.
pub(super) struct Arrival {
    pub(super) client: ClientLeg,
    pub(super) way: Way,
    pub(super) rule: Arc<RouteRule>,
    pub(super) who: Who,
    pub(super) deadline: Instant,
}

/// Who wants to go where.
pub(super) struct Who {
    identity: Arc<Identity>,
    /// The same as policies see it, once they are asked.
    subject: OnceLock<Arc<Subject>>,
    server: Destination,
}

impl Who {
    pub(super) fn new(identity: Arc<Identity>, server: Destination) -> Self {
        Self {
            identity,
            subject: OnceLock::new(),
            server,
        }
    }

    fn subject(&self) -> &Arc<Subject> {
        let seen = || Arc::new(Subject::of(&self.identity));
        self.subject.get_or_init(seen)
    }

    /// Where the application wanted to go.
    pub(super) fn server(&self) -> &Destination {
        &self.server
    }

    /// The question about a session that nobody can see into.
    pub(super) fn hidden(&self, tls: TlsFacts) -> Question {
        Question::opaque(Arc::clone(self.subject()), self.server.clone(), tls)
    }

    /// Leave to ask the server about encryption before anything else is said.
    pub(super) fn consider(&self, stages: &Stages) -> Result<Clearance, Denial> {
        let workload = self.subject().workload();
        let has_session = || stages.cancel_keys.has_session_of(&self.server, workload);
        let hidden = self.hidden(TlsFacts::default());
        let consider = || stages.policy.consider(&hidden, has_session);
        stages.pace.time(Stage::Policy, consider)
    }

    /// How TLS ends at pgusher, if it does: as the policies ask, or else as the route says. This has to be known before
    /// the client has said what it wants.
    pub(super) fn termination(
        &self,
        stages: &Stages,
        rule: &RouteRule,
        opening: &Opening,
    ) -> Option<Arc<Termination>> {
        let asked = match opening {
            _ if !rule.can_terminate(&self.server) => return None,
            // Nothing in it depends on who looks.
            Opening::Cancel { .. } => None,
            // Observing must not change what a client sees.
            _ if stages.policy.mode() == PolicyMode::Observe => None,
            _ => {
                let hidden = self.hidden(TlsFacts::default());
                let prospect = || stages.policy.prospect(&hidden);
                stages.pace.time(Stage::Policy, prospect).tls
            }
        };
        rule.termination(&self.server, asked).cloned()
    }

    /// Whether TLS of a session that passes through would end at pgusher if the policies asked for it and were enforced.
    pub(super) fn could_be_terminated(&self, stages: &Stages, rule: &RouteRule) -> bool {
        stages.policy.mode() == PolicyMode::Observe && rule.can_terminate(&self.server)
    }

    /// Asks for leave to do what a packet at the start of `buffer` asks for; the answer goes on record.
    pub(super) fn decide(
        &self,
        stages: &Stages,
        (packet, buffer): (&Packet, &[u8]),
        tls: TlsFacts,
        guard: &mut SessionGuard,
    ) -> Result<Permit, Denial> {
        let aim = match &packet.opening {
            Opening::Cancel { .. } => self.aim(stages, (packet, buffer), guard),
            _ => None,
        };
        let question = || match &packet.opening {
            Opening::Cancel { .. } => self.cancelling(stages, aim, tls),
            opening => Question::of_opening(
                Arc::clone(self.subject()),
                self.server.clone(),
                tls,
                opening,
            ),
        };
        let decide = || stages.policy.decide(&self.server, question);
        on_record(stages.pace.time(Stage::Policy, decide), guard)
    }

    /// Asks for leave to have a session that nobody can see into; the answer goes on record.
    pub(super) fn decide_hidden(
        &self,
        stages: &Stages,
        tls: TlsFacts,
        guard: &mut SessionGuard,
    ) -> Result<Permit, Denial> {
        let question = || self.hidden(tls);
        let decide = || stages.policy.decide(&self.server, question);
        on_record(stages.pace.time(Stage::Policy, decide), guard)
    }

    /// The session that a cancel request is aimed at, if anybody knows it; it goes on record.
    fn aim(
        &self,
        stages: &Stages,
        (packet, buffer): (&Packet, &[u8]),
        guard: &mut SessionGuard,
    ) -> Option<CancelTarget> {
        let body = buffer
            .get(CANCEL_HEADER_BYTES..packet.bytes)
            .unwrap_or_default();
        let target = stages.cancel_keys.find(&self.server, CancelKey::of(body))?;
        guard.cancels(target.session);
        Some(target)
    }

    fn cancelling(&self, stages: &Stages, aim: Option<CancelTarget>, tls: TlsFacts) -> Question {
        let hidden = self.hidden(tls);
        let may_connect = stages
            .policy
            .rule(&hidden)
            .is_none_or(|ruling| ruling.permits());
        let cancel = CancelFacts {
            known: aim.is_some(),
            same_workload: aim
                .as_ref()
                .is_some_and(|target| target.workload.is_same(self.subject().workload())),
            may_connect,
        };
        hidden.cancelling(aim.and_then(|target| target.database), cancel)
    }

    /// What has to be known of a session for policies to say who may cancel what it runs.
    pub(super) fn target(
        &self,
        permit: &Permit,
        opening: &Opening,
        guard: &SessionGuard,
    ) -> Option<CancelTarget> {
        permit.ruling()?;
        Some(CancelTarget {
            session: guard.id(),
            server: self.server.clone(),
            database: match opening {
                Opening::Startup(message) => message.database().map(printable),
                _ => None,
            },
            workload: self.subject().workload().clone(),
        })
    }
}

fn on_record(decided: Result<Permit, Denial>, guard: &mut SessionGuard) -> Result<Permit, Denial> {
    match &decided {
        Ok(permit) => {
            if let Some(ruling) = permit.ruling() {
                guard.ruled(ruling);
            }
        }
        Err(denial) => guard.ruled(denial.ruling()),
    }
    decided
}
