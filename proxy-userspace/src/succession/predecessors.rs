//! Instances that were taken over from and still serve their sessions, as everybody else sees them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tracing::warn;

use crate::identify::ProcessId;

/// What is known of the predecessors that are left.
#[derive(Clone, Debug)]
pub struct Predecessors {
    left: Arc<Mutex<HashMap<ProcessId, Line>>>,
    reloads: watch::Sender<()>,
}

/// How a predecessor is heard from and told what to do.
#[derive(Clone, Copy, Debug)]
enum Line {
    /// Over its channel, or that of one which came after it. It serves so many sessions, those of its own predecessors
    /// included.
    Open(u64),
    /// Whoever it would tell has died: it is told by a signal, and tells nothing.
    Dead,
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
        let entries = processes.map(|process| (process, Line::Open(0)));
        self.lock().extend(entries);
    }

    /// This one is left too, and is not heard from.
    pub fn lost(&self, process: ProcessId) {
        self.lock().insert(process, Line::Dead);
    }

    /// What is left of these is heard from no more.
    pub(super) fn cut_off(&self, processes: impl Iterator<Item = ProcessId>) {
        let mut known = self.lock();
        for process in processes {
            if let Some(line) = known.get_mut(&process) {
                *line = Line::Dead;
            }
        }
    }

    /// How many sessions this one serves, those of its own predecessors included.
    pub(super) fn serves(&self, process: ProcessId, sessions: u64) {
        if let Some(known) = self.lock().get_mut(&process) {
            *known = Line::Open(sessions);
        }
    }

    /// This one has ended.
    pub(super) fn ended(&self, process: ProcessId) {
        self.lock().remove(&process);
    }

    /// How many sessions all of them serve that are heard from.
    pub fn sessions(&self) -> u64 {
        let known = self.lock();
        let sessions = known.values().map(|line| match line {
            Line::Open(sessions) => *sessions,
            Line::Dead => 0,
        });
        sessions.sum()
    }

    /// Who is left.
    pub fn processes(&self) -> Vec<ProcessId> {
        sorted(self.lock().keys().copied())
    }

    /// Who of them is not heard from.
    pub fn silent(&self) -> Vec<ProcessId> {
        let known = self.lock();
        let dead = known.iter().filter(|(_, line)| matches!(line, Line::Dead));
        sorted(dead.map(|(process, _)| *process))
    }

    /// Has them all read policies again.
    pub fn reload(&self) {
        self.reloads.send_replace(());
        for process in self.silent() {
            if let Err(error) = process.hang_up() {
                warn!(%error, pid = process.pid, "a predecessor cannot be told to reload; kill it to end its sessions");
            }
        }
    }

    /// Wakes when they are to.
    pub(super) fn reloads(&self) -> watch::Receiver<()> {
        self.reloads.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ProcessId, Line>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn sorted(processes: impl Iterator<Item = ProcessId>) -> Vec<ProcessId> {
    let mut processes: Vec<ProcessId> = processes.collect();
    processes.sort_unstable_by_key(|process| process.started_at_ticks);
    processes
}
