//! The policies in force, and every session they were asked about: decides, keeps count, and takes back what a new
//! policy no longer permits.
//!
//! **Invariant:** a permit is entered under the lock that a reload takes, and only if the policies that gave it are
//! still in force; so no session can slip between an evaluation under the old ones and the sweep under the new.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use jiff::{Timestamp, Zoned};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::permit::{Clearance, Permit};
use super::policies::{Policies, Prospect};
use super::question::Question;
use super::ruling::{Cause, Denial, PolicyMode, Ruling};
use super::source::PolicyError;
use super::status::{PolicyStatus, Reloaded};
use crate::config::{PolicyConfig, ServerGroups};
use crate::destination::Destination;

/// Decides.
#[derive(Debug)]
pub struct Enforcer {
    mode: PolicyMode,
    path: Option<PathBuf>,
    groups: Arc<ServerGroups>,
    state: Arc<Mutex<State>>,
    /// One reload at a time: an older one must not have the last word about a session.
    reloading: Mutex<()>,
}

/// What a reload changes.
#[derive(Debug)]
struct State {
    policies: Option<Arc<Policies>>,
    loaded: Option<Timestamp>,
    failure: Option<String>,
    /// Sessions that were permitted and live.
    live: HashMap<u64, Entry>,
    next: u64,
    /// Live sessions by policy, of policies that limit them.
    counts: HashMap<String, usize>,
    denied: u64,
}

/// A session among the live ones.
#[derive(Debug)]
struct Entry {
    session: Arc<Live>,
    /// Policies it is counted under.
    counted: Vec<String>,
}

/// A session that was permitted.
#[derive(Debug)]
struct Live {
    number: u64,
    question: Question,
    denial: OnceLock<Denial>,
    revoked: CancellationToken,
}

/// A session's entry among the live ones, gone when dropped.
#[derive(Debug)]
pub(super) struct Registration {
    live: Arc<Live>,
    state: Arc<Mutex<State>>,
}

impl Enforcer {
    /// Reads and checks the policies.
    ///
    /// # Errors
    /// [`PolicyError`]
    pub fn load(config: &PolicyConfig) -> Result<Self, PolicyError> {
        let groups = Arc::clone(&config.groups);
        let policies = match &config.path {
            Some(path) => Some(Arc::new(Policies::load(path, Arc::clone(&groups))?)),
            None => None,
        };
        for warning in policies.iter().flat_map(|policies| policies.warnings()) {
            warn!("policy: {warning}");
        }
        Ok(Self {
            mode: config.mode,
            path: config.path.clone(),
            groups,
            state: Arc::new(Mutex::new(State {
                loaded: policies.as_ref().map(|_| Timestamp::now()),
                policies,
                failure: None,
                live: HashMap::new(),
                next: 0,
                counts: HashMap::new(),
                denied: 0,
            })),
            reloading: Mutex::new(()),
        })
    }

    /// Whether denials are carried out.
    pub fn mode(&self) -> PolicyMode {
        self.mode
    }

    /// What may come of a connection that has not said what it wants, besides its decision.
    pub fn prospect(&self, question: &Question) -> Prospect {
        let policies = lock(&self.state).policies.clone();
        policies.map_or_else(Prospect::default, |policies| policies.prospect(question))
    }

    /// Leave to connect for a client that nobody knows yet; none where a decision could keep it out.
    pub fn unasked(&self, server: &Destination) -> Option<Clearance> {
        let is_open = self.mode == PolicyMode::Observe;
        is_open.then(|| Clearance::new(server.clone()))
    }

    /// Leave to ask the server about encryption for a connection that has not said what it wants. That its workload has a
    /// session on that server which another process serves, the caller has to say.
    ///
    /// # Errors
    /// [`Denial`], in enforce mode, where no startup packet could lead to a permit.
    pub fn consider(
        &self,
        question: &Question,
        has_session_elsewhere: impl FnOnce() -> bool,
    ) -> Result<Clearance, Denial> {
        let clearance = Clearance::new(question.server.clone());
        let Some(policies) = lock(&self.state).policies.clone() else {
            return Ok(clearance);
        };
        if self.mode == PolicyMode::Observe || policies.prospect(question).is_possible {
            return Ok(clearance);
        }
        if self.has_session_of(question) || has_session_elsewhere() {
            // It may want to cancel what its own workload runs.
            return Ok(clearance);
        }
        // The policies' own words, if there are any.
        let ruling = policies.rule(question, self.mode, &Zoned::now());
        lock(&self.state).denied += 1;
        Err(Denial::new(Arc::new(ruling.denied(None))))
    }

    /// Whether a session of the same workload lives on that server.
    fn has_session_of(&self, question: &Question) -> bool {
        let state = lock(&self.state);
        let mut live = state.live.values().map(|entry| &entry.session.question);
        live.any(|other| {
            let workload = question.subject.workload();
            other.server == question.server && other.subject.workload().is_same(workload)
        })
    }

    /// What the policies say, without consequences; none where there are none.
    pub fn rule(&self, question: &Question) -> Option<Ruling> {
        let policies = lock(&self.state).policies.clone()?;
        Some(policies.rule(question, self.mode, &Zoned::now()))
    }

