//! What the server's answers mean for the message at the front of the queue.

use std::time::Instant;

use super::Machine;
use crate::wire::session::event::{
    CopyDirection, Event, ServerError, Subject, Target, TransactionStatus, Verdict, Violation,
};
use crate::wire::session::held::{Held, Out};
use crate::wire::session::pairing::Reading;
use crate::wire::session::request::Sent;
use crate::wire::session::server::Reply;

/// Whether a type of message can come at any moment and belongs to nothing: NoticeResponse, NotificationResponse,
/// ParameterStatus.
fn is_asynchronous(kind: u8) -> bool {
    matches!(kind, b'N' | b'A' | b'S')
}

impl Machine {
    /// Takes an answer of the server's. Errors are taken by [`Machine::error`], settings by [`Machine::tell`].
    ///
    /// # Errors
    /// When it answers nothing, or a violation of the client's has its turn.
    pub(in crate::wire::session) fn replied(
        &mut self,
        reply: &Reply<'_>,
        now: Instant,
        out: Out<'_>,
    ) -> Result<(), Violation> {
        let Reply { kind, body, length } = *reply;
        if is_asynchronous(kind) {
            return Ok(());
        }
        let out_of_turn = Err(Violation::BackendOutOfTurn(kind));
        if self.ended {
            return out_of_turn;
        }
        let is_taken = match kind {
            b'Z' => self.ready_for_query(body, now, out),
            b'D' => return self.rows(1),
            b'd' => return self.server_data(length),
            _ => {
                let is_taken = self.answer_front(kind, body, now, out);
                if is_taken {
                    // Whoever answers what comes next has answered every Sync before it.
                    self.spare_ready = 0;
                }
                is_taken
            }
        };
        if is_taken {
            self.stop_at_violation()
        } else {
            out_of_turn
        }
    }

    /// Takes so many data rows.
    ///
    /// # Errors
    /// When nobody asked for any.
    pub(in crate::wire::session) fn rows(&mut self, rows: u64) -> Result<(), Violation> {
        if let Some(Sent::Message(front)) = self.pending.front_mut()
            && let Subject::Query { .. } | Subject::Execute { .. } = front.subject
            && front.outcome.error.is_none()
        {
            self.spare_ready = 0;
            front.outcome.rows += rows;
            return Ok(());
        }
        Err(Violation::BackendOutOfTurn(b'D'))
    }

    /// Takes CopyData of the server's with so many bytes.
    ///
    /// # Errors
    /// When it is not sending any.
    pub(in crate::wire::session) fn server_data(&mut self, bytes: u64) -> Result<(), Violation> {
        if !self.answer.gives_copy_data() {
            return Err(Violation::BackendOutOfTurn(b'd'));
        }
        let copies = self.pending.outcome().map(|outcome| &mut outcome.copies);
        if let Some(copied) = copies.and_then(|copies| copies.last_mut()) {
            copied.bytes_from_server += bytes;
        }
        Ok(())
    }

    fn answer_front(&mut self, kind: u8, body: &[u8], now: Instant, out: Out<'_>) -> bool {
        let subject = match self.pending.front() {
            Some(Sent::Message(front)) if front.outcome.error.is_none() => Some(&front.subject),
            _ => None,
        };
        match (kind, subject) {
            (b'T', Some(Subject::Query { .. })) => {}
            (b'C', Some(Subject::Query { .. })) => {
                let tag = self.tag(body, now);
                self.names.completed(tag);
            }
            (b'I', Some(Subject::Query { .. })) => self.answer.empty_query(now),
            (b'C', Some(Subject::Execute { .. })) => {
                let tag = self.tag(body, now);
                self.finish(Verdict::Completed, now, out);
                self.names.completed(tag);
            }
            (b't', Some(Subject::Describe(Target::Statement(_)))) => {}
            (b'V', Some(Subject::FunctionCall { .. })) => self.answer.result(now),
            (b'G' | b'H' | b'W' | b'c', Some(Subject::Query { .. } | Subject::Execute { .. })) => {
                return self.copy(kind);
            }
            (_, Some(subject)) => match ends(kind, subject) {
                Some(verdict) => self.finish(verdict, now, out),
                None => return false,
            },
            (_, None) => return false,
        }
        true
    }

