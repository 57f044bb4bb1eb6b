//! What a client's message asks for, before the server has answered.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::event::{Parameters, Prepared, Target, Text, Violation};

/// A message of the client's.
#[derive(Debug)]
pub(super) struct Sent {
    /// When its first byte was seen.
    pub(super) started: Instant,
    /// The server will refuse its body.
    pub(super) malformed: bool,
    /// What it asks for.
    pub(super) request: Request,
}

/// What it asks for.
#[derive(Debug)]
pub(super) enum Request {
    Query(Text),
    Parse(Arc<Prepared>),
    Bind {
        portal: Bytes,
        statement: Bytes,
        parameters: Parameters,
    },
    Describe(Target),
    Execute {
        portal: Bytes,
        max_rows: u32,
    },
    Close(Target),
    FunctionCall {
        function: u32,
        arguments: Parameters,
    },
    Sync,
    /// A Flush with a body, which the server answers with an error; any other Flush is [`Request::Silent`].
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

impl Request {
    /// Whether an error in it makes the server skip everything up to Sync (`doing_extended_query_message` in
    /// src/backend/tcop/postgres.c).
    pub(super) fn is_extended(&self) -> bool {
        matches!(
            self,
            Self::Parse(_)
                | Self::Bind { .. }
                | Self::Describe(_)
                | Self::Execute { .. }
                | Self::Close(_)
                | Self::RefusedFlush
        )
    }

    /// Bytes of the client's that are kept in it.
    pub(super) fn kept_bytes(&self) -> usize {
        match self {
            Self::Query(text) => text.kept.len(),
            Self::Parse(prepared) => kept_in(prepared),
            Self::Bind { parameters, .. } => parameters.kept_bytes(),
            Self::FunctionCall { arguments, .. } => arguments.kept_bytes(),
            _ => 0,
        }
    }
}

/// Bytes of the client's that are kept in a statement.
pub(super) fn kept_in(prepared: &Prepared) -> usize {
    prepared.text.kept.len() + prepared.parameter_types.len() * size_of::<u32>()
}
