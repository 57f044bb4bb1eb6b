//! Records of statements: what a client asked for and what became of it.
//!
//! A session hands over what its machine told, as it is. Everything that costs time, redaction, escaping and base64,
//! happens when the record is serialised, on the writer's thread.

mod asked;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Serialize, Serializer};
use uuid::Uuid;

use super::disruption::ErrorShown;
use crate::audit::redaction::{Scanning, SqlText};
use crate::audit::tally;
use crate::config::Redaction;
use crate::identify::Identity;
use crate::wire::session::{
    CopyDirection, Finished, Outcome, Parameters, Prepared, Subject, Tag, Text, TransactionStatus,
    Verdict, affected_rows,
};
use crate::wire::text::as_printable;
use asked::Asked;

/// No server's command tag is longer (src/include/tcop/cmdtag.h, COMPLETION_TAG_BUFSIZE).
const MAX_TAG_BYTES: usize = 64;
/// What stands in a record for a tag that is none.
const NO_TAG: &str = "[withheld]";
/// What a record weighs besides what it holds: its own structures and the field names of its JSON.
const BASE_WEIGHT: usize = 1024;

/// Whose statements these are: what every record of a session repeats.
#[derive(Debug)]
pub(in crate::audit) struct Author {
    pub(in crate::audit) session: Uuid,
    pub(in crate::audit) process: Option<Process>,
    pub(in crate::audit) user: Option<String>,
    pub(in crate::audit) database: Option<String>,
    pub(in crate::audit) redaction: Redaction,
    pub(in crate::audit) counts: Arc<tally::Counts>,
}

impl Author {
    /// What a record begins with that is the session's `seq`-th.
    pub(super) fn signature(&self, seq: u64) -> Signature<'_> {
        Signature {
            session: self.session,
            seq,
            process: &self.process,
            user: &self.user,
            database: &self.database,
        }
    }
}

/// Whose record it is, and which of theirs, as it is written.
#[derive(Serialize)]
pub(super) struct Signature<'a> {
    session: Uuid,
    seq: u64,
    process: &'a Option<Process>,
    user: &'a Option<String>,
    database: &'a Option<String>,
}

/// Enough of a process to know it by; the session's first record says how far to trust it.
#[derive(Debug, Serialize)]
pub(in crate::audit) struct Process {
    pid: u32,
    uid: u32,
    exe: Option<String>,
}

impl From<&Identity> for Process {
    fn from(identity: &Identity) -> Self {
        Self {
            pid: identity.process_id(),
            uid: identity.real_uid(),
            exe: identity.exe().map(|exe| exe.value().clone()),
        }
    }
}

/// A moment on both clocks, read once for all records that are made at it.
#[derive(Clone, Copy, Debug)]
pub(in crate::audit) struct Moment {
    instant: Instant,
    pub(in crate::audit) time: Timestamp,
}

impl Moment {
    pub(in crate::audit) fn now() -> Self {
        Self {
            instant: Instant::now(),
            time: Timestamp::now(),
        }
    }

    /// When something was that is over.
    fn time_of(self, past: Instant) -> Timestamp {
        let age = self.instant.saturating_duration_since(past);
        self.time.checked_sub(age).unwrap_or(self.time)
    }
}

/// A statement, as the session's machine told it.
#[derive(Clone, Debug)]
pub struct Statement {
    author: Arc<Author>,
    seq: u64,
    started: Timestamp,
    encoding: Option<Bytes>,
    scanning: Scanning,
    finished: Box<Finished>,
}

impl Statement {
    /// Numbers the statement; `encoding` and `scanning` are the session's when it was sent.
    pub(in crate::audit) fn new(
        author: &Arc<Author>,
        finished: Box<Finished>,
        encoding: Option<Bytes>,
        scanning: Scanning,
        now: Moment,
    ) -> Self {
        Self {
            author: Arc::clone(author),
            seq: author.counts.make(),
            started: now.time_of(finished.started),
            encoding,
            scanning,
            finished,
        }
    }

    pub(in crate::audit) fn author(&self) -> &Author {
        &self.author
    }

    /// The text that the server works on for it, where one was seen: a Bind plans its statement's.
    fn sql(&self) -> Option<SqlText<'_>> {
        let text = match &self.finished.subject {
            Subject::Query { text } => text,
            Subject::Parse { prepared } => &prepared.text,
            Subject::Bind { prepared, .. } | Subject::Execute { prepared, .. } => {
                &prepared.as_ref()?.text
            }
            _ => return None,
        };
        Some(self.as_kept(text))
    }

    /// One of its texts, with what redaction has to know of it.
    fn as_kept<'a>(&self, text: &'a Text) -> SqlText<'a> {
        SqlText {
            kept: &text.kept,
            is_cut: !text.is_whole(),
            scanning: self.scanning,
        }
    }

    /// How many bytes it keeps in memory, about. A text shared with other records counts in each: it may outlive them.
    pub(in crate::audit) fn weight(&self) -> usize {
        let of_prepared = |prepared: &Option<Arc<Prepared>>| {
            prepared.as_ref().map_or(0, |prepared| {
                prepared.text.kept.len() + 4 * prepared.parameter_types.len()
            })
        };
        let subject = match &self.finished.subject {
            Subject::Query { text } => text.kept.len(),
            Subject::Parse { prepared } => of_prepared(&Some(Arc::clone(prepared))),
            Subject::Bind {
                prepared,
                parameters,
                ..
            }
            | Subject::Execute {
                prepared,
                parameters,
                ..
            } => of_prepared(prepared) + values_weight(parameters),
            Subject::FunctionCall { arguments, .. } => values_weight(arguments),
            Subject::Describe(_) | Subject::Close(_) | Subject::Sync => 0,
        };
        let outcome = &self.finished.outcome;
        let tags = size_of::<Tag>() * outcome.tags.len();
        let error = outcome.error.as_ref();
        let error = error.map_or(0, |error| error.message.len() + error.severity.len());
        BASE_WEIGHT + subject + tags + error + 32 * outcome.copies.len()
    }
}