    /// Adds a command tag, and gives it back without its terminator.
    fn tag<'a>(&mut self, body: &'a [u8], now: Instant) -> &'a [u8] {
        self.answer.tag(now);
        let end = memchr::memchr(0, body).unwrap_or(body.len());
        let tag = body.get(..end).unwrap_or(body);
        if let Some(outcome) = self.pending.outcome() {
            outcome.add_tag(tag);
        }
        tag
    }

    fn copy(&mut self, kind: u8) -> bool {
        let direction = match kind {
            b'G' => CopyDirection::In,
            b'H' => CopyDirection::Out,
            b'W' => CopyDirection::Both,
            _ => return self.answer.server_is_done(),
        };
        self.begin_copy(direction);
        true
    }

    /// Takes an ErrorResponse.
    ///
    /// # Errors
    /// When it was the answer to a violation of the client's.
    pub(in crate::wire::session) fn error(
        &mut self,
        error: ServerError,
        now: Instant,
        out: Out<'_>,
    ) -> Result<(), Violation> {
        if is_fatal(&error) {
            self.fatal(error, now, out);
            return self.stop_at_violation();
        }
        let front = self.pending.front();
        match front {
            // Trouble in handling an error that has been told.
            None | Some(Sent::Sync(_)) if self.failed => {}
            None => {
                // The server may say that it is ready again, or may not.
                self.spare_ready = self.spare_ready.saturating_add(1);
                self.tell(Event::Unsolicited(Box::new(error)), out);
            }
            Some(front) if front.is_extended() => {
                self.fail(error, now);
                self.abort_copy();
                self.finish(Verdict::Failed, now, out);
                self.skip_to_sync(now, out);
            }
            Some(_) => {
                self.fail(error, now);
                self.abort_copy();
            }
        }
        self.stop_at_violation()
    }

    /// The server ends the session, because of what it was working on or for a reason of its own.
    fn fatal(&mut self, error: ServerError, now: Instant, out: Out<'_>) {
        self.ended = true;
        match self.pending.front() {
            None | Some(Sent::Broken(_)) => self.tell(Event::Unsolicited(Box::new(error)), out),
            Some(Sent::Sync(_)) if self.failed => {
                self.tell(Event::Unsolicited(Box::new(error)), out)
            }
            Some(_) => {
                self.fail(error, now);
                self.finish(Verdict::Failed, now, out);
            }
        }
    }

    /// Notes the error of the front; one of Sync makes it a message that is told.
    fn fail(&mut self, error: ServerError, now: Instant) {
        self.pending.tell_sync();
        if self
            .pending
            .outcome()
            .is_some_and(|outcome| outcome.add_error(error))
        {
            self.answer.error(now);
        }
    }

    /// Syncs that the server may have taken for part of the COPY, or may not. Those before the message that failed
    /// have been answered.
    fn abort_copy(&mut self) {
        self.spare_ready = self.answer.abort_copy();
    }

    fn ready_for_query(&mut self, body: &[u8], now: Instant, out: Out<'_>) -> bool {
        let status = match body {
            b"I" => Some(TransactionStatus::Idle),
            b"T" => Some(TransactionStatus::InTransaction),
            b"E" => Some(TransactionStatus::Failed),
            _ => None,
        };
        let verdict = match self.pending.front() {
            Some(Sent::Sync(_)) => Some(Verdict::Completed),
            Some(Sent::Message(front)) => match front.subject {
                Subject::Query { .. } => self.answer.query_verdict(&front.outcome),
                Subject::FunctionCall { .. } | Subject::Sync if front.outcome.error.is_some() => {
                    Some(Verdict::Failed)
                }
                Subject::FunctionCall { .. } if self.answer.has_result() => {
                    Some(Verdict::Completed)
                }
                _ => None,
            },
            _ => None,
        };
        match verdict {
            Some(verdict) => {
                let finished = self.front_is_finished(verdict, now);
                self.ready(finished, status, now, out);
                true
            }
            None if self.spare_ready > 0 => {
                self.spare_ready(status, now, out);
                true
            }
            None => false,
        }
    }

    /// Takes ReadyForQuery for a Sync that a COPY may have swallowed; but if there is a Sync behind what waits, it may
    /// be that one's.
    #[cold]
    fn spare_ready(&mut self, status: Option<TransactionStatus>, now: Instant, out: Out<'_>) {
        let may_skip = self.failed && self.pending.has_sync();
        let before = may_skip.then(|| self.clone());
        self.spare_ready -= 1;
        self.skipping = false;
        self.ready(None, status, now, out);
        self.other = before.map(|mut machine| {
            // That has just been told.
            machine.held = Held::default();
            Box::new(Reading::begin(machine, |machine, out| {
                machine.skipped_to_sync(status, now, out);
            }))
        });
    }
}

/// How an answer ends the front, if it does.
fn ends(kind: u8, front: &Subject) -> Option<Verdict> {
    match (kind, front) {
        (b'1', Subject::Parse { .. })
        | (b'2', Subject::Bind { .. })
        | (b'3', Subject::Close(_))
        | (b'T' | b'n', Subject::Describe(_)) => Some(Verdict::Completed),
        (b's', Subject::Execute { .. }) => Some(Verdict::Suspended),
        (b'I', Subject::Execute { .. }) => Some(Verdict::Empty),
        _ => None,
    }
}

fn is_fatal(error: &ServerError) -> bool {
    matches!(error.severity.as_ref(), b"FATAL" | b"PANIC")
}
