//! What pgusher recorded of a session's statements against what the server itself logged of them: nothing may be
//! missing, nothing may be invented.
//!
//! The server logs less than there are messages, see [`pgusher_tests::statement_log`]. So each record is followed
//! through the log, in order:
//!
//! | record | in the log |
//! |---|---|
//! | `query`, `execute`, `function_call` that came to an end | it began, with that text, by that message |
//! | the same, `failed` | it may have begun; then that error, about that text |
//! | `execute` of an `empty` statement | nothing |
//! | `parse`, `bind`, `describe`, `close`, `sync` that `failed` | that error |
//! | the same, `completed` | nothing |
//! | anything that was `not_run` | nothing |
//! | anything `unanswered`: the session ended first | it may have begun, and failed |
//!
//! What is left of the log at the end is missing in the records; a record without its entry is invented.

use std::collections::HashSet;

use anyhow::{Context, Result, bail, ensure};
use pgusher_tests::statement_log::{Begun, By, Entry, Failure, LoggedSession};
use serde_json::Value;

use crate::expect::at;

/// Checks the `statement` records of one session, in the order of their numbers, against the server's log of it.
///
/// # Errors
/// Names the first record without its entry, or the entry without a record.
pub(crate) fn same_statements(records: &[&Value], logged: &LoggedSession) -> Result<()> {
    let mut log = Log {
        rest: &logged.entries,
        used_portals: HashSet::new(),
    };
    for record in records {
        let before = log.rest;
        log.follow(record).with_context(|| {
            let next = before.get(..before.len().min(2));
            format!("the record {record}; the log goes on with {next:?}")
        })?;
    }
    ensure!(
        log.rest.is_empty(),
        "no record of {:?}; the last record is {:?}",
        log.rest,
        records.last()
    );
    Ok(())
}

/// The part of a session's log that no record has been found for yet.
struct Log<'log> {
    rest: &'log [Entry],
    /// Portals that have run since they were bound.
    used_portals: HashSet<String>,
}

impl Log<'_> {
    fn follow(&mut self, record: &Value) -> Result<()> {
        let (kind, outcome) = (text_at(record, "/kind"), text_at(record, "/outcome"));
        let runs = matches!(kind, "query" | "execute" | "function_call");
        match (kind, outcome) {
            (_, "not_run") | ("execute", "empty") => Ok(()),
            ("bind", "completed") => {
                self.used_portals.remove(text_at(record, "/portal"));
                Ok(())
            }
            ("parse" | "describe" | "close", "completed") => Ok(()),
            (_, "completed" | "suspended" | "empty") if runs => {
                ensure!(self.take_begun(record)?, "the server did not begin it");
                Ok(())
            }
            (_, "failed") => {
                let has_begun = runs && self.take_begun(record)?;
                ensure!(
                    self.take_failure(record, has_begun)?,
                    "the server reported no error"
                );
                Ok(())
            }
            (_, "unanswered") => {
                let has_begun = runs && self.take_begun(record)?;
                self.take_failure(record, has_begun).map(drop)
            }
            _ => bail!("no {kind} ends as {outcome}"),
        }
    }

    /// Takes the next entry if it tells that the server began what the record tells of.
    fn take_begun(&mut self, record: &Value) -> Result<bool> {
        let Some((Entry::Began(begun), rest)) = self.rest.split_first() else {
            return Ok(false);
        };
        if !self.is_by(record, &begun.by) || !is_text(record, &begun.text)? {
            return Ok(false);
        }
        check_parameters(record, begun)?;
        if let By::Execute { portal, .. } = &begun.by {
            self.used_portals.insert(portal.clone());
        }
        self.rest = rest;
        Ok(true)
    }

    fn is_by(&self, record: &Value, by: &By) -> bool {
        match by {
            By::Query => text_at(record, "/kind") == "query",
            By::Execute {
                statement,
                portal,
                again,
            } => {
                // A portal that was not made by Bind has no statement to name: a cursor of SQL.
                let name = at(record, "/statement").as_str();
                text_at(record, "/kind") == "execute"
                    && name.is_none_or(|name| name == statement)
                    && text_at(record, "/portal") == portal
                    && (name.is_none() || self.used_portals.contains(portal) == *again)
            }
            By::Function { oid } => {
                text_at(record, "/kind") == "function_call" && *at(record, "/function") == *oid
            }
        }
    }

    /// Takes the next entry if it is the error that the record tells of.
    fn take_failure(&mut self, record: &Value, has_begun: bool) -> Result<bool> {
        let Some((Entry::Failed(failure), rest)) = self.rest.split_first() else {
            return Ok(false);
        };
        let outcome = text_at(record, "/outcome");
        let is_it =
            outcome == "unanswered" || text_at(record, "/error/sqlstate") == failure.sqlstate;
        if !is_it || !is_about(record, failure, has_begun)? {
            return Ok(false);
        }
        self.rest = rest;
        Ok(true)
    }
}

/// Whether the server's error is about the record's text. It names none where it had not read the message's text yet,
/// or never has one: a name that does not exist, bytes that are none in the client's encoding, a function, Sync.
fn is_about(record: &Value, failure: &Failure, has_begun: bool) -> Result<bool> {
    match &failure.text {
        Some(text) => is_text(record, text),
        None => Ok(!has_begun || text_at(record, "/kind") == "function_call"),
    }
}

