//! What has come so far in answer to the message at the front.

use std::time::Instant;

use bytes::Bytes;

use super::event::{Copied, CopyDirection, Outcome, ServerError, Verdict};

/// Command tags kept of one Query.
pub(in crate::wire) const MAX_TAGS: usize = 64;
/// COPY transfers told apart in one Query.
pub(in crate::wire) const MAX_COPIES: usize = 64;
/// `COMPLETION_TAG_BUFSIZE` (src/include/tcop/cmdtag.h)
pub(in crate::wire) const MAX_TAG_BYTES: usize = 64;

/// The answer so far.
#[derive(Debug, Default)]
pub(super) struct Answer {
    tags: Vec<Bytes>,
    more_tags: u64,
    rows: u64,
    copies: Vec<Copied>,
    error: Option<ServerError>,
    is_empty_query: bool,
    /// FunctionCallResponse
    has_result: bool,
    /// When the last part of it came.
    completed: Option<Instant>,
    copy: Option<Copy>,
}

/// A COPY under way.
#[derive(Debug)]
struct Copy {
    direction: CopyDirection,
    client_open: bool,
    server_open: bool,
    /// Syncs that the server took for part of it.
    swallowed: u32,
}

impl Answer {
    pub(super) fn rows(&mut self, rows: u64) {
        self.rows += rows;
    }

    pub(super) fn tag(&mut self, tag: Bytes, now: Instant) {
        self.completed = Some(now);
        self.copy = None;
        if self.tags.len() < MAX_TAGS {
            self.tags.push(tag);
        } else {
            self.more_tags += 1;
        }
    }

    pub(super) fn empty_query(&mut self, now: Instant) {
        self.completed = Some(now);
        self.is_empty_query = true;
    }

    pub(super) fn result(&mut self, now: Instant) {
        self.completed = Some(now);
        self.has_result = true;
    }

    /// The first error is the reason; what follows is trouble in handling it.
    pub(super) fn error(&mut self, error: ServerError, now: Instant) {
        self.completed.get_or_insert(now);
        if self.error.is_none() {
            self.completed = Some(now);
            self.error = Some(error);
        }
    }

    pub(super) fn has_error(&self) -> bool {
        self.error.is_some()
    }

    /// Whether a FunctionCall has its answer.
    pub(super) fn can_end_function_call(&self) -> bool {
        self.has_result || self.error.is_some()
    }

    /// Whether a Query has anything that can end it.
    pub(super) fn can_end(&self) -> bool {
        !self.tags.is_empty() || self.is_empty_query || self.error.is_some()
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
        if self.copies.len() < MAX_COPIES {
            self.copies.push(Copied {
                direction,
                bytes_from_client: 0,
                bytes_from_server: 0,
            });
        }
    }

    /// Whether the server is reading the client's COPY data.
    pub(super) fn takes_copy_data(&self) -> bool {
        self.copy.as_ref().is_some_and(|copy| copy.client_open)
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

    pub(super) fn client_data(&mut self, bytes: u64) {
        if let Some(copied) = self.copies.last_mut() {
            copied.bytes_from_client += bytes;
        }
    }

    pub(super) fn client_is_done(&mut self) {
        if let Some(copy) = &mut self.copy {
            copy.client_open = false;
        }
    }

    /// CopyData of the server's; false if none can come now.
    pub(super) fn server_data(&mut self, bytes: u64) -> bool {
        let takes = self.copy.as_ref().is_some_and(|copy| copy.server_open);
        if let Some(copied) = self.copies.last_mut().filter(|_| takes) {
            copied.bytes_from_server += bytes;
        }
        takes
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

    /// How the message ended, as what came for it tells.
    pub(super) fn verdict(&self) -> Verdict {
        if self.error.is_some() {
            Verdict::Failed
        } else if self.tags.is_empty() && self.is_empty_query {
            Verdict::Empty
        } else {
            Verdict::Completed
        }
    }

    /// The outcome, and when its last part came.
    pub(super) fn finish(&mut self, verdict: Verdict) -> (Outcome, Option<Instant>) {
        let answer = std::mem::take(self);
        let outcome = Outcome {
            verdict,
            tags: answer.tags,
            more_tags: answer.more_tags,
            rows: answer.rows,
            copies: answer.copies,
            error: answer.error,
        };
        (outcome, answer.completed)
    }
}
