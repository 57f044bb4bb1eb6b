//! The client's messages that the server has not answered, in the order sent.

use std::collections::VecDeque;
use std::sync::Arc;

use super::event::{Outcome, Subject, Violation};
use super::request::Sent;

/// Messages ahead of their answers from which on no more should be read from the client.
pub(in crate::wire) const FULL_PENDING: usize = 4096;
/// Messages ahead of their answers that are followed: what is full, and as many as one more read of 64 KiB can hold.
pub(in crate::wire) const MAX_PENDING: usize = FULL_PENDING + 64 * 1024 / 5;
/// Bytes of texts and values kept in them; one text may always be kept.
pub(in crate::wire) const MAX_PENDING_BYTES: usize = 1024 * 1024;
/// More places than this are given back when the queue is empty.
const STANDING_PLACES: usize = 64;

/// The queue. Its front is what the server is working on.
#[derive(Clone, Debug, Default)]
pub(super) struct Queue {
    sent: VecDeque<Sent>,
    kept_bytes: usize,
    /// How the client broke the protocol, which is the last that it sent.
    broken: Option<Violation>,
}

impl Queue {
    /// How much may be kept of the next text.
    pub(super) fn room(&self) -> usize {
        if self.kept_bytes == 0 {
            usize::MAX
        } else {
            MAX_PENDING_BYTES.saturating_sub(self.kept_bytes)
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.sent.len()
    }

    /// A violation of the client's that has its turn: whatever was sent before it has been answered.
    #[inline]
    pub(super) fn violation(&self) -> Option<Violation> {
        self.broken.filter(|_| self.sent.len() == 1)
    }

    /// What the server is working on, or will be next.
    pub(super) fn front(&self) -> Option<&Sent> {
        self.sent.front()
    }

    pub(super) fn front_mut(&mut self) -> Option<&mut Sent> {
        self.sent.front_mut()
    }

    /// The outcome of what the server is working on, as far as it has come.
    pub(super) fn outcome(&mut self) -> Option<&mut Outcome> {
        match self.sent.front_mut() {
            Some(Sent::Message(finished)) => Some(&mut finished.outcome),
            _ => None,
        }
    }

    /// Makes the Sync at the front one that is told.
    pub(super) fn tell_sync(&mut self) {
        if let Some(front) = self.sent.front_mut()
            && let Sent::Sync(started) = front
        {
            *front = Sent::message(Subject::Sync, false, *started);
        }
    }

    /// What comes behind the front.
    pub(super) fn second(&self) -> Option<&Sent> {
        self.sent.get(1)
    }

    /// Whether a Sync is in it.
    pub(super) fn has_sync(&self) -> bool {
        self.sent.iter().any(|sent| matches!(sent, Sent::Sync(_)))
    }

    pub(super) fn pop_front(&mut self) -> Option<Sent> {
        let sent = self.sent.pop_front();
        self.forget(sent.as_ref());
        if self.sent.is_empty() && self.sent.capacity() > STANDING_PLACES {
            self.sent.shrink_to(STANDING_PLACES);
        }
        sent
    }

    pub(super) fn remove_second(&mut self) -> Option<Sent> {
        let sent = self.sent.remove(1);
        self.forget(sent.as_ref());
        sent
    }

    /// Appends a message. Values and types that do not fit are dropped; what does not fit of a text was not even collected
    /// ([`Queue::room`]).
    pub(super) fn push(&mut self, mut sent: Sent) {
        if let (Sent::CopyData(bytes), Some(Sent::CopyData(before))) = (&sent, self.sent.back_mut())
        {
            *before += bytes;
            return;
        }
        if let Sent::Message(finished) = &mut sent
            && finished.subject.kept_bytes() > self.room()
        {
            drop_values(&mut finished.subject);
        }
        if let Sent::Broken(violation) = &sent {
            self.broken = Some(*violation);
        }
        self.kept_bytes += sent.kept_bytes();
        self.sent.push_back(sent);
    }

    fn forget(&mut self, sent: Option<&Sent>) {
        self.kept_bytes -= sent.map_or(0, Sent::kept_bytes);
    }
}

/// Leaves of what is kept only the text.
fn drop_values(subject: &mut Subject) {
    match subject {
        Subject::Bind { parameters, .. }
        | Subject::FunctionCall {
            arguments: parameters,
            ..
        } => *parameters = parameters.without_values(),
        Subject::Parse { prepared } => {
            if let Some(prepared) = Arc::get_mut(prepared) {
                prepared.parameter_types = Vec::new();
            }
        }
        _ => {}
    }
}
