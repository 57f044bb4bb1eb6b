//! What PostgreSQL does with the client's messages, in its order: the queue of those without an answer, and the rules
//! by which a message is taken, skipped or swallowed.
//!
//! The server works on one message at a time and answers in order, so its next answer always belongs to the queue's
//! front. [`replies`] reads the answers, [`resolve`] tells what a message was about.

mod replies;
mod resolve;

use std::time::Instant;

use super::answer::Answer;
use super::event::{CopyDirection, Event, Finished, TransactionStatus, Verdict, Violation};
use super::held::{Held, Out};
use super::pairing::Reading;
use super::queue::{FULL_PENDING, MAX_PENDING, Queue};
use super::request::Sent;
use resolve::Names;

/// The session's machine behind its login.
#[derive(Clone, Debug, Default)]
pub(super) struct Machine {
    pending: Queue,
    /// What has come for the queue's front.
    answer: Answer,
    /// An extended message has failed and the queue has no Sync: what the client sends is skipped.
    skipping: bool,
    /// An extended message has failed and the ReadyForQuery behind it has not come.
    failed: bool,
    /// ReadyForQuery messages that may come for Syncs of which nobody can tell whether the server took them for part
    /// of a COPY that failed.
    spare_ready: u32,
    /// FATAL: no answers come any more.
    ended: bool,
    names: Names,
    held: Held,
    /// How else the last ReadyForQuery can be understood.
    other: Option<Box<Reading>>,
}

impl Machine {
    /// How much may be kept of the client's next text.
    pub(super) fn room(&self) -> usize {
        self.pending.room()
    }

    /// Whether so much is without an answer that the client should not be read on.
    pub(super) fn is_full(&self) -> bool {
        self.pending.len() >= FULL_PENDING
    }

    /// How many messages are without an answer.
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// What else may have happened, if the last answer can mean two things.
    pub(super) fn other_reading(&mut self) -> Option<Box<Reading>> {
        self.other.take()
    }

    /// Takes a message of the client's.
    ///
    /// # Errors
    /// When it broke the protocol and nothing before it waits for an answer.
    pub(super) fn sent(&mut self, sent: Sent, now: Instant, out: Out<'_>) -> Result<(), Violation> {
        match sent {
            Sent::Silent => {}
            // Nothing can be between the COPY and what belongs to it.
            _ if self.pending.len() == 1 && self.belongs_to_copy(&sent) => self.feed_copy(&sent),
            // Left over from a COPY that failed; the server ignores it.
            Sent::CopyData(_) | Sent::CopyEnd if self.pending.is_empty() => {}
            Sent::Sync(_) => {
                self.skipping = false;
                self.push(sent)?;
            }
            Sent::Broken(_) | Sent::CopyData(_) | Sent::CopyEnd => self.push(sent)?,
            // With a spare ReadyForQuery to come, it is not certain that the server skips.
            _ if self.skipping && self.spare_ready == 0 => self.skip(sent, now, out),
            _ => self.push(sent)?,
        }
        self.stop_at_violation()
    }

    /// Takes CopyData messages of the client's with so many bytes in all.
    pub(super) fn copy_data(&mut self, bytes: u64) -> Result<(), Violation> {
        if self.pending.len() == 1 && self.answer.takes_copy_data() {
            self.client_data(bytes);
        } else if !self.pending.is_empty() {
            self.push(Sent::CopyData(bytes))?;
        }
        Ok(())
    }

    /// Tells everything that is still without an outcome.
    pub(super) fn end(&mut self, now: Instant, out: Out<'_>) -> Option<Violation> {
        while let Some(sent) = self.pending.pop_front() {
            if let Sent::Broken(violation) = sent {
                self.held.flush(out);
                return Some(violation);
            }
            let verdict = match &sent {
                Sent::Message(finished) if finished.outcome.error.is_some() => Verdict::Failed,
                _ if self.answer.has_result() => Verdict::Completed,
                // Of a Query that has tags, more statements may have been to come.
                _ => Verdict::Unanswered,
            };
            if let Some(finished) = self.conclude(sent, verdict, now) {
                self.held.finished(finished, out);
            }
        }
        self.held.flush(out);
        None
    }

    fn push(&mut self, sent: Sent) -> Result<(), Violation> {
        if self.pending.len() >= MAX_PENDING {
            return Err(Violation::TooManyPending);
        }
        self.pending.push(sent);
        Ok(())
    }

    fn belongs_to_copy(&self, sent: &Sent) -> bool {
        match sent {
            Sent::CopyData(_) | Sent::CopyEnd => self.answer.takes_copy_data(),
            Sent::Sync(_) | Sent::RefusedFlush => self.answer.swallows_sync(),
            _ => false,
        }
    }

