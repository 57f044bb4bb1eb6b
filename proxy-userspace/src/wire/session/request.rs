//! What a client's message asks for, before the server has answered.

use std::time::Instant;

use super::event::{Finished, Outcome, Prepared, Subject, Violation};

/// A message of the client's.
#[derive(Clone, Debug)]
pub(super) enum Sent {
    /// One that is told, as it will be told: its outcome is still to come. Made once, and only filled in after that.
    Message(Box<Finished>),
    /// Sync, and when its first byte was seen.
    Sync(Instant),
    /// A Flush with a body, which the server answers with an error; any other Flush is [`Sent::Silent`].
    RefusedFlush,
    /// CopyData: so many bytes in messages that follow each other.
    CopyData(u64),
    /// CopyDone or CopyFail.
    CopyEnd,
    /// Flush, Terminate and answers to authentication: nothing comes back for them alone.
    Silent,
    /// What broke the protocol; nothing behind it has been read.
    Broken(Violation),
}

impl Sent {
    /// A message that is told, without an outcome.
    pub(super) fn message(subject: Subject, malformed: bool, started: Instant) -> Self {
        Self::Message(Box::new(Finished {
            subject,
            malformed,
            outcome: Outcome::without_answer(),
            started,
            completed: started,
            ready: None,
            transaction: None,
        }))
    }

    /// What it asks for, of a message that is told.
    pub(super) fn subject(&self) -> Option<&Subject> {
        match self {
            Self::Message(finished) => Some(&finished.subject),
            _ => None,
        }
    }

    /// Whether an error in it makes the server skip everything up to Sync (`doing_extended_query_message` in
    /// src/backend/tcop/postgres.c).
    pub(super) fn is_extended(&self) -> bool {
        match self {
            Self::RefusedFlush => true,
            Self::Message(finished) => !matches!(
                finished.subject,
                Subject::Query { .. } | Subject::FunctionCall { .. } | Subject::Sync
            ),
            _ => false,
        }
    }

    /// Bytes of the client's that are kept in it.
    pub(super) fn kept_bytes(&self) -> usize {
        self.subject().map_or(0, Subject::kept_bytes)
    }
}

impl Subject {
    /// Bytes of the client's that are kept in it.
    pub(super) fn kept_bytes(&self) -> usize {
        match self {
            Self::Query { text } => text.kept.len(),
            Self::Parse { prepared } => kept_in(prepared),
            Self::Bind { parameters, .. } | Self::Execute { parameters, .. } => {
                parameters.kept_bytes()
            }
            Self::FunctionCall { arguments, .. } => arguments.kept_bytes(),
            Self::Describe(_) | Self::Close(_) | Self::Sync => 0,
        }
    }
}

/// Bytes of the client's that are kept in a statement.
pub(super) fn kept_in(prepared: &Prepared) -> usize {
    prepared.text.kept.len() + prepared.parameter_types.len() * size_of::<u32>()
}
