//! What the server's answers mean for the message at the front of the queue.

use std::time::Instant;

use bytes::Bytes;

use super::Machine;
use crate::wire::session::answer::MAX_TAG_BYTES;
use crate::wire::session::event::{
    CopyDirection, Event, ServerError, Target, TransactionStatus, Verdict, Violation,
};
use crate::wire::session::held::Out;
use crate::wire::session::request::Request;
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
            _ if self.answer.has_error() => false,
            _ => {
                let is_taken = self.answer_front(kind, body, now, out);
                // Whoever answers what comes next has answered every Sync before it.
                self.spare_ready = if is_taken { 0 } else { self.spare_ready };
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
        match self.pending.front() {
            Some(Request::Query(_) | Request::Execute { .. }) if !self.answer.has_error() => {
                self.spare_ready = 0;
                self.answer.rows(rows);
                Ok(())
            }
            _ => Err(Violation::BackendOutOfTurn(b'D')),
        }
    }

    /// Takes CopyData of the server's with so many bytes.
    ///
    /// # Errors
    /// When it is not sending any.
    pub(in crate::wire::session) fn server_data(&mut self, bytes: u64) -> Result<(), Violation> {
        if self.answer.server_data(bytes) {
            Ok(())
        } else {
            Err(Violation::BackendOutOfTurn(b'd'))
        }
    }

    fn answer_front(&mut self, kind: u8, body: &[u8], now: Instant, out: Out<'_>) -> bool {
        let Some(front) = self.pending.front() else {
            return false;
        };
        match (kind, front) {
            (b'T', Request::Query(_)) => true,
            (b'C', Request::Query(_)) => {
                let tag = tag(body);
                self.names.completed(&tag);
                self.answer.tag(tag, now);
                true
            }
            (b'I', Request::Query(_)) => {
                self.answer.empty_query(now);
                true
            }
            (b'C', Request::Execute { .. }) => {
                let tag = tag(body);
                self.answer.tag(tag.clone(), now);
                self.finish(Verdict::Completed, now, out);
                self.names.completed(&tag);
                true
            }
            (b't', Request::Describe(Target::Statement(_))) => true,
            (b'V', Request::FunctionCall { .. }) => {
                self.answer.result(now);
                true
            }
            (b'G' | b'H' | b'W' | b'c', Request::Query(_) | Request::Execute { .. }) => {
                self.copy(kind)
            }
            _ => {
                let Some(verdict) = ends(kind, front) else {
                    return false;
                };
                self.finish(verdict, now, out);
                true
            }
        }
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
            None | Some(Request::Sync) if self.failed => {}
            None => {
                // The server may say that it is ready again, or may not.
                self.spare_ready = self.spare_ready.saturating_add(1);
                self.tell(Event::Unsolicited(error), out);
            }
            Some(front) if front.is_extended() => {
                self.answer.error(error, now);
                self.abort_copy();
                self.finish(Verdict::Failed, now, out);
                self.skip_to_sync(now, out);
            }
            Some(_) => {
                self.answer.error(error, now);
                self.abort_copy();
            }
        }
        self.stop_at_violation()
    }

    /// The server ends the session, because of what it was working on or for a reason of its own.
    fn fatal(&mut self, error: ServerError, now: Instant, out: Out<'_>) {
        self.ended = true;
        match self.pending.front() {
            None | Some(Request::Broken(_)) => self.tell(Event::Unsolicited(error), out),
            Some(Request::Sync) if self.failed => self.tell(Event::Unsolicited(error), out),
            Some(_) => {
                self.answer.error(error, now);
                self.finish(Verdict::Failed, now, out);
            }
        }
    }

    /// Syncs that the server may have taken for part of the COPY, or may not.
    fn abort_copy(&mut self) {
        let swallowed = self.answer.abort_copy();
        self.spare_ready = self.spare_ready.saturating_add(swallowed);
    }

    fn ready_for_query(&mut self, body: &[u8], now: Instant, out: Out<'_>) -> bool {
        let status = match body {
            b"I" => Some(TransactionStatus::Idle),
            b"T" => Some(TransactionStatus::InTransaction),
            b"E" => Some(TransactionStatus::Failed),
            _ => None,
        };
        let verdict = match self.pending.front() {
            Some(Request::Query(_)) if self.answer.can_end() => Some(self.answer.verdict()),
            Some(Request::FunctionCall { .. }) if self.answer.can_end_function_call() => {
                Some(self.answer.verdict())
            }
            Some(Request::Sync) if self.answer.has_error() => Some(Verdict::Failed),
            Some(Request::Sync) => Some(Verdict::Completed),
            _ => None,
        };
        match verdict {
            Some(verdict) => self.finish(verdict, now, out),
            None if self.spare_ready > 0 => {
                self.spare_ready -= 1;
                self.skipping = false;
            }
            None => return false,
        }
        self.ready(status, now, out);
        true
    }
}

/// How an answer ends the front, if it does.
fn ends(kind: u8, front: &Request) -> Option<Verdict> {
    match (kind, front) {
        (b'1', Request::Parse(_))
        | (b'2', Request::Bind { .. })
        | (b'3', Request::Close(_))
        | (b'T' | b'n', Request::Describe(_)) => Some(Verdict::Completed),
        (b's', Request::Execute { .. }) => Some(Verdict::Suspended),
        (b'I', Request::Execute { .. }) => Some(Verdict::Empty),
        _ => None,
    }
}

fn is_fatal(error: &ServerError) -> bool {
    matches!(error.severity.as_ref(), b"FATAL" | b"PANIC")
}

/// A command tag, without its terminator.
fn tag(body: &[u8]) -> Bytes {
    let end = memchr::memchr(0, body).unwrap_or(body.len());
    let tag = body.get(..end.min(MAX_TAG_BYTES)).unwrap_or(body);
    Bytes::copy_from_slice(tag)
}
