//! The audit trail of one instance, read from its file: what the tests believe about a connection.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::condition::{Seen, wait_until};

/// The audit file of one instance.
#[derive(Debug)]
pub struct Trail {
    path: PathBuf,
}

impl Trail {
    /// The trail in the file `path`, which need not exist yet.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every complete record so far.
    ///
    /// # Errors
    /// When a line is no JSON object of version 1.
    pub fn records(&self) -> Result<Vec<Value>> {
        let bytes = fs::read(&self.path).unwrap_or_default();
        // The writer may be in the midst of a line, and there in the midst of a character.
        let end = bytes.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
        let complete = std::str::from_utf8(bytes.get(..end).unwrap_or_default())?;
        complete.lines().map(parse).collect()
    }

    /// The records of closed sessions so far.
    ///
    /// # Errors
    /// As [`Trail::records`].
    pub fn sessions(&self) -> Result<Vec<Value>> {
        Ok(self
            .records()?
            .into_iter()
            .filter(|record| record["type"] == "session")
            .collect())
    }

    /// The records between the beginning and the end of the only session that closes in a test with one, in order.
    ///
    /// # Errors
    /// As [`Trail::only_session`].
    pub fn statements(&self) -> Result<Vec<Value>> {
        let session = self.only_session()?;
        self.statements_of(&session)
    }

    /// The numbered records of a closed session, in order.
    ///
    /// # Errors
    /// As [`Trail::records`].
    pub fn statements_of(&self, session: &Value) -> Result<Vec<Value>> {
        let mut records = self.records()?;
        records.retain(|record| {
            record["session"] == session["session"] && record.get("seq").is_some()
        });
        Ok(records)
    }

    /// Waits for the first record that satisfies `wanted`.
    ///
    /// # Errors
    /// When none comes; the message holds the trail.
    pub fn wait_for(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        wait_until(&format!("the audit trail has {what}"), || {
            let records = self.records()?;
            let found = records.iter().find(|record| wanted(record)).cloned();
            Ok(Seen::some_or(found, || tail(&records)))
        })
    }

    /// Waits for the first closed session that satisfies `wanted`.
    ///
    /// # Errors
    /// As [`Trail::wait_for`].
    pub fn wait_for_session(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        self.wait_for(what, |record| record["type"] == "session" && wanted(record))
    }

    /// Waits for `count` closed sessions and returns all there are.
    ///
    /// # Errors
    /// When they do not come.
    pub fn wait_for_sessions(&self, count: usize) -> Result<Vec<Value>> {
        wait_until(&format!("the audit trail has {count} sessions"), || {
            let sessions = self.sessions()?;
            let seen = tail(&sessions);
            Ok(Seen::some_or(
                (sessions.len() >= count).then_some(sessions),
                || seen,
            ))
        })
    }

    /// Waits for the only session that closes in a test with one.
    ///
    /// # Errors
    /// When none or more come.
    pub fn only_session(&self) -> Result<Value> {
        let mut sessions = self.wait_for_sessions(1)?;
        ensure!(
            sessions.len() == 1,
            "more than one session: {}",
            tail(&sessions)
        );
        sessions.pop().context("no session")
    }
}

/// The last records of a trail as text, for failure messages.
#[must_use]
pub fn tail(records: &[Value]) -> String {
    let begin = records.len().saturating_sub(6);
    let lines: Vec<String> = records.iter().skip(begin).map(Value::to_string).collect();
    format!(
        "{} records, the last ones:\n{}",
        records.len(),
        lines.join("\n")
    )
}

fn parse(line: &str) -> Result<Value> {
    let record: Value = serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))?;
    ensure!(
        record.get("v").is_some_and(|version| *version == 1),
        "a record without version 1: {line}"
    );
    Ok(record)
}