fn values_weight(parameters: &Parameters) -> usize {
    let values = parameters.values.as_deref().unwrap_or_default().iter();
    let kept: usize = values
        .map(|value| 48 + value.kept.as_ref().map_or(0, Bytes::len))
        .sum();
    kept + 2 * parameters.formats.len()
}

impl Serialize for Statement {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Rendered::from(self).serialize(serializer)
    }
}

/// A statement as it is written. What does not belong to its kind is left out.
#[derive(Serialize)]
struct Rendered<'a> {
    #[serde(flatten)]
    signature: Signature<'a>,
    #[serde(flatten)]
    asked: Asked<'a>,
    started: Timestamp,
    duration_us: Option<u64>,
    ready_us: Option<u64>,
    outcome: &'static str,
    /// The server refuses the message for its form, whatever its text says.
    #[serde(skip_serializing_if = "is_false")]
    malformed: bool,
    tags: Vec<Cow<'a, str>>,
    #[serde(skip_serializing_if = "is_zero")]
    more_tags: u64,
    rows: Option<u64>,
    rows_sent: u64,
    copies: Vec<Copied>,
    error: Option<ErrorShown<'a>>,
    transaction: Option<&'static str>,
}

fn is_false(flag: &bool) -> bool {
    !*flag
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[derive(Serialize)]
struct Copied {
    direction: &'static str,
    bytes_from_client: u64,
    bytes_from_server: u64,
}

impl<'a> From<&'a Statement> for Rendered<'a> {
    fn from(statement: &'a Statement) -> Self {
        let (author, finished) = (&statement.author, &statement.finished);
        let outcome = &finished.outcome;
        let is_full = author.redaction == Redaction::Full;
        let since_start = |end: Instant| {
            let elapsed = end.saturating_duration_since(finished.started);
            u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)
        };
        let was_answered = !matches!(outcome.verdict, Verdict::NotRun | Verdict::Unanswered);
        Self {
            signature: author.signature(statement.seq),
            asked: Asked::by(statement),
            started: statement.started,
            duration_us: was_answered.then(|| since_start(finished.completed)),
            ready_us: finished.ready.map(since_start),
            outcome: verdict_name(outcome.verdict),
            malformed: finished.malformed,
            tags: outcome
                .tags
                .iter()
                .map(|tag| shown_tag(tag, is_full))
                .collect(),
            more_tags: outcome.more_tags,
            rows: affected(outcome),
            rows_sent: outcome.rows,
            copies: outcome
                .copies
                .iter()
                .map(|copied| Copied {
                    direction: direction_name(copied.direction),
                    bytes_from_client: copied.bytes_from_client,
                    bytes_from_server: copied.bytes_from_server,
                })
                .collect(),
            error: outcome
                .error
                .as_ref()
                .map(|error| ErrorShown::of(error, author, statement.sql())),
            transaction: finished.transaction.map(transaction_name),
        }
    }
}

fn verdict_name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Completed => "completed",
        Verdict::Suspended => "suspended",
        Verdict::Empty => "empty",
        Verdict::Failed => "failed",
        Verdict::NotRun => "not_run",
        Verdict::Unanswered => "unanswered",
    }
}

fn direction_name(direction: CopyDirection) -> &'static str {
    match direction {
        CopyDirection::In => "in",
        CopyDirection::Out => "out",
        CopyDirection::Both => "both",
    }
}

fn transaction_name(status: TransactionStatus) -> &'static str {
    match status {
        TransactionStatus::Idle => "idle",
        TransactionStatus::InTransaction => "in_transaction",
        TransactionStatus::Failed => "failed",
    }
}

/// A command tag. Only what looks like one is shown beside redacted text.
fn shown_tag(tag: &[u8], is_full: bool) -> Cow<'_, str> {
    let is_plain = tag.len() <= MAX_TAG_BYTES
        && tag.iter().all(|byte| {
            byte.is_ascii_uppercase() || byte.is_ascii_digit() || matches!(byte, b' ' | b'_')
        });
    if is_plain || is_full {
        as_printable(tag)
    } else {
        Cow::Borrowed(NO_TAG)
    }
}

/// The sum of what the command tags say, also those that are not kept. None where none does.
fn affected(outcome: &Outcome) -> Option<u64> {
    let kept = outcome.tags.iter().filter_map(|tag| affected_rows(tag));
    kept.chain(outcome.more_affected)
        .reduce(u64::saturating_add)
}

#[cfg(test)]
mod tests;
