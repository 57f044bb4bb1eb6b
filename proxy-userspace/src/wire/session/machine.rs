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
use super::queue::{FULL_PENDING, MAX_PENDING, Queue};
use super::request::{Request, Sent};
use resolve::Names;

/// The session's machine behind its login.
#[derive(Debug, Default)]
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

    /// Takes a message of the client's.
    ///
    /// # Errors
    /// When it broke the protocol and nothing before it waits for an answer.
    pub(super) fn sent(&mut self, sent: Sent, now: Instant, out: Out<'_>) -> Result<(), Violation> {
        match sent.request {
            Request::Silent => {}
            // Nothing can be between the COPY and what belongs to it.
            _ if self.pending.len() == 1 && self.belongs_to_copy(&sent.request) => {
                self.feed_copy(&sent.request);
            }
            // Left over from a COPY that failed; the server ignores it.
            Request::CopyData(_) | Request::CopyEnd if self.pending.is_empty() => {}
            Request::Sync => {
                self.skipping = false;
                self.push(sent)?;
            }
            Request::Broken(_) | Request::CopyData(_) | Request::CopyEnd => self.push(sent)?,
            // With a spare ReadyForQuery to come, it is not certain that the server skips.
            _ if self.skipping && self.spare_ready == 0 => self.skip(sent, now, out),
            _ => self.push(sent)?,
        }
        self.stop_at_violation()
    }

    /// Takes CopyData messages of the client's with so many bytes in all.
    pub(super) fn copy_data(&mut self, bytes: u64, now: Instant) -> Result<(), Violation> {
        if self.pending.len() == 1 && self.answer.takes_copy_data() {
            self.answer.client_data(bytes);
        } else if !self.pending.is_empty() {
            self.push(Sent {
                started: now,
                malformed: false,
                request: Request::CopyData(bytes),
            })?;
        }
        Ok(())
    }

    /// Tells everything that is still without an outcome.
    pub(super) fn end(&mut self, now: Instant, out: Out<'_>) -> Option<Violation> {
        while let Some(sent) = self.pending.pop_front() {
            let has_failed = self.answer.has_error();
            let verdict = match sent.request {
                Request::Broken(violation) => {
                    self.held.flush(out);
                    return Some(violation);
                }
                _ if has_failed => Verdict::Failed,
                Request::FunctionCall { .. } if self.answer.can_end_function_call() => {
                    Verdict::Completed
                }
                // Of a Query that has tags, more statements may have been to come.
                _ => Verdict::Unanswered,
            };
            self.conclude(sent, verdict, now, out);
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

    fn belongs_to_copy(&self, request: &Request) -> bool {
        match request {
            Request::CopyData(_) | Request::CopyEnd => self.answer.takes_copy_data(),
            Request::Sync => self.answer.swallows_sync(),
            _ => false,
        }
    }

    fn feed_copy(&mut self, request: &Request) {
        match request {
            Request::CopyData(bytes) => self.answer.client_data(*bytes),
            Request::CopyEnd => self.answer.client_is_done(),
            Request::Sync => self.answer.swallow_sync(),
            _ => {}
        }
    }

    /// The server begins a COPY: what the client sent ahead for it is part of it, up to its end or to a message that
    /// cannot be.
    fn begin_copy(&mut self, direction: CopyDirection) {
        self.answer.begin_copy(direction);
        while self
            .pending
            .second()
            .is_some_and(|second| self.belongs_to_copy(second))
        {
            if let Some(second) = self.pending.remove_second() {
                self.feed_copy(&second.request);
            }
        }
    }

    /// The front is finished.
    fn finish(&mut self, verdict: Verdict, now: Instant, out: Out<'_>) {
        if let Some(sent) = self.pending.pop_front() {
            self.conclude(sent, verdict, now, out);
        }
        self.drop_left_overs();
    }

    /// COPY data that no COPY takes is ignored by the server.
    fn drop_left_overs(&mut self) {
        while let Some(Request::CopyData(_) | Request::CopyEnd) = self.pending.front() {
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
            if matches!(front, Request::Sync | Request::Broken(_)) {
                return;
            }
            if let Some(sent) = self.pending.pop_front() {
                self.skip(sent, now, out);
            }
        }
        self.skipping = true;
    }

    fn skip(&mut self, sent: Sent, now: Instant, out: Out<'_>) {
        if !matches!(sent.request, Request::CopyData(_) | Request::CopyEnd) {
            self.conclude(sent, Verdict::NotRun, now, out);
        }
    }

    /// ReadyForQuery: whatever was held up by the batch is told.
    fn ready(&mut self, status: Option<TransactionStatus>, now: Instant, out: Out<'_>) {
        self.failed = false;
        self.names.batch_is_over();
        if status == Some(TransactionStatus::Idle) {
            self.names.transaction_is_over();
        }
        self.held.ready(now, status, out);
    }

    /// Turns a message and what came for it into an event.
    fn conclude(&mut self, sent: Sent, verdict: Verdict, now: Instant, out: Out<'_>) {
        let (outcome, completed) = match verdict {
            Verdict::NotRun => (Answer::default().finish(verdict).0, None),
            _ => self.answer.finish(verdict),
        };
        let (started, malformed) = (sent.started, sent.malformed);
        let Some(subject) = self.names.resolve(sent, &outcome) else {
            return;
        };
        let finished = Finished {
            subject,
            malformed,
            outcome,
            started,
            completed: completed.unwrap_or(now),
            ready: None,
            transaction: None,
        };
        self.held.finished(Box::new(finished), out);
    }

    /// Whatever was sent before a violation of the client's has been answered: now it is the violation's turn.
    fn stop_at_violation(&self) -> Result<(), Violation> {
        match self.pending.front() {
            Some(Request::Broken(violation)) => Err(*violation),
            _ => Ok(()),
        }
    }

    /// Passes something on that belongs to no message.
    pub(super) fn tell(&mut self, event: Event, out: Out<'_>) {
        self.held.event(event, out);
    }
}
