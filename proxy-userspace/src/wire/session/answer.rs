//! What has come so far in answer to the message at the front of the queue.

use std::time::Instant;

use super::event::{Copied, CopyDirection, Outcome, ServerError, Verdict};
use super::tags::{Tags, affected_rows};

/// COPY transfers told apart in one Query.
pub(in crate::wire) const MAX_COPIES: usize = 64;

/// What is known of the answer beside the outcome that the message itself has.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    is_empty_query: bool,
    /// FunctionCallResponse
    has_result: bool,
    /// When the last part of it came.
    completed: Option<Instant>,
    copy: Option<Copy>,
}

/// A COPY under way.
#[derive(Clone, Debug)]
struct Copy {
    direction: CopyDirection,
    client_open: bool,
    server_open: bool,
    /// Syncs that the server took for part of it.
    swallowed: u32,
}

impl Answer {
    pub(super) fn tag(&mut self, now: Instant) {
        self.completed = Some(now);
        self.copy = None;
    }

    pub(super) fn empty_query(&mut self, now: Instant) {
        self.completed = Some(now);
        self.is_empty_query = true;
    }

    pub(super) fn result(&mut self, now: Instant) {
        self.completed = Some(now);
        self.has_result = true;
    }

    pub(super) fn error(&mut self, now: Instant) {
        self.completed = Some(now);
    }

    /// Whether a FunctionCall has its result.
    pub(super) fn has_result(&self) -> bool {
        self.has_result
    }

    /// How a Query ends, if anything has come that can end it.
    pub(super) fn query_verdict(&self, outcome: &Outcome) -> Option<Verdict> {
        if outcome.error.is_some() {
            Some(Verdict::Failed)
        } else if !outcome.tags.is_empty() {
            Some(Verdict::Completed)
        } else {
            self.is_empty_query.then_some(Verdict::Empty)
        }
    }

    pub(super) fn begin_copy(&mut self, direction: CopyDirection) {
        let (client_open, server_open) = match direction {
            CopyDirection::In => (true, false),
            CopyDirection::Out => (false, true),
            CopyDirection::Both => (true, true),
        };
        self.copy = Some(Copy {
            direction,
            client_open,
            server_open,
            swallowed: 0,
        });
    }

    /// Whether the server is reading the client's COPY data.
    pub(super) fn takes_copy_data(&self) -> bool {
        self.copy.as_ref().is_some_and(|copy| copy.client_open)
    }

    /// Whether the server may send COPY data. A WAL sender that has sent its CopyDone may still send a keepalive
    /// (ProcessRepliesIfAny and WalSndKeepalive, src/backend/replication/walsender.c).
    pub(super) fn gives_copy_data(&self) -> bool {
        let may_send = |copy: &Copy| copy.server_open || copy.direction == CopyDirection::Both;
        self.copy.as_ref().is_some_and(may_send)
    }

    /// Whether Sync and Flush mean nothing now: during COPY IN the server ignores them.
    pub(super) fn swallows_sync(&self) -> bool {
        let is_in = |copy: &Copy| copy.direction == CopyDirection::In && copy.client_open;
        self.copy.as_ref().is_some_and(is_in)
    }

    pub(super) fn swallow_sync(&mut self) {
        if let Some(copy) = &mut self.copy {
            copy.swallowed = copy.swallowed.saturating_add(1);
        }
    }

    pub(super) fn client_is_done(&mut self) {
        if let Some(copy) = &mut self.copy {
            copy.client_open = false;
        }
    }

    /// CopyDone of the server's; false if none can come now.
    pub(super) fn server_is_done(&mut self) -> bool {
        let copy = self.copy.as_mut().filter(|copy| copy.server_open);
        match copy {
            Some(copy) => {
                copy.server_open = false;
                true
            }
            None => false,
        }
    }

    /// Ends a COPY that failed; gives back how many Syncs the server may have taken for part of it.
    pub(super) fn abort_copy(&mut self) -> u32 {
        self.copy.take().map_or(0, |copy| copy.swallowed)
    }

    /// Begins another answer; gives back when the last part of this one came, if any has.
    pub(super) fn finish(&mut self) -> Option<Instant> {
        self.is_empty_query = false;
        self.has_result = false;
        self.copy = None;
        self.completed.take()
    }
}

impl Outcome {
    /// Nothing has come.
    pub(super) fn without_answer() -> Self {
        Self {
            verdict: Verdict::Unanswered,
            tags: Tags::default(),
            more_tags: 0,
            more_affected: None,
            rows: 0,
            copies: Vec::new(),
            error: None,
        }
    }

    pub(super) fn add_tag(&mut self, tag: &[u8]) {
        if !self.tags.push(tag) {
            self.more_tags += 1;
            if let Some(rows) = affected_rows(tag) {
                self.more_affected = Some(self.more_affected.unwrap_or(0).saturating_add(rows));
            }
        }
    }

    pub(super) fn add_copy(&mut self, direction: CopyDirection) {
        if self.copies.len() < MAX_COPIES {
            self.copies.push(Copied {
                direction,
                bytes_from_client: 0,
                bytes_from_server: 0,
            });
        }
    }

    /// The first error is the reason; what follows is trouble in handling it.
    pub(super) fn add_error(&mut self, error: ServerError) -> bool {
        let is_first = self.error.is_none();
        if is_first {
            self.error = Some(Box::new(error));
        }
        is_first
    }
}
