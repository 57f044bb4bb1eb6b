//! Whose session a cancel request is aimed at: live sessions by the key that cancels them.
//!
//! The keys themselves are not kept, only their digests: whoever reads this memory cannot cancel anything. After an
//! upgrade cancel requests arrive at the successor, whose sessions live on in the predecessor: the predecessor tells it
//! of its keys.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use uuid::Uuid;

use crate::destination::{Destination, exact};
use crate::policy::Workload;
use crate::wire::login::CancelKey;

/// A session that can be cancelled.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CancelTarget {
    /// Its id.
    pub(super) session: Uuid,
    /// Its server, as it was dialled.
    #[serde(with = "exact")]
    pub(super) server: Destination,
    /// Its database.
    pub(super) database: Option<String>,
    /// Whose it is.
    pub(super) workload: Workload,
}

/// That a session can be cancelled, or not any more.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CancelChange {
    /// It can.
    Began(CancelKey, Box<CancelTarget>),
    /// The session with this key on that server has ended.
    Ended(CancelKey, #[serde(with = "exact")] Destination),
}

type Key = (Destination, CancelKey);

/// The live sessions whose keys are known; one entry for each session, so their number is bounded as sessions are.
#[derive(Clone, Debug, Default)]
pub struct CancelKeys {
    known: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    targets: HashMap<Key, CancelTarget>,
    /// Who serves what we do not. What waits here is bounded: whoever has an heir accepts no more sessions, and each can
    /// begin and end once.
    heir: Option<UnboundedSender<CancelChange>>,
}

/// A session's entry, gone when dropped.
pub(super) struct Enrolled {
    key: Key,
    keys: CancelKeys,
}

/// The entries of another process's sessions, gone when dropped.
pub struct Inherited {
    keys: CancelKeys,
    enrolled: HashMap<Key, Enrolled>,
}

impl CancelKeys {
    pub(super) fn enrol(&self, key: CancelKey, target: CancelTarget) -> Enrolled {
        let entry = (target.server.clone(), key);
        let mut known = self.lock();
        known.tell(|| CancelChange::Began(key, Box::new(target.clone())));
        known.targets.insert(entry.clone(), target);
        Enrolled {
            key: entry,
            keys: self.clone(),
        }
    }

    /// The session that a request to `server` with this key would cancel.
    pub(super) fn find(&self, server: &Destination, key: CancelKey) -> Option<CancelTarget> {
        let entry = (server.clone(), key);
        self.lock().targets.get(&entry).cloned()
    }

    /// Whether a session of this workload on that server is known.
    pub(super) fn has_session_of(&self, server: &Destination, workload: &Workload) -> bool {
        let known = self.lock();
        let mut targets = known.targets.values();
        targets.any(|target| target.server == *server && target.workload.is_same(workload))
    }

    /// What the heir has to be told, from all that is known now on.
    pub fn bequeath(&self) -> UnboundedReceiver<CancelChange> {
        let (heir, changes) = unbounded_channel();
        let mut known = self.lock();
        for ((_, key), target) in &known.targets {
            // The receiver is in our hands.
            let _ = heir.send(CancelChange::Began(*key, Box::new(target.clone())));
        }
        known.heir = Some(heir);
        changes
    }

    /// Takes over what another process tells.
    pub fn inherit(&self) -> Inherited {
        Inherited {
            keys: self.clone(),
            enrolled: HashMap::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn tell(&mut self, change: impl FnOnce() -> CancelChange) {
        let is_gone = |heir: &UnboundedSender<CancelChange>| heir.send(change()).is_err();
        if self.heir.as_ref().is_some_and(is_gone) {
            self.heir = None;
        }
    }
}

impl Inherited {
    /// Applies what was told.
    pub fn apply(&mut self, change: CancelChange) {
        match change {
            CancelChange::Began(key, target) => {
                let entry = (target.server.clone(), key);
                // One that was told before goes first, or it would take the new one with it.
                self.enrolled.remove(&entry);
                self.enrolled.insert(entry, self.keys.enrol(key, *target));
            }
            CancelChange::Ended(key, server) => {
                self.enrolled.remove(&(server, key));
            }
        }
    }
}

impl Drop for Enrolled {
    fn drop(&mut self) {
        let mut known = self.keys.lock();
        known.targets.remove(&self.key);
        let (server, key) = &self.key;
        known.tell(|| CancelChange::Ended(*key, server.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(server: &str) -> CancelTarget {
        CancelTarget {
            session: Uuid::now_v7(),
            server: server.parse().unwrap(),
            database: None,
            workload: Workload::default(),
        }
    }

    #[tokio::test]
    async fn an_heir_knows_what_its_predecessor_knows_for_as_long_as_that_serves_it() {
        let (predecessor, heir) = (CancelKeys::default(), CancelKeys::default());
        let (one, two) = (
            target("192.0.2.1:5432"),
            target("/run/postgresql/.s.PGSQL.5432"),
        );
        let (first, second) = (CancelKey::of(b"first"), CancelKey::of(b"second"));
        let before = predecessor.enrol(first, one.clone());
        let mut changes = predecessor.bequeath();
        let after = predecessor.enrol(second, two.clone());
        drop(before);
        let mut inherited = heir.inherit();
        for _ in 0..2 {
            inherited.apply(changes.recv().await.unwrap());
        }
        assert!(heir.find(&one.server, first).is_some());
        assert!(heir.has_session_of(&two.server, &two.workload));
        inherited.apply(changes.recv().await.unwrap());
        assert!(heir.find(&one.server, first).is_none());
        assert_eq!(
            heir.find(&two.server, second).map(|found| found.session),
            Some(two.session)
        );
        drop(inherited);
        assert!(heir.find(&two.server, second).is_none());
        drop(changes);
        drop(after);
        assert!(predecessor.find(&two.server, second).is_none());
    }
}
