//! What an operator is told about the policies in force.

use std::fmt;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::ruling::PolicyMode;

/// What a reload came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Which policies are in force: the beginning of their SHA-256.
    pub revision: String,
    /// How many there are.
    pub policies: usize,
    /// Live sessions that were looked at again.
    pub sessions: usize,
    /// Those that are being ended.
    pub ended: usize,
    /// What is allowed and probably not meant.
    pub warnings: Vec<String>,
    /// Processes that were told to do the same with the sessions they still serve; their logs say what came of it.
    #[serde(default)]
    pub predecessors: Vec<u32>,
}

/// The policy's state, for the status document.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// Whether denials are carried out.
    pub mode: PolicyMode,
    /// Where policies are read from; none where there are none.
    pub path: Option<PathBuf>,
    /// Which policies are in force: the beginning of their SHA-256.
    pub revision: Option<String>,
    /// How many there are.
    pub policies: usize,
    /// When they were read.
    pub loaded: Option<Timestamp>,
    /// Why the last reload changed nothing.
    pub failure: Option<String>,
    /// What was denied since the start, or would have been.
    pub denied: u64,
}

impl fmt::Display for PolicyStatus {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some(path), Some(revision)) = (&self.path, &self.revision) else {
            return write!(out, "none: everything is permitted");
        };
        let (mode, denied) = match self.mode {
            PolicyMode::Observe => ("observe", "would have been denied"),
            PolicyMode::Enforce => ("enforce", "denied"),
        };
        write!(
            out,
            "{mode}: {} policies of {} (revision {revision}), {} {denied}",
            self.policies,
            path.display(),
            self.denied
        )?;
        match &self.failure {
            Some(failure) => write!(out, "\n              last reload failed: {failure}"),
            None => Ok(()),
        }
    }
}