    /// Decides about going to a server; the question is only put together where there are policies to answer it.
    ///
    /// # Errors
    /// [`Denial`], in enforce mode.
    pub fn decide(
        &self,
        server: &Destination,
        question: impl FnOnce() -> Question,
    ) -> Result<Permit, Denial> {
        let server = server.clone();
        let Some(mut policies) = lock(&self.state).policies.clone() else {
            return Ok(Permit::new(server, None, None));
        };
        let question = question();
        loop {
            let mut ruling = policies.rule(&question, self.mode, &Zoned::now());
            let mut state = lock(&self.state);
            let in_force = state.policies.as_ref();
            if let Some(newer) = in_force.filter(|now| !Arc::ptr_eq(now, &policies)) {
                policies = Arc::clone(newer);
                continue;
            }
            if let Some(full) = state.full(&ruling) {
                ruling = ruling.denied(Some(full));
            }
            state.denied += u64::from(!ruling.permits());
            if !ruling.lets_through() {
                return Err(Denial::new(Arc::new(ruling)));
            }
            let registration = state.register(question, &ruling, &self.state);
            return Ok(Permit::new(
                server,
                Some(Arc::new(ruling)),
                Some(registration),
            ));
        }
    }

    /// Reads the policies again, puts them in force, and looks at every live session again. Policies that cannot be
    /// used are not: the ones in force stay.
    ///
    /// # Errors
    /// [`PolicyError`]
    pub fn reload(&self) -> Result<Option<Reloaded>, PolicyError> {
        let Some(path) = &self.path else {
            return Ok(None);
        };
        let _reloading = self
            .reloading
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let policies = match Policies::load(path, Arc::clone(&self.groups)) {
            Ok(policies) => Arc::new(policies),
            Err(error) => {
                lock(&self.state).failure = Some(error.to_string());
                return Err(error);
            }
        };
        let live: Vec<_> = {
            let mut state = lock(&self.state);
            state.policies = Some(Arc::clone(&policies));
            state.loaded = Some(Timestamp::now());
            state.failure = None;
            let entries = state.live.values();
            entries.map(|entry| Arc::clone(&entry.session)).collect()
        };
        let mut ended = 0;
        for session in &live {
            ended += usize::from(self.review(session, &policies));
        }
        for warning in policies.warnings() {
            warn!("policy: {warning}");
        }
        let warnings = policies.warnings().iter().map(ToString::to_string);
        let reloaded = Reloaded {
            revision: policies.revision().to_owned(),
            policies: policies.len(),
            sessions: live.len(),
            ended,
            warnings: warnings.collect(),
            predecessors: Vec::new(),
        };
        info!(
            revision = reloaded.revision,
            policies = reloaded.policies,
            ended,
            "policy reloaded"
        );
        Ok(Some(reloaded))
    }

    /// Looks at a live session under new policies. Returns whether it is to end. Limits on the number of sessions hold
    /// for sessions to come.
    fn review(&self, session: &Live, policies: &Policies) -> bool {
        let ruling = policies.rule(&session.question, self.mode, &Zoned::now());
        if !ruling.lets_through() {
            // Set once; a session that is ending already has its reason.
            let denial = Denial::new(Arc::new(ruling));
            let is_first = session.denial.set(denial).is_ok();
            session.revoked.cancel();
            return is_first;
        }
        lock(&self.state).count(session.number, &ruling);
        false
    }

    /// The state for the status document.
    pub fn status(&self) -> PolicyStatus {
        let state = lock(&self.state);
        let policies = state.policies.as_ref();
        PolicyStatus {
            mode: self.mode,
            path: self.path.clone(),
            revision: policies.map(|policies| policies.revision().to_owned()),
            policies: policies.map_or(0, |policies| policies.len()),
            loaded: state.loaded,
            failure: state.failure.clone(),
            denied: state.denied,
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// The limit that leaves no room, if there is one.
    fn full(&self, ruling: &Ruling) -> Option<Cause> {
        let mut limits = ruling.obligations.max_sessions.iter();
        let (policy, most) = limits.find(|(policy, most)| {
            let now = self.counts.get(*policy).copied().unwrap_or_default();
            now >= most.get()
        })?;
        Some(Cause::SessionsFull {
            policy: policy.clone(),
            most: most.get(),
        })
    }

    fn register(
        &mut self,
        question: Question,
        ruling: &Ruling,
        state: &Arc<Mutex<Self>>,
    ) -> Registration {
        let number = self.next;
        self.next += 1;
        let session = Arc::new(Live {
            number,
            question,
            denial: OnceLock::new(),
            revoked: CancellationToken::new(),
        });
        let entry = Entry {
            session: Arc::clone(&session),
            counted: Vec::new(),
        };
        self.live.insert(number, entry);
        self.count(number, ruling);
        Registration {
            live: session,
            state: Arc::clone(state),
        }
    }

    /// Counts a session, unless it has ended, under the policies that limit it now, and no longer under those that did
    /// before.
    fn count(&mut self, number: u64, ruling: &Ruling) {
        let Some(entry) = self.live.get_mut(&number) else {
            return;
        };
        let limits = ruling.obligations.max_sessions.keys().cloned().collect();
        let before = std::mem::replace(&mut entry.counted, limits);
        for policy in &entry.counted {
            *self.counts.entry(policy.clone()).or_default() += 1;
        }
        self.release(&before);
    }

    fn release(&mut self, policies: &[String]) {
        for policy in policies {
            if let Some(count) = self.counts.get_mut(policy) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(policy);
                }
            }
        }
    }
}

impl Registration {
    /// Cancelled when the permit is taken back.
    pub(super) fn revocation(&self) -> &CancellationToken {
        &self.live.revoked
    }

    /// Why it was.
    pub(super) fn denial(&self) -> Option<&Denial> {
        self.live.denial.get()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        if let Some(entry) = state.live.remove(&self.live.number) {
            state.release(&entry.counted);
        }
    }
}
