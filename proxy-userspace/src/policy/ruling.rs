//! What the policies said to a question, as records and `explain` tell it, and a denial in words.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::obligations::Obligations;
use super::policies::Verdict;
use super::question::{Action, Question};
use crate::config::TlsMode;
use crate::wire::error_response::{FatalError, SqlState};

/// What becomes of a denial.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum PolicyMode {
    /// Denials are recorded, and everything is permitted.
    #[default]
    Observe,
    /// Denials are carried out.
    Enforce,
}

/// A decision, as records and `explain` tell it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ruling {
    /// Whether a denial was carried out.
    pub mode: PolicyMode,
    /// What was asked for.
    pub action: Action,
    /// The database that was asked about; none where it was the server.
    pub database: Option<String>,
    /// What the policies say.
    pub decision: Decision,
    /// The policies that decided; empty where none had anything to say, which is a denial.
    pub policies: Vec<String>,
    /// What a denied client is told in the policies' words.
    pub message: Option<String>,
    /// Why it is a denial although the policies say yes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// What went wrong; then it is a denial whatever the policies say.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
    /// What the deciding policies ask for besides.
    pub obligations: Obligations,
    /// Which policies these were: the beginning of their SHA-256.
    pub revision: String,
}

/// What policies say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// Yes.
    Allow,
    /// No.
    Deny,
}

impl fmt::Display for Decision {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        })
    }
}

/// Why it is a denial although the policies say yes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// They want TLS to end at pgusher, and it passes through.
    CannotTerminate,
    /// They forbid it to groups of these kinds, and nobody could establish whether the process is in one.
    InDoubt {
        /// Entity types.
        kinds: Vec<&'static str>,
    },
    /// One of them permits no more sessions at one time.
    SessionsFull {
        /// Which.
        policy: String,
        /// How many it permits.
        most: usize,
    },
}

impl Ruling {
    pub(super) fn new(
        mode: PolicyMode,
        question: &Question,
        verdict: Verdict,
        revision: &str,
    ) -> Self {
        let ruling = Self {
            mode,
            action: question.action,
            database: question.database.clone(),
            decision: if verdict.permits {
                Decision::Allow
            } else {
                Decision::Deny
            },
            policies: verdict.policies,
            message: verdict.message,
            cause: verdict.in_doubt,
            errors: verdict.errors,
            obligations: verdict.obligations,
            revision: revision.to_owned(),
        };
        let wants_to_see = ruling.obligations.tls == Some(TlsMode::Terminate);
        let stays_hidden =
            question.tls.encryption.is_with_the_server() && !question.tls.could_end_here;
        if wants_to_see && stays_hidden {
            return ruling.denied(Some(Cause::CannotTerminate));
        }
        ruling
    }

    /// Whether the policies say yes.
    pub fn permits(&self) -> bool {
        self.decision == Decision::Allow
    }

    /// The same, as a denial.
    pub(super) fn denied(self, cause: Option<Cause>) -> Self {
        Self {
            decision: Decision::Deny,
            cause,
            obligations: Obligations::default(),
            ..self
        }
    }

    /// Whether it lets through, in its mode.
    pub(super) fn lets_through(&self) -> bool {
        self.mode == PolicyMode::Observe || self.permits()
    }
}

/// Why somebody may not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial(Arc<Ruling>);

impl Denial {
    pub(super) fn new(ruling: Arc<Ruling>) -> Self {
        Self(ruling)
    }

    /// What the policies said.
    pub fn ruling(&self) -> &Ruling {
        &self.0
    }

    /// Whether only the number of sessions stands in the way.
    pub fn is_full(&self) -> bool {
        matches!(self.0.cause, Some(Cause::SessionsFull { .. }))
    }

    /// What a client is told that has no session yet.
    pub fn error(&self) -> FatalError {
        let sqlstate = if self.is_full() {
            SqlState::TooManyConnections
        } else {
            SqlState::InvalidAuthorization
        };
        let hint = match self.0.cause {
            Some(Cause::CannotTerminate) => {
                "The operator of pgusher can give the route certificates: tls = \"by-policy\" in its [[route]]."
            }
            _ => {
                "The operator of pgusher decides who may connect to what; `pgusher explain` shows how it was decided."
            }
        };
        FatalError::new(sqlstate, self.0.to_string()).with_hint(hint)
    }

    /// What a client is told whose session ends.
    pub fn ending(&self) -> FatalError {
        let message = format!("terminating connection: {}", self.0);
        FatalError::new(SqlState::AdminShutdown, message)
            .with_hint("The policy was changed while the session was open.")
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// A denial in words.
impl fmt::Display for Ruling {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.action {
            Action::Connect => "this connection",
            Action::Replicate => "this replication connection",
            Action::Cancel => "this cancel request",
        };
        match &self.cause {
            Some(Cause::CannotTerminate) => {
                return write!(
                    out,
                    "pgusher's policy {} wants TLS to end at pgusher, and it passes through here",
                    quoted(&self.policies)
                );
            }
            Some(Cause::SessionsFull { policy, most }) => {
                return write!(
                    out,
                    "pgusher's policy \"{policy}\" permits {most} sessions at one time, and they are there"
                );
            }
            Some(Cause::InDoubt { .. }) | None => {}
        }
        if !self.errors.is_empty() {
            return write!(
                out,
                "pgusher's policy could not be evaluated, so {what} is denied"
            );
        }
        if self.policies.is_empty() {
            return write!(out, "no policy of pgusher's permits {what}");
        }
        let policies = quoted(&self.policies);
        match &self.cause {
            Some(Cause::InDoubt { kinds }) => write!(
                out,
                "pgusher's policy {policies} denies {what} by {}, which could not be established of the process",
                kinds.join(" and ").to_lowercase()
            )?,
            _ => write!(out, "pgusher's policy {policies} denies {what}")?,
        }
        match &self.message {
            Some(message) => write!(out, ": {message}"),
            None => Ok(()),
        }
    }
}

fn quoted(policies: &[String]) -> String {
    let quoted: Vec<_> = policies.iter().map(|id| format!("\"{id}\"")).collect();
    quoted.join(", ")
}
