//! Events on their way out: what is finished waits for the ReadyForQuery of its batch, within limits.

use std::collections::VecDeque;
use std::time::Instant;

use super::event::{Event, Finished, TransactionStatus};

/// Events that wait at most; beyond that the oldest go out without knowing when the server was ready.
pub(in crate::wire) const MAX_HELD: usize = 128;
/// Bytes of texts and values in them at most, but one may always wait.
pub(in crate::wire) const MAX_HELD_BYTES: usize = 256 * 1024;

/// Where events go.
pub(super) type Out<'a> = &'a mut dyn FnMut(Event);

/// The events that wait, in the order things happened.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    events: VecDeque<Event>,
    kept_bytes: usize,
}

impl Held {
    /// A message is finished.
    pub(super) fn finished(&mut self, finished: Box<Finished>, out: Out<'_>) {
        self.kept_bytes += finished.subject.kept_bytes();
        self.events.push_back(Event::Finished(finished));
        self.keep_within_limits(out);
    }

    /// Something else happened; it must not overtake what happened before.
    pub(super) fn event(&mut self, event: Event, out: Out<'_>) {
        if self.events.is_empty() {
            out(event);
        } else {
            self.events.push_back(event);
            self.keep_within_limits(out);
        }
    }

    /// ReadyForQuery: everything goes out and knows it, and `last` behind it.
    pub(super) fn ready(
        &mut self,
        last: Option<Box<Finished>>,
        now: Instant,
        status: Option<TransactionStatus>,
        out: Out<'_>,
    ) {
        let mut tell = |mut event| {
            if let Event::Finished(finished) = &mut event {
                finished.ready = Some(now);
                finished.transaction = status;
            }
            out(event);
        };
        if !self.events.is_empty() {
            self.kept_bytes = 0;
            self.events.drain(..).for_each(&mut tell);
        }
        if let Some(last) = last {
            tell(Event::Finished(last));
        }
    }

    /// Nothing will come any more: everything goes out as it is.
    pub(super) fn flush(&mut self, out: Out<'_>) {
        self.kept_bytes = 0;
        self.events.drain(..).for_each(out);
    }

    fn keep_within_limits(&mut self, out: Out<'_>) {
        while self.events.len() > MAX_HELD
            || (self.kept_bytes > MAX_HELD_BYTES && self.events.len() > 1)
        {
            let Some(event) = self.events.pop_front() else {
                return;
            };
            if let Event::Finished(finished) = &event {
                self.kept_bytes -= finished.subject.kept_bytes();
            }
            out(event);
        }
    }
}
