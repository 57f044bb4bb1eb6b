//! What a session's machine tells.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::tags::Tags;

/// Something that happened in a session.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A message of the client's has its outcome.
    Finished(Box<Finished>),
    /// ParameterStatus: the server said what a setting is now.
    Setting(Box<Setting>),
    /// An error that answers nothing the client sent: the server ends the session (57P01, 57P05, …) or tells of
    /// something that went wrong while it was idle.
    Unsolicited(Box<ServerError>),
    /// A peer broke the protocol; nothing after it is understood, and no event follows.
    Violation(Violation),
}

/// A setting, as the server told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its name, cut where it is long.
    pub name: Bytes,
    /// Its value, likewise.
    pub value: Bytes,
}

/// A message of the client's and what became of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// What the client asked for.
    pub subject: Subject,
    /// The message's body is not what PostgreSQL takes, so the server refuses it whatever the text says: bytes behind
    /// the text's terminator, no terminator, counts that do not fit. `subject` is what could be understood.
    pub malformed: bool,
    /// What the server made of it.
    pub outcome: Outcome,
    /// When the message's first byte was seen.
    pub started: Instant,
    /// When its last reply was complete; the end of the session where none came.
    pub completed: Instant,
    /// When ReadyForQuery came for its batch. `None` where the session ended before, or the batch was so long that it
    /// was not waited for.
    pub ready: Option<Instant>,
    /// The transaction's status as that ReadyForQuery told it.
    pub transaction: Option<TransactionStatus>,
}

/// What a message of the client's asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Subject {
    /// Query: one or more statements in one text.
    Query {
        /// As sent.
        text: Text,
    },
    /// Parse: makes a prepared statement; runs nothing.
    Parse {
        /// The statement it makes.
        prepared: Arc<Prepared>,
    },
    /// Bind: makes a portal of a prepared statement.
    Bind {
        /// The portal's name; empty is the unnamed one.
        portal: Bytes,
        /// The statement's name; empty is the unnamed one.
        statement: Bytes,
        /// That statement, unless its Parse was not seen (SQL PREPARE, or before the audit was switched on).
        prepared: Option<Arc<Prepared>>,
        /// `prepared` may be missing because more was prepared than is remembered.
        forgotten: bool,
        /// The values.
        parameters: Parameters,
    },
    /// Describe.
    Describe(Target),
    /// Execute: runs a portal.
    Execute {
        /// The portal's name; empty is the unnamed one.
        portal: Bytes,
        /// The statement's name, as Bind gave it; none where that Bind was not seen (a cursor made by DECLARE).
        statement: Option<Bytes>,
        /// The statement it runs, where its Parse was seen.
        prepared: Option<Arc<Prepared>>,
        /// `prepared` may be missing because more was prepared or bound than is remembered.
        forgotten: bool,
        /// The values bound to it.
        parameters: Parameters,
        /// The most rows asked for; 0 is all.
        max_rows: u32,
    },
    /// Close.
    Close(Target),
    /// FunctionCall.
    FunctionCall {
        /// The function's OID.
        function: u32,
        /// Its arguments.
        arguments: Parameters,
    },
    /// Sync, only where the server answered it with an error: committing the batch's implicit transaction failed, so
    /// what the batch's statements did is undone although each of them was completed.
    Sync,
}

/// What Describe and Close are about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A prepared statement's name.
    Statement(Bytes),
    /// A portal's name.
    Portal(Bytes),
}

/// A prepared statement, as its Parse made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// Which Parse of the session it was, from 1.
    pub number: u64,
    /// Its name; empty is the unnamed statement.
    pub name: Bytes,
    /// Its text.
    pub text: Text,
    /// The parameter types that were named, as OIDs, the first of them; 0 is unspecified.
    pub parameter_types: Vec<u32>,
}

