//! Whose session a cancel request is aimed at: live sessions by the key that cancels them.
//!
//! The keys themselves are not kept, only their digests: whoever reads this memory cannot cancel anything.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use crate::destination::Destination;
use crate::policy::Subject;
use crate::wire::login::CancelKey;

/// A session that can be cancelled.
#[derive(Clone, Debug)]
pub(super) struct CancelTarget {
    /// Its id.
    pub(super) session: Uuid,
    /// Its server, as it was dialled.
    pub(super) server: Destination,
    /// Its database.
    pub(super) database: Option<String>,
    /// Whose it is.
    pub(super) subject: Arc<Subject>,
}

type Key = (Destination, CancelKey);

/// The live sessions whose keys are known; one entry for each session, so their number is bounded as sessions are.
#[derive(Clone, Debug, Default)]
pub struct CancelKeys {
    targets: Arc<Mutex<HashMap<Key, CancelTarget>>>,
}

/// A session's entry, gone when dropped.
pub(super) struct Enrolled {
    key: Key,
    keys: CancelKeys,
}

impl CancelKeys {
    pub(super) fn enrol(&self, key: CancelKey, target: CancelTarget) -> Enrolled {
        let key = (target.server.clone(), key);
        self.lock().insert(key.clone(), target);
        Enrolled {
            key,
            keys: self.clone(),
        }
    }

    /// The session that a request to `server` with this key would cancel.
    pub(super) fn find(&self, server: &Destination, key: CancelKey) -> Option<CancelTarget> {
        self.lock().get(&(server.clone(), key)).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, CancelTarget>> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Enrolled {
    fn drop(&mut self) {
        self.keys.lock().remove(&self.key);
    }
}
