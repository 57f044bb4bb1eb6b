//! What the server itself logged of its sessions: every statement it began, every error it reported.
//!
//! Sessions of [`LOGGED_ROLE`] run with `log_statement = all`; the log is JSON, one object a line. What PostgreSQL
//! writes there (src/backend/tcop/postgres.c, src/backend/tcop/fastpath.c):
//!
//! - a Query once its text has been parsed, whole, before anything in it runs; a text with a syntax error never is;
//! - an Execute before its portal runs, with the statement's text, as `fetch` where the portal has run before;
//!   an Execute of an empty statement or of a portal that does not exist never is;
//! - a FunctionCall once its function has been found;
//! - an error with the text it is about, if the message had one; nothing else of Parse, Bind, Describe and Close.
//!
//! This module reads that. What a client sent, and what pgusher made of it, is not its business.

use std::collections::HashSet;
use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::condition::{Seen, wait_until};
use crate::process::run;

pub use crate::cluster::LOGGED_ROLE;

/// What `log_connections` writes before the application's name.
const AUTHORIZED: &str = "connection authorized: ";
/// What `log_disconnections` writes when a session is over.
const DISCONNECTED: &str = "disconnection: ";

/// One session as the server logged it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedSession {
    /// The server process.
    pub pid: u64,
    /// What happened, in order.
    pub entries: Vec<Entry>,
}

/// Something that happened in a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The server began to run something.
    Began(Begun),
    /// The server reported an error.
    Failed(Failure),
}

/// What the server began to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begun {
    /// By which message.
    pub by: By,
    /// The SQL text; empty for a function.
    pub text: String,
    /// The parameters as text, where there are any; `None` is NULL.
    pub parameters: Vec<Option<String>>,
}

/// The message that made the server run something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// Query.
    Query,
    /// Execute.
    Execute {
        /// The prepared statement's name; empty is the unnamed one.
        statement: String,
        /// The portal's name; empty is the unnamed one.
        portal: String,
        /// The portal had run before.
        again: bool,
    },
    /// FunctionCall.
    Function {
        /// The function's OID.
        oid: u32,
    },
}

/// An error the server reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The SQLSTATE.
    pub sqlstate: String,
    /// The text it is about; none where no text was being worked on.
    pub text: Option<String>,
}

/// The sessions of clients that called themselves `application`, in the order they began; waits until all have ended.
/// They have all begun by now.
///
/// # Errors
/// When there is none, one does not end, or the log has a line that is not understood.
pub fn sessions_of(cluster: &Cluster, application: &str) -> Result<Vec<LoggedSession>> {
    // One process writes for all others, in the order in which they tell it: what began before this is there with it.
    let mark = format!("{application}-mark");
    run(cluster
        .outsider("psql")?
        .env("PGAPPNAME", &mark)
        .args(["-Xc", "select 1"]))?
    .success()?;
    let mut is_marked = false;
    let lines = wait_until(
        &format!("the sessions of {application} have ended in the server's log"),
        || {
            let text = text_of(cluster)?;
            is_marked = is_marked || count_of(&lines_of(&text, &mark)?, AUTHORIZED) > 0;
            let lines = lines_of(&text, application)?;
            let (begun, ended) = (count_of(&lines, AUTHORIZED), count_of(&lines, DISCONNECTED));
            Ok(Seen::some_or(
                (is_marked && begun > 0 && begun == ended).then_some(lines),
                || format!("{begun} begun, {ended} ended, marked: {is_marked}"),
            ))
        },
    )?;
    sessions(&lines)
}

fn text_of(cluster: &Cluster) -> Result<String> {
    let path = cluster.statement_log();
    // The server may be in the midst of a character, and other clients have names that are none.
    let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The complete lines about sessions of `application`.
fn lines_of(text: &str, application: &str) -> Result<Vec<Value>> {
    let complete = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
    let mut wanted = HashSet::new();
    let mut chosen = Vec::new();
    // Only the line that authorizes a session names the application in its text; the server knows it by then.
    let mark = format!(" application_name={application}");
    for line in complete.lines() {
        let line: Value = serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))?;
        let (message, session) = (text_at(&line, "message"), text_at(&line, "session_id"));
        let names_it = || {
            let rest = message.split_once(&mark).map(|(_, rest)| rest);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
        };
        if message.starts_with(AUTHORIZED) && names_it() {
            wanted.insert(session.to_owned());
        }
        if wanted.contains(session) {
            chosen.push(line);
        }
    }
    Ok(chosen)
}