/// Whether the record's text is what the server logged. Bind knows its statement by number only: any text will do.
fn is_text(record: &Value, logged: &str) -> Result<bool> {
    let sql = at(record, "/sql");
    if sql.is_null() {
        return Ok(text_at(record, "/kind") != "query");
    }
    let encoding = text_at(sql, "/encoding");
    let text = at(sql, "/text").as_str();
    let text = text.with_context(|| format!("no text in {record}"))?;
    let logged = as_sent(logged, encoding)?;
    Ok(if *at(sql, "/truncated") == true {
        logged.starts_with(text)
    } else {
        logged == text
    })
}

/// The server's UTF-8 as a client of `encoding` sent it, written as records write it.
fn as_sent(logged: &str, encoding: &str) -> Result<String> {
    if logged.is_ascii() {
        return Ok(logged.to_owned());
    }
    let bytes = match encoding {
        "" | "UTF8" | "SQL_ASCII" => return Ok(logged.to_owned()),
        "LATIN1" => {
            let bytes = logged.chars().map(|letter| u8::try_from(u32::from(letter)));
            bytes.collect::<Result<Vec<u8>, _>>()?
        }
        // The one character of the tours: its second byte is a backslash's.
        "SJIS" => logged
            .split('表')
            .map(str::as_bytes)
            .collect::<Vec<_>>()
            .join(&b"\x95\\"[..]),
        _ => bail!("the tours know no {encoding}"),
    };
    Ok(written(&bytes))
}

/// Bytes as records write them: `\xNN` for what is not printable, where the whole is no UTF-8.
fn written(bytes: &[u8]) -> String {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return text.to_owned();
    }
    let escape = |byte: &u8| match byte {
        b'\\' => "\\x5c".to_owned(),
        b' '..=b'~' => char::from(*byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    };
    bytes.iter().map(escape).collect()
}

/// Checks the values that came as text; what was sent as binary only the server can read.
fn check_parameters(record: &Value, begun: &Begun) -> Result<()> {
    let Some(values) = at(record, "/parameters/values").as_array() else {
        return Ok(());
    };
    if text_at(record, "/kind") != "execute" {
        return Ok(());
    }
    ensure!(
        values.len() == begun.parameters.len(),
        "{values:?} are not {:?}",
        begun.parameters
    );
    for (value, logged) in values.iter().zip(&begun.parameters) {
        let is_same = match value {
            Value::Null => logged.is_none(),
            Value::String(text) => logged.as_ref() == Some(text),
            _ => logged.is_some(),
        };
        ensure!(is_same, "{value} is not {logged:?}");
    }
    Ok(())
}

fn text_at<'record>(record: &'record Value, pointer: &str) -> &'record str {
    at(record, pointer).as_str().unwrap_or_default()
}

fn session(entries: &[Entry]) -> LoggedSession {
    LoggedSession {
        pid: 1,
        entries: entries.to_vec(),
    }
}

fn began(by: By, text: &str) -> Entry {
    Entry::Began(Begun {
        by,
        text: text.to_owned(),
        parameters: Vec::new(),
    })
}

fn failed(sqlstate: &str, text: Option<&str>) -> Entry {
    Entry::Failed(Failure {
        sqlstate: sqlstate.to_owned(),
        text: text.map(str::to_owned),
    })
}

fn query(text: &str, outcome: &str) -> Value {
    serde_json::json!({
        "kind": "query",
        "sql": {"text": text, "encoding": "UTF8", "truncated": false},
        "outcome": outcome,
        "error": {"sqlstate": "22012"},
    })
}

#[test]
fn a_statement_missing_in_the_records_or_invented_by_them_is_found() -> Result<()> {
    let (one, two) = (
        query("select 1", "completed"),
        query("select 2", "completed"),
    );
    let log = [began(By::Query, "select 1"), began(By::Query, "select 2")];
    same_statements(&[&one, &two], &session(&log))?;
    for wrong in [
        vec![&one],
        vec![&two],
        vec![&two, &one],
        vec![&one, &two, &two],
    ] {
        ensure!(
            same_statements(&wrong, &session(&log)).is_err(),
            "{wrong:?} passed"
        );
    }
    Ok(())
}

#[test]
fn a_failure_needs_its_error_and_an_error_its_failure() -> Result<()> {
    let (bad, skipped) = (query("select 1/0", "failed"), query("select 3", "not_run"));
    let log = [
        began(By::Query, "select 1/0"),
        failed("22012", Some("select 1/0")),
    ];
    same_statements(&[&bad, &skipped], &session(&log))?;
    // A text that could not be parsed never begins.
    same_statements(&[&bad], &session(&[failed("22012", Some("select 1/0"))]))?;
    let completed = query("select 1/0", "completed");
    ensure!(same_statements(&[&completed], &session(&log)).is_err());
    for wrong in [
        failed("22013", Some("select 1/0")),
        failed("22012", Some("select 2/0")),
        began(By::Query, "select 1/0"),
    ] {
        ensure!(
            same_statements(&[&bad], &session(std::slice::from_ref(&wrong))).is_err(),
            "{wrong:?} passed"
        );
    }
    Ok(())
}

#[test]
fn texts_are_compared_in_the_clients_encoding() -> Result<()> {
    for (encoding, wanted) in [
        ("UTF8", "select 'ü表'"),
        ("SJIS", "select '\\x95\\x5c'"),
        ("LATIN1", "select '\\xfc'"),
    ] {
        let logged = match encoding {
            "UTF8" => wanted,
            "SJIS" => "select '表'",
            _ => "select 'ü'",
        };
        let found = as_sent(logged, encoding)?;
        ensure!(found == wanted, "{found} in {encoding}");
    }
    Ok(())
}
