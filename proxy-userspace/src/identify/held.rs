//! Processes that are held from one connection to the next: a client that connects again, and those above every client.
//!
//! What is kept is the hold on a process and nothing that was read of it: each connection reads anew, with fewer calls.
//! docs/decisions/0062-held-processes.md says why a hold cannot lead to another process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::pinned::{Hold, Pinned};
use crate::intercept::is_lack_of_ours;

/// How many processes are held at most, each by [`DESCRIPTORS_EACH`].
const MAX_HELD: usize = 128;
/// A pidfd and /proc/PID/stat.
const DESCRIPTORS_EACH: usize = 2;
/// How many descriptors are held at most.
pub(crate) const MAX_DESCRIPTORS: usize = MAX_HELD * DESCRIPTORS_EACH;
/// How long a process is held that nobody asks about.
pub(super) const IDLE_LIMIT: Duration = Duration::from_secs(5);

/// The processes that are held, by number.
#[derive(Debug, Default)]
pub(super) struct Held {
    holds: Mutex<HashMap<u32, Entry>>,
}

#[derive(Debug)]
struct Entry {
    hold: Arc<Hold>,
    last_used: Instant,
}

impl Held {
    /// Pins the process that has this number now.
    pub(super) fn pin(&self, pid: u32) -> Option<Pinned> {
        if let Some(hold) = self.recall(pid) {
            // What can still be read has not been reaped, so its number is not another's.
            if let Some(pinned) = Pinned::through(hold) {
                return Some(pinned);
            }
            self.lock().remove(&pid);
        }
        let hold = Hold::open(pid).or_else(|error| {
            if is_lack_of_ours(&error) {
                self.lock().clear();
                return Hold::open(pid);
            }
            Err(error)
        });
        let hold = Arc::new(hold.ok()?);
        let pinned = Pinned::through(Arc::clone(&hold))?;
        self.remember(hold);
        Some(pinned)
    }

    /// Lets go of those that nobody has asked about since then.
    pub(super) fn let_go(&self, unused_since: Instant) {
        self.lock()
            .retain(|_, entry| entry.last_used >= unused_since);
    }

    fn recall(&self, pid: u32) -> Option<Arc<Hold>> {
        let mut holds = self.lock();
        let entry = holds.get_mut(&pid)?;
        entry.last_used = Instant::now();
        Some(Arc::clone(&entry.hold))
    }

    fn remember(&self, hold: Arc<Hold>) {
        let mut holds = self.lock();
        if holds.len() >= MAX_HELD {
            let oldest = holds.iter().min_by_key(|(_, entry)| entry.last_used);
            if let Some(oldest) = oldest.map(|(pid, _)| *pid) {
                holds.remove(&oldest);
            }
        }
        let last_used = Instant::now();
        holds.insert(hold.pid(), Entry { hold, last_used });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Entry>> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
