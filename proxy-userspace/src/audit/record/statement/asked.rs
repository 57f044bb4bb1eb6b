//! What a client asked for, as it is written: the fields of a record that depend on its kind.

use std::borrow::Cow;

use serde::Serialize;

use super::Statement;
use crate::audit::record::values::Values;
use crate::audit::redaction::{self, Withheld};
use crate::wire::session::{Prepared, Subject, Target, Text};
use crate::wire::text::{as_printable, hex};

/// What the client asked for, by kind.
#[derive(Default, Serialize)]
pub(super) struct Asked<'a> {
    kind: &'static str,
    /// `Some(None)` is a text that nobody has seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    sql: Option<Option<Sql<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fingerprint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    statement: Option<Option<Cow<'a, str>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    portal: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prepared: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parse: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter_types: Option<&'a [u32]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<Values<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_rows: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    function: Option<u32>,
}

#[derive(Serialize)]
struct Sql<'a> {
    text: Option<Cow<'a, str>>,
    bytes: u64,
    truncated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    encoding: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    withheld: Option<Withheld>,
}

impl<'a> Asked<'a> {
    pub(super) fn by(statement: &'a Statement) -> Self {
        match &statement.finished.subject {
            Subject::Query { text } => Self::named("query").with_text(statement, text),
            Subject::Parse { prepared } => Self {
                statement: Some(Some(as_printable(&prepared.name))),
                parse: Some(prepared.number),
                parameter_types: Some(&prepared.parameter_types),
                ..Self::named("parse").with_text(statement, &prepared.text)
            },
            Subject::Bind {
                portal,
                statement: name,
                prepared,
                forgotten,
                parameters,
            } => Self {
                statement: Some(Some(as_printable(name))),
                portal: Some(as_printable(portal)),
                parameters: Some(Values(parameters)),
                ..Self::named("bind").with_prepared(prepared.as_deref(), *forgotten)
            },
            Subject::Describe(target) => Self::of_target("describe", target),
            Subject::Close(target) => Self::of_target("close", target),
            Subject::Execute {
                portal,
                statement: name,
                prepared,
                forgotten,
                parameters,
                max_rows,
            } => {
                let asked = Self::named("execute").with_prepared(prepared.as_deref(), *forgotten);
                let asked = match prepared {
                    Some(prepared) => asked.with_text(statement, &prepared.text),
                    None => Self {
                        sql: Some(None),
                        ..asked
                    },
                };
                Self {
                    statement: Some(name.as_ref().map(|name| as_printable(name))),
                    portal: Some(as_printable(portal)),
                    parameters: Some(Values(parameters)),
                    // A negative limit is none (src/backend/tcop/postgres.c, exec_execute_message).
                    max_rows: Some(i32::try_from(*max_rows).map_or(0, i32::unsigned_abs)),
                    ..asked
                }
            }
            Subject::FunctionCall {
                function,
                arguments,
            } => Self {
                function: Some(*function),
                parameters: Some(Values(arguments)),
                ..Self::named("function_call")
            },
            Subject::Sync => Self::named("sync"),
        }
    }

    fn named(kind: &'static str) -> Self {
        Self {
            kind,
            ..Self::default()
        }
    }

    fn of_target(kind: &'static str, target: &'a Target) -> Self {
        match target {
            Target::Statement(name) => Self {
                statement: Some(Some(as_printable(name))),
                ..Self::named(kind)
            },
            Target::Portal(name) => Self {
                portal: Some(as_printable(name)),
                ..Self::named(kind)
            },
        }
    }

    fn with_prepared(self, prepared: Option<&Prepared>, forgotten: bool) -> Self {
        Self {
            prepared: Some(match prepared {
                Some(_) => "seen",
                None if forgotten => "forgotten",
                None => "not_seen",
            }),
            parse: prepared.map(|prepared| prepared.number),
            ..self
        }
    }

    fn with_text(self, statement: &'a Statement, text: &'a Text) -> Self {
        let kept = statement.as_kept(text);
        let shown = redaction::show(kept, statement.author.redaction);
        // Of a text that is not shown as it was sent a hash would let the rest be guessed.
        let sha256 = text.sha256.as_deref();
        let sha256 = sha256.filter(|_| shown.is_as_sent);
        Self {
            sql: Some(Some(Sql {
                text: shown.text,
                bytes: text.length,
                truncated: kept.is_cut,
                sha256: sha256.map(|hash| hex(hash)),
                encoding: statement.encoding.as_ref().map(|name| as_printable(name)),
                withheld: shown.withheld,
            })),
            fingerprint: shown.fingerprint,
            ..self
        }
    }
}
