//! Records of what disturbs a session: a peer that broke the protocol, after which its statements are not recorded,
//! and an error of the server's that answers no statement.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::statement::{Author, Signature};
use crate::audit::redaction::{self, SqlText};
use crate::config::Redaction;
use crate::wire::session::{ServerError, Violation};
use crate::wire::text::as_printable;

/// What stands in a record for a message that may hold a secret.
const REDACTED: &str = "[redacted]";

/// A disturbance, with its number among the session's records.
#[derive(Clone, Debug)]
pub struct Disruption<What> {
    author: Arc<Author>,
    seq: u64,
    what: What,
}

impl<What> Disruption<What> {
    /// Numbers the record.
    pub(in crate::audit) fn new(author: &Arc<Author>, what: What) -> Self {
        Self {
            author: Arc::clone(author),
            seq: author.counts.make(),
            what,
        }
    }

    pub(in crate::audit) fn author(&self) -> &Author {
        &self.author
    }

    fn rendered<'a, Shown>(&'a self, what: Shown) -> Rendered<'a, Shown> {
        Rendered {
            signature: self.author.signature(self.seq),
            what,
        }
    }
}

impl Serialize for Disruption<Violation> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (side, rule) = name(self.what);
        self.rendered(Broken {
            side,
            rule,
            message: self.what.to_string(),
        })
        .serialize(serializer)
    }
}

impl Serialize for Disruption<ServerError> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let error = ErrorShown::of(&self.what, &self.author, None);
        self.rendered(Failed { error }).serialize(serializer)
    }
}

#[derive(Serialize)]
struct Rendered<'a, Shown> {
    #[serde(flatten)]
    signature: Signature<'a>,
    #[serde(flatten)]
    what: Shown,
}

#[derive(Serialize)]
struct Broken {
    side: &'static str,
    rule: &'static str,
    message: String,
}

#[derive(Serialize)]
struct Failed<'a> {
    error: ErrorShown<'a>,
}

/// A server's error as it is written.
#[derive(Serialize)]
pub(super) struct ErrorShown<'a> {
    severity: Cow<'a, str>,
    sqlstate: &'a Option<String>,
    /// Left out where it could tell what redaction took out: it may quote literals.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Cow<'a, str>>,
}

impl<'a> ErrorShown<'a> {
    /// As the session's redaction lets it be written; `text` is that of the statement that failed, if there is one.
    pub(super) fn of(error: &'a ServerError, author: &Author, text: Option<SqlText<'_>>) -> Self {
        let message = || {
            if redaction::error_may_hold_secret(&error.message, text) {
                Cow::Borrowed(REDACTED)
            } else {
                redaction::readable(&error.message, true)
            }
        };
        Self {
            severity: as_printable(&error.severity),
            sqlstate: &error.sqlstate,
            message: (author.redaction == Redaction::Full).then(message),
        }
    }
}

/// Who broke the rule, and the rule's name in records.
fn name(violation: Violation) -> (&'static str, &'static str) {
    match violation {
        Violation::FrontendType(_) => ("client", "unknown_type"),
        Violation::FrontendLength { .. } => ("client", "length"),
        Violation::BackendType(_) => ("server", "unknown_type"),
        Violation::BackendLength { .. } => ("server", "length"),
        Violation::BackendOutOfTurn(_) => ("server", "out_of_turn"),
        Violation::TooManyPending => ("client", "too_many_pending"),
    }
}