/// SQL text in the client's encoding, as much of it as was kept: none of it where there was more than could be
/// remembered at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text {
    /// The beginning, up to [`super::Capture::text_bytes`].
    pub kept: Bytes,
    /// The length of the whole, without its terminator.
    pub length: u64,
    /// SHA-256 of the whole, where it is longer than what was kept.
    pub sha256: Option<Box<[u8; 32]>>,
}

impl Text {
    /// Whether all of it was kept.
    pub fn is_whole(&self) -> bool {
        self.sha256.is_none()
    }
}

/// Values of a Bind or FunctionCall. Copies share them: each Execute of a portal has one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// How many there are.
    pub count: usize,
    /// Their formats as sent: none is all text, one is for all, else one each; 0 is text, 1 is binary.
    pub formats: Arc<[i16]>,
    /// The values from the first on, as many as fit the limit; the last may be cut. `None` where none are kept.
    pub values: Option<Arc<[Value]>>,
}

/// One value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// The beginning of it; `None` is NULL.
    pub kept: Option<Bytes>,
    /// Its full length; 0 for NULL.
    pub length: u64,
}

/// What the server made of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub verdict: Verdict,
    /// CommandComplete tags in order; more than one for a Query of several statements.
    pub tags: Tags,
    /// Tags that came beyond the number kept.
    pub more_tags: u64,
    /// The rows that those say were affected.
    pub more_affected: Option<u64>,
    /// Data rows sent for it.
    pub rows: u64,
    /// COPY transfers within it, in order; what comes beyond the number kept is added to the last of them.
    pub copies: Vec<Copied>,
    /// The error that ended it.
    pub error: Option<Box<ServerError>>,
}

/// How a message ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The server did it.
    Completed,
    /// An Execute reached its row limit; the portal can go on.
    Suspended,
    /// The text was empty.
    Empty,
    /// The server refused it, or it failed.
    Failed,
    /// The server skipped it: an earlier message of the batch had failed.
    NotRun,
    /// The session ended, or stopped being understood, before an answer came.
    Unanswered,
}

/// A COPY transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Whose data.
    pub direction: CopyDirection,
    /// Bytes of CopyData bodies from the client.
    pub bytes_from_client: u64,
    /// Bytes of CopyData bodies from the server.
    pub bytes_from_server: u64,
}

/// Which way COPY data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyDirection {
    /// `COPY … FROM STDIN`
    In,
    /// `COPY … TO STDOUT`
    Out,
    /// Streaming replication
    Both,
}

/// An ErrorResponse's main fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerError {
    /// ERROR, FATAL or PANIC, unlocalised where the server sends that.
    pub severity: Bytes,
    /// The SQLSTATE, if it looks like one.
    pub sqlstate: Option<String>,
    /// The primary message, cut where it is long.
    pub message: Bytes,
}

/// ReadyForQuery's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionStatus {
    /// Not in a transaction block.
    Idle,
    /// In one.
    InTransaction,
    /// In one that has failed.
    Failed,
}

/// A rule of the protocol that a peer broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The client sent a type that PostgreSQL does not know.
    #[error("the client sent a message of unknown type {0:#04x}")]
    FrontendType(u8),
    /// The client's length word is out of PostgreSQL's range for the type.
    #[error("the client sent a message of type {kind:#04x} with length {length}")]
    FrontendLength {
        /// The type byte.
        kind: u8,
        /// The length word.
        length: u32,
    },
    /// The server sent a type that no PostgreSQL sends.
    #[error("the server sent a message of unknown type {0:#04x}")]
    BackendType(u8),
    /// The server's length word cannot be.
    #[error("the server sent a message of type {kind:#04x} with length {length}")]
    BackendLength {
        /// The type byte.
        kind: u8,
        /// The length word.
        length: u32,
    },
    /// The server answered something nobody asked for.
    #[error("the server sent a message of type {0:#04x} that answers nothing")]
    BackendOutOfTurn(u8),
    /// The client has sent more messages ahead of their answers than are followed (see [`super::Session::is_full`]).
    #[error("the client sent too many messages ahead of their answers")]
    TooManyPending,
}
