//! Instances that were taken over from and still serve their sessions, as everybody else sees them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::identify::ProcessId;

/// What is known of the predecessors that are left.
#[derive(Clone, Debug)]
pub struct Predecessors {
    left: Arc<Mutex<HashMap<ProcessId, u64>>>,
    reloads: watch::Sender<()>,
}

impl Predecessors {
    /// None.
    pub fn none() -> Self {
        Self {
            left: Arc::default(),
            reloads: watch::Sender::new(()),
        }
    }

    /// These are left, and serve nothing that is known of yet.
    pub(super) fn left(&self, processes: impl Iterator<Item = ProcessId>) {
        let entries = processes.map(|process| (process, 0));
        self.lock().extend(entries);
    }

    /// How many sessions this one serves, those of its own predecessors included.
    pub(super) fn serves(&self, process: ProcessId, sessions: u64) {
        if let Some(known) = self.lock().get_mut(&process) {
            *known = sessions;
        }
    }

    /// This one has ended.
    pub(super) fn ended(&self, process: ProcessId) {
        self.lock().remove(&process);
    }

    /// How many sessions all of them serve.
    pub fn sessions(&self) -> u64 {
        self.lock().values().sum()
    }

    /// Who is left.
    pub fn processes(&self) -> Vec<ProcessId> {
        let mut processes: Vec<ProcessId> = self.lock().keys().copied().collect();
        processes.sort_unstable_by_key(|process| process.started_at_ticks);
        processes
    }

    /// Has them all read policies and certificates again.
    pub fn reload(&self) {
        self.reloads.send_replace(());
    }

    /// Wakes when they are to.
    pub(super) fn reloads(&self) -> watch::Receiver<()> {
        self.reloads.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ProcessId, u64>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