fn count_of(lines: &[Value], beginning: &str) -> usize {
    let matching = |line: &&Value| text_at(line, "message").starts_with(beginning);
    lines.iter().filter(matching).count()
}

fn text_at<'line>(line: &'line Value, key: &str) -> &'line str {
    line.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// What lines of the log tell, by server process, in the order the processes first speak.
///
/// # Errors
/// When one is not understood.
pub fn sessions(lines: &[Value]) -> Result<Vec<LoggedSession>> {
    let mut sessions: Vec<LoggedSession> = Vec::new();
    for line in lines {
        let pid = line.get("pid").and_then(Value::as_u64);
        let pid = pid.with_context(|| format!("no pid in {line}"))?;
        if !sessions.iter().any(|session| session.pid == pid) {
            let entries = Vec::new();
            sessions.push(LoggedSession { pid, entries });
        }
        let session = sessions.iter_mut().find(|session| session.pid == pid);
        session
            .context("it was just put there")?
            .entries
            .extend(entry(line)?);
    }
    Ok(sessions)
}

/// What a line tells; nothing for those about connections and settings.
fn entry(line: &Value) -> Result<Option<Entry>> {
    let message = text_at(line, "message");
    match text_at(line, "error_severity") {
        "LOG" => Ok(begun(message, text_at(line, "detail"))?.map(Entry::Began)),
        "ERROR" | "FATAL" => Ok(Some(Entry::Failed(Failure {
            sqlstate: text_at(line, "state_code").to_owned(),
            text: line
                .get("statement")
                .and_then(Value::as_str)
                .map(str::to_owned),
        }))),
        _ => Ok(None),
    }
}

fn begun(message: &str, detail: &str) -> Result<Option<Begun>> {
    let (by, text) = if let Some(text) = message.strip_prefix("statement: ") {
        (By::Query, text)
    } else if let Some(rest) = message.strip_prefix("execute fetch from ") {
        execute(rest, true)?
    } else if let Some(rest) = message.strip_prefix("execute ") {
        execute(rest, false)?
    } else if message.starts_with("fastpath function call: ") {
        (function(message)?, "")
    } else {
        return Ok(None);
    };
    Ok(Some(Begun {
        by,
        text: text.to_owned(),
        parameters: parameters(detail)?,
    }))
}

/// `STATEMENT[/PORTAL]: TEXT`; no driver of ours puts a slash or a colon into a name.
fn execute(rest: &str, again: bool) -> Result<(By, &str)> {
    let (names, text) = rest
        .split_once(": ")
        .with_context(|| format!("no text in `execute {rest}`"))?;
    let (statement, portal) = names.split_once('/').unwrap_or((names, ""));
    let statement = if statement == "<unnamed>" {
        ""
    } else {
        statement
    };
    let by = By::Execute {
        statement: statement.to_owned(),
        portal: portal.to_owned(),
        again,
    };
    Ok((by, text))
}

fn function(message: &str) -> Result<By> {
    let oid = message
        .rsplit_once("(OID ")
        .and_then(|(_, rest)| rest.strip_suffix(')'));
    let oid = oid.with_context(|| format!("no OID in {message}"))?;
    Ok(By::Function { oid: oid.parse()? })
}

/// `parameters: $1 = 'it''s', $2 = NULL`, in capitals since version 16.
fn parameters(detail: &str) -> Result<Vec<Option<String>>> {
    let list = ["parameters: ", "Parameters: "]
        .iter()
        .find_map(|prefix| detail.strip_prefix(prefix));
    let mut rest = list.unwrap_or_default();
    let mut values = Vec::new();
    while !rest.is_empty() {
        let label = format!("${} = ", values.len() + 1);
        rest = rest
            .strip_prefix(&label)
            .with_context(|| format!("no {label}in {detail}"))?;
        let (value, after) = value(rest)?;
        values.push(value);
        rest = after.strip_prefix(", ").unwrap_or(after);
    }
    Ok(values)
}

