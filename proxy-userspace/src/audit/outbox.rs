//! A session's own end of the queue: records that its statements cause, until the queue has taken them.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, PollSemaphore, PollSender};

use super::queue::{Audit, Queued};
use super::record::Record;
use crate::config::OverflowPolicy;

/// How long an ended session may still wait for the queue once pgusher has to stop.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// Records on their way from one session to the queue, in order.
///
/// Under `drop` a record that finds no room is lost at once. Under `block` it waits here, and the session is not read
/// meanwhile: what waits is at most what one reading of it caused.
pub(super) struct Outbox {
    audit: Audit,
    policy: OverflowPolicy,
    waiting: VecDeque<Record>,
    places: PollSender<Queued>,
    bytes: PollSemaphore,
    /// The bytes that the next record takes up, once there is room for them.
    room: Option<OwnedSemaphorePermit>,
}

impl Outbox {
    pub(super) fn new(audit: Audit, policy: OverflowPolicy) -> Self {
        Self {
            places: PollSender::new(audit.sender()),
            bytes: PollSemaphore::new(Arc::clone(audit.bytes())),
            audit,
            policy,
            waiting: VecDeque::new(),
            room: None,
        }
    }

    /// Hands a record over: into the queue if it has room; else it waits or is lost, as declared. Never waits itself.
    pub(super) fn put(&mut self, record: Record) {
        if self.waiting.is_empty() {
            if let Err(record) = self.audit.queue_if_room(record, self.policy) {
                self.keep(record);
            }
        } else {
            self.waiting.push_back(record);
        }
    }

    fn keep(&mut self, record: Record) {
        match self.policy {
            OverflowPolicy::Block => self.waiting.push_back(record),
            OverflowPolicy::Drop => self.audit.lose(&record),
        }
    }

    /// Ready when nothing waits here any more.
    pub(super) fn poll_empty(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while let Some(next) = self.waiting.front() {
            if self.room.is_none() {
                let weight = Audit::charge(next);
                self.room = ready!(self.bytes.poll_acquire_many(context, weight));
            }
            if ready!(self.places.poll_reserve(context)).is_err() {
                // The writer is gone, at exit: nobody will ever take them.
                self.lose_all();
                break;
            }
            if let Some(record) = self.waiting.pop_front() {
                let room = self.room.take();
                let queued = Queued::new(record, self.policy, room, self.audit.counts());
                // The place is reserved, so this cannot fail.
                let _ = self.places.send_item(queued);
            }
        }
        Poll::Ready(())
    }

    /// Waits until the queue has everything; not for ever once `force` is cancelled. What is left then is lost.
    ///
    /// # Cancel safety
    /// Cancel safe: what was not handed over is still here.
    pub(super) async fn empty(&mut self, force: &CancellationToken) {
        let last_wait = async {
            force.cancelled().await;
            sleep(LAST_WAIT).await;
        };
        tokio::select! {
            biased;
            () = poll_fn(|context| self.poll_empty(context)) => {}
            () = last_wait => {}
        }
        self.lose_all();
    }

    fn lose_all(&mut self) {
        for record in self.waiting.drain(..) {
            self.audit.lose(&record);
        }
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.lose_all();
    }
}

#[cfg(test)]
mod tests;
