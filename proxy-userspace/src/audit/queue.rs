//! The bounded queue between sessions and the writer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::record::Record;
use crate::config::OverflowPolicy;

/// The most bytes of statements' texts, parameters and messages that the queue holds. A longer record than this could
/// not be queued at all, so it counts as this much.
pub(super) const QUEUE_BYTES: usize = 64 << 20;

/// A record in the queue.
#[derive(Debug)]
pub struct Queued {
    pub(super) record: Record,
    /// What to do when the sink does not take it.
    pub(super) policy: OverflowPolicy,
    /// Its share of [`QUEUE_BYTES`], given back with it.
    _room: Option<OwnedSemaphorePermit>,
    _waits: Waits,
}

impl Queued {
    pub(super) fn new(
        record: Record,
        policy: OverflowPolicy,
        room: Option<OwnedSemaphorePermit>,
        counts: &Arc<Counts>,
    ) -> Self {
        Self {
            record,
            policy,
            _room: room,
            _waits: Waits::count(counts),
        }
    }
}

/// Counts a record as waiting for the sink: in the queue, and in the writer's hands until the sink has begun it.
#[derive(Debug)]
struct Waits {
    counts: Arc<Counts>,
}

impl Waits {
    fn count(counts: &Arc<Counts>) -> Self {
        counts.waiting.fetch_add(1, Ordering::Relaxed);
        Self {
            counts: Arc::clone(counts),
        }
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        // Whoever sees that nothing waits finds in the sink what did.
        self.counts.waiting.fetch_sub(1, Ordering::Release);
    }
}

/// Counts of the audit trail, for `pgusher status`.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) written: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) failures: AtomicU64,
    waiting: AtomicUsize,
}

impl Counts {
    /// Counts a record as lost, here and in its session.
    pub(super) fn lose(&self, record: &Record) {
        if record.is_gap() {
            // What it would have told of is still counted, and told of later.
            return;
        }
        self.dropped.fetch_add(1, Ordering::Relaxed);
        if let Some(counts) = record.counts() {
            counts.lose();
        }
    }
}

/// A reading of the counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditStats {
    /// Records the sink has taken.
    pub written: u64,
    /// Records lost under the `drop` policy, or at a forced stop.
    pub dropped: u64,
    /// Times the sink failed.
    pub failures: u64,
    /// Records waiting for the sink.
    pub queued: usize,
}

/// The sessions' end of the audit trail.
#[derive(Clone)]
pub struct Audit {
    queue: mpsc::Sender<Queued>,
    /// Of [`QUEUE_BYTES`], what is free.
    bytes: Arc<Semaphore>,
    policy: OverflowPolicy,
    counts: Arc<Counts>,
}

/// A place in the queue for a connection's closing record.
pub enum ClosingPlace {
    /// Reserved, so that the record cannot be lost and sending it never waits.
    Reserved(mpsc::OwnedPermit<Queued>, Audit),
    /// To be had if there is room then.
    IfRoom(Audit),
}

impl Audit {
    pub(super) fn new(
        queue: mpsc::Sender<Queued>,
        policy: OverflowPolicy,
        counts: Arc<Counts>,
    ) -> Self {
        Self {
            queue,
            bytes: Arc::new(Semaphore::new(QUEUE_BYTES)),
            policy,
            counts,
        }
    }

    /// Records something, waiting or dropping as declared when the sink cannot keep up.
    ///
    /// # Cancel safety
    /// Cancel safe: the record is either queued or not.
    pub async fn record(&self, record: Record) {
        match self.policy {
            // The writer outlives all sessions; after it, at exit, there is nobody left to tell.
            OverflowPolicy::Block => {
                let queued = Queued::new(record, self.policy, None, &self.counts);
                drop(self.queue.send(queued).await);
            }
            OverflowPolicy::Drop => self.record_if_room(record),
        }
    }

    fn record_if_room(&self, record: Record) {
        if let Err(record) = self.queue_if_room(record, self.policy) {
            self.lose(&record);
        }
    }

    /// Queues a record if there is room for it now; gives it back otherwise.
    pub(super) fn queue_if_room(
        &self,
        record: Record,
        policy: OverflowPolicy,
    ) -> Result<(), Record> {
        let Ok(place) = self.queue.try_reserve() else {
            return Err(record);
        };
        let room = Arc::clone(&self.bytes).try_acquire_many_owned(Self::charge(&record));
        let Ok(room) = room else {
            return Err(record);
        };
        place.send(Queued::new(record, policy, Some(room), &self.counts));
        Ok(())
    }

    /// Counts a record as lost, in the trail and in its session.
    pub(super) fn lose(&self, record: &Record) {
        self.counts.lose(record);
    }

    /// What a record takes of [`QUEUE_BYTES`].
    pub(super) fn charge(record: &Record) -> u32 {
        u32::try_from(record.weight().min(QUEUE_BYTES)).unwrap_or(u32::MAX)
    }

    pub(super) fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    pub(super) fn sender(&self) -> mpsc::Sender<Queued> {
        self.queue.clone()
    }

    pub(super) fn bytes(&self) -> &Arc<Semaphore> {
        &self.bytes
    }

    /// Takes a place for a closing record; under `block` this waits until there is one.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn closing_place(&self) -> ClosingPlace {
        match self.policy {
            OverflowPolicy::Drop => ClosingPlace::IfRoom(self.clone()),
            OverflowPolicy::Block => match self.queue.clone().reserve_owned().await {
                Ok(permit) => ClosingPlace::Reserved(permit, self.clone()),
                // The writer is gone: nothing may run unrecorded.
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// The counts as they stand.
    pub fn stats(&self) -> AuditStats {
        AuditStats {
            written: self.counts.written.load(Ordering::Relaxed),
            dropped: self.counts.dropped.load(Ordering::Relaxed),
            failures: self.counts.failures.load(Ordering::Relaxed),
            queued: self.counts.waiting.load(Ordering::Acquire),
        }
    }
}

impl ClosingPlace {
    /// Sends the record; never waits.
    pub(super) fn send(self, record: Record) {
        match self {
            Self::Reserved(permit, audit) => {
                let queued = Queued::new(record, OverflowPolicy::Block, None, &audit.counts);
                drop(permit.send(queued));
            }
            Self::IfRoom(audit) => audit.record_if_room(record),
        }
    }
}