    fn feed_copy(&mut self, sent: &Sent) {
        match sent {
            Sent::CopyData(bytes) => self.client_data(*bytes),
            Sent::CopyEnd => self.answer.client_is_done(),
            Sent::Sync(_) => self.answer.swallow_sync(),
            _ => {}
        }
    }

    fn client_data(&mut self, bytes: u64) {
        let copies = self.pending.outcome().map(|outcome| &mut outcome.copies);
        if let Some(copied) = copies.and_then(|copies| copies.last_mut()) {
            copied.bytes_from_client += bytes;
        }
    }

    /// The server begins a COPY: what the client sent ahead for it is part of it, up to its end or to a message that
    /// cannot be.
    fn begin_copy(&mut self, direction: CopyDirection) {
        self.answer.begin_copy(direction);
        if let Some(outcome) = self.pending.outcome() {
            outcome.add_copy(direction);
        }
        while self
            .pending
            .second()
            .is_some_and(|second| self.belongs_to_copy(second))
        {
            if let Some(second) = self.pending.remove_second() {
                self.feed_copy(&second);
            }
        }
    }

    /// The front is finished.
    fn finish(&mut self, verdict: Verdict, now: Instant, out: Out<'_>) {
        if let Some(finished) = self.front_is_finished(verdict, now) {
            self.held.finished(finished, out);
        }
    }

    /// The same, without telling of it.
    fn front_is_finished(&mut self, verdict: Verdict, now: Instant) -> Option<Box<Finished>> {
        let sent = self.pending.pop_front()?;
        let finished = self.conclude(sent, verdict, now);
        self.drop_left_overs();
        finished
    }

    /// COPY data that no COPY takes is ignored by the server.
    fn drop_left_overs(&mut self) {
        while let Some(Sent::CopyData(_) | Sent::CopyEnd) = self.pending.front() {
            self.pending.pop_front();
        }
    }

    /// An extended message has failed: the server reads on to Sync and does nothing.
    fn skip_to_sync(&mut self, now: Instant, out: Out<'_>) {
        self.failed = true;
        // The Sync that ends the skipping may be one that was taken for part of the COPY. ReadyForQuery will tell.
        if self.spare_ready > 0 && !self.pending.is_empty() {
            return;
        }
        while let Some(front) = self.pending.front() {
            if matches!(front, Sent::Sync(_) | Sent::Broken(_)) {
                return;
            }
            if let Some(sent) = self.pending.pop_front() {
                self.skip(sent, now, out);
            }
        }
        self.skipping = true;
    }

    fn skip(&mut self, sent: Sent, now: Instant, out: Out<'_>) {
        if let Sent::Message(mut finished) = sent {
            finished.outcome.verdict = Verdict::NotRun;
            finished.completed = now;
            self.names.resolve(&mut finished);
            self.held.finished(finished, out);
        }
    }

    /// ReadyForQuery: whatever was held up by the batch is told, and `last` behind it.
    fn ready(
        &mut self,
        last: Option<Box<Finished>>,
        status: Option<TransactionStatus>,
        now: Instant,
        out: Out<'_>,
    ) {
        self.failed = false;
        self.names.batch_is_over();
        if status == Some(TransactionStatus::Idle) {
            self.names.transaction_is_over();
        }
        self.held.ready(last, now, status, out);
    }

    /// ReadyForQuery answered the first Sync in the queue: all before it was skipped.
    fn skipped_to_sync(&mut self, status: Option<TransactionStatus>, now: Instant, out: Out<'_>) {
        self.spare_ready = 0;
        while let Some(front) = self.pending.pop_front() {
            if matches!(front, Sent::Sync(_)) {
                break;
            }
            self.skip(front, now, out);
        }
        self.drop_left_overs();
        self.ready(None, status, now, out);
    }

    /// Completes a message's event.
    fn conclude(&mut self, sent: Sent, verdict: Verdict, now: Instant) -> Option<Box<Finished>> {
        let completed = self.answer.finish();
        let Sent::Message(mut finished) = sent else {
            return None;
        };
        finished.outcome.verdict = verdict;
        finished.completed = completed.unwrap_or(now);
        self.names.resolve(&mut finished);
        Some(finished)
    }

    /// Whatever was sent before a violation of the client's has been answered: now it is the violation's turn.
    fn stop_at_violation(&self) -> Result<(), Violation> {
        self.pending.violation().map_or(Ok(()), Err)
    }

    /// Passes something on that belongs to no message.
    pub(super) fn tell(&mut self, event: Event, out: Out<'_>) {
        self.held.event(event, out);
    }
}
