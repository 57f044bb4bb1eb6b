//! What a deciding policy asks for besides its decision: its annotations.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use cedar_policy::{Effect, Policy};
use serde::Serialize;

use crate::config::{AuditLevel, TlsMode};

/// Annotations that mean nothing to pgusher and are for people.
const REMARKS: [&str; 3] = ["id", "doc", "description"];

/// What the deciding policies of a permit ask for, together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Obligations {
    /// What is recorded: the most that any of them asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit: Option<AuditLevel>,
    /// Where TLS is to end, if any of them asks for that: at pgusher.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsMode>,
    /// The most sessions at one time, by policy; each of them holds.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub max_sessions: BTreeMap<String, NonZeroUsize>,
}

/// The annotations of one policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Annotations {
    pub(super) audit: Option<AuditLevel>,
    pub(super) tls: Option<TlsMode>,
    pub(super) max_sessions: Option<NonZeroUsize>,
    pub(super) deny_message: Option<String>,
}

impl Annotations {
    /// Reads a policy's annotations.
    ///
    /// # Errors
    /// What is wrong with which of them, and what would be right.
    pub(super) fn of(policy: &Policy) -> Result<Self, String> {
        let mut annotations = Self::default();
        for (name, value) in policy.annotations() {
            let is_for_permits = match name {
                "audit" => {
                    annotations.audit = Some(audit(value)?);
                    true
                }
                "tls" => {
                    annotations.tls = Some(tls(value)?);
                    true
                }
                "max_sessions" => {
                    annotations.max_sessions = Some(max_sessions(value)?);
                    true
                }
                "deny_message" => {
                    annotations.deny_message = Some(deny_message(value)?);
                    false
                }
                name if REMARKS.contains(&name) => continue,
                _ => {
                    return Err(format!(
                        "@{name} is no annotation of pgusher's; it knows @id, @doc, @description, @audit, @tls, @max_sessions and @deny_message"
                    ));
                }
            };
            match (is_for_permits, policy.effect()) {
                (true, Effect::Permit) | (false, Effect::Forbid) => {}
                (true, Effect::Forbid) => {
                    return Err(format!("@{name} means nothing on a forbid"));
                }
                (false, Effect::Permit) => {
                    return Err(format!("@{name} means nothing on a permit"));
                }
            }
        }
        Ok(annotations)
    }
}

impl Obligations {
    /// Adds what one deciding policy asks for.
    pub(super) fn add(&mut self, policy: &str, annotations: &Annotations) {
        self.audit = self.audit.max(annotations.audit);
        self.tls = self.tls.or(annotations.tls);
        if let Some(most) = annotations.max_sessions {
            self.max_sessions.insert(policy.to_owned(), most);
        }
    }
}

fn audit(value: &str) -> Result<AuditLevel, String> {
    match value {
        "sessions" => Ok(AuditLevel::Sessions),
        "statements" => Ok(AuditLevel::Statements),
        _ => Err(format!(
            "@audit(\"{value}\") is none of \"sessions\", \"statements\""
        )),
    }
}

fn tls(value: &str) -> Result<TlsMode, String> {
    match value {
        "terminate" => Ok(TlsMode::Terminate),
        _ => Err(format!("@tls(\"{value}\") is not \"terminate\"")),
    }
}

fn max_sessions(value: &str) -> Result<NonZeroUsize, String> {
    value
        .parse()
        .map_err(|_| format!("@max_sessions(\"{value}\") is no number from 1 on"))
}

/// The most a client is told in a policy's words, in bytes.
const MAX_DENY_MESSAGE_BYTES: usize = 1000;

fn deny_message(value: &str) -> Result<String, String> {
    if value.is_empty() || value.len() > MAX_DENY_MESSAGE_BYTES || value.contains('\0') {
        return Err(format!(
            "@deny_message is not between 1 and {MAX_DENY_MESSAGE_BYTES} bytes without NUL"
        ));
    }
    Ok(value.to_owned())
}
