//! What watches a session on its way besides the audit: where the server's messages end, and the key that cancels it.

use std::task::{Context, Poll};

use super::cancel::{CancelKeys, CancelTarget, Enrolled};
use crate::audit::Observation;
use crate::relay::{Observer, Side};
use crate::wire::boundary::Boundary;

/// The watch over a session's bytes.
pub(super) struct Watch {
    pub(super) observation: Observation,
    /// Followed only where the session may be ended with a message of ours, which has to stand between two of the
    /// server's.
    boundary: Option<Boundary>,
    /// Until the login is over.
    candidate: Option<Candidate>,
    enrolled: Option<Enrolled>,
    /// Whether the session may have to be ended between two of its messages, or at once.
    is_revocable: bool,
}

/// A session that is to be found by its cancel key once it has one.
pub(super) struct Candidate {
    pub(super) keys: CancelKeys,
    pub(super) target: CancelTarget,
}

impl Watch {
    pub(super) fn new(
        observation: Observation,
        boundary: Option<Boundary>,
        candidate: Option<Candidate>,
        is_revocable: bool,
    ) -> Self {
        Self {
            observation,
            boundary,
            candidate,
            enrolled: None,
            is_revocable,
        }
    }

    fn enrol(&mut self) {
        let login = self.observation.login();
        if !login.is_done() {
            return;
        }
        let key = login.cancel_key();
        if let (Some(Candidate { keys, target }), Some(key)) = (self.candidate.take(), key) {
            self.enrolled = Some(keys.enrol(key, target));
        }
    }
}

impl Observer for Watch {
    fn sent(&mut self, by: Side, bytes: &[u8]) {
        self.observation.sent(by, bytes);
        if by == Side::Server {
            if let Some(boundary) = &mut self.boundary {
                boundary.sent(bytes);
            }
            if self.candidate.is_some() {
                self.enrol();
            }
        }
    }

    fn is_indifferent(&self) -> bool {
        !self.is_revocable && self.candidate.is_none() && self.observation.is_indifferent()
    }

    fn poll_ready(&mut self, side: Side, context: &mut Context<'_>) -> Poll<()> {
        self.observation.poll_ready(side, context)
    }

    fn until_boundary(&self) -> Option<usize> {
        self.boundary.as_ref().and_then(Boundary::distance)
    }
}