/// One value at the beginning of `rest`, and what follows it.
fn value(rest: &str) -> Result<(Option<String>, &str)> {
    if let Some(after) = rest.strip_prefix("NULL") {
        return Ok((None, after));
    }
    let quoted = rest.strip_prefix('\'');
    let mut after = quoted.with_context(|| format!("no value: {rest}"))?;
    let mut value = String::new();
    loop {
        let (part, following) = after
            .split_once('\'')
            .with_context(|| format!("a value without end: {rest}"))?;
        value.push_str(part);
        let Some(doubled) = following.strip_prefix('\'') else {
            return Ok((Some(value), following));
        };
        value.push('\'');
        after = doubled;
    }
}

/// Checks that two lists of sessions differ in nothing but the processes that served them.
///
/// # Errors
/// Names the first entry that differs.
pub fn same_entries(left: &[LoggedSession], right: &[LoggedSession]) -> Result<()> {
    ensure!(
        left.len() == right.len(),
        "{} sessions and {}",
        left.len(),
        right.len()
    );
    for (left, right) in left.iter().zip(right) {
        let pairs = left.entries.iter().zip(&right.entries);
        for (number, (left, right)) in pairs.enumerate() {
            ensure!(left == right, "entry {number} is {left:?} and {right:?}");
        }
        ensure!(
            left.entries.len() == right.entries.len(),
            "{} entries and {}: {:?}",
            left.entries.len(),
            right.entries.len(),
            (left.entries.last(), right.entries.last())
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_execute_names_its_statement_and_its_portal() -> Result<()> {
        let plain = begun("execute <unnamed>: select 1: 2", "")?.context("nothing")?;
        let named = begun("execute fetch from s65/p0: select $1", "")?.context("nothing")?;
        assert_eq!(plain.text, "select 1: 2");
        assert_eq!(
            plain.by,
            By::Execute {
                statement: String::new(),
                portal: String::new(),
                again: false
            }
        );
        assert_eq!(
            named.by,
            By::Execute {
                statement: "s65".to_owned(),
                portal: "p0".to_owned(),
                again: true
            }
        );
        Ok(())
    }

    #[test]
    fn parameters_are_read_with_their_quotes_and_nulls() -> Result<()> {
        let read = parameters("Parameters: $1 = 'it''s, $2 = ''', $2 = NULL, $3 = ''")?;
        let wanted = [Some("it's, $2 = '"), None, Some("")];
        assert_eq!(read, wanted.map(|value| value.map(str::to_owned)));
        assert!(parameters("")?.is_empty());
        assert!(parameters("prepare: prepare x as select 1")?.is_empty());
        assert!(parameters("parameters: $1 = 'open").is_err());
        Ok(())
    }

    #[test]
    fn only_lines_of_the_named_application_are_taken() -> Result<()> {
        let line = |session: &str, message: &str| {
            let line = serde_json::json!({
                "session_id": session, "pid": 7, "error_severity": "LOG", "message": message
            });
            format!("{line}\n")
        };
        let log = [
            line("a", "connection authorized: user=u application_name=tour"),
            line("b", "connection authorized: user=u application_name=tour-2"),
            line("a", "statement: select ' application_name=tour'"),
            line("b", "statement: select 2"),
            line("a", "fastpath function call: \"lo_open\" (OID 952)"),
        ];
        let incomplete = format!("{}{{\"message\"", log.concat());
        let lines = lines_of(&incomplete, "tour")?;
        let entries = sessions(&lines)?.remove(0).entries;
        let begun = |by, text: &str| {
            Entry::Began(Begun {
                by,
                text: text.to_owned(),
                parameters: Vec::new(),
            })
        };
        assert_eq!(
            entries,
            [
                begun(By::Query, "select ' application_name=tour'"),
                begun(By::Function { oid: 952 }, "")
            ]
        );
        Ok(())
    }
}
