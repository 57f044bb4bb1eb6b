//! The values that a decision comes to. Their fields are private to this stage: dialling asks for a [`Clearance`], a
//! session for a [`Permit`], and nobody else can make either.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::enforcer::Registration;
use super::obligations::Obligations;
use super::policies::Verdict;
use super::question::Action;
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
    /// What the policies say.
    pub decision: Decision,
    /// The policies that decided; empty where none had anything to say, which is a denial.
    pub policies: Vec<String>,
    /// What a denied client is told in the policies' words.
    pub message: Option<String>,
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

impl Ruling {
    pub(super) fn new(mode: PolicyMode, action: Action, verdict: Verdict, revision: &str) -> Self {
        Self {
            mode,
            action,
            decision: if verdict.permits {
                Decision::Allow
            } else {
                Decision::Deny
            },
            policies: verdict.policies,
            message: verdict.message,
            errors: verdict.errors,
            obligations: verdict.obligations,
            revision: revision.to_owned(),
        }
    }

    /// Whether the policies say yes.
    pub fn permits(&self) -> bool {
        self.decision == Decision::Allow
    }

    /// The same, as a denial.
    pub(super) fn denied(self) -> Self {
        Self {
            decision: Decision::Deny,
            obligations: Obligations::default(),
            ..self
        }
    }

    /// Whether it lets through, in its mode.
    pub(super) fn lets_through(&self) -> bool {
        self.mode == PolicyMode::Observe || self.permits()
    }
}

/// Leave to connect to one server.
#[derive(Debug)]
pub struct Clearance {
    destination: SocketAddr,
}

impl Clearance {
    pub(super) fn new(destination: SocketAddr) -> Self {
        Self { destination }
    }

    /// Where it lets go.
    pub fn destination(&self) -> SocketAddr {
        self.destination
    }
}

/// Leave to have a session, or to cancel what one runs, for as long as it is held.
#[derive(Debug)]
pub struct Permit {
    clearance: Clearance,
    ruling: Option<Arc<Ruling>>,
    registration: Option<Registration>,
}

impl Permit {
    pub(super) fn new(
        destination: SocketAddr,
        ruling: Option<Arc<Ruling>>,
        registration: Option<Registration>,
    ) -> Self {
        Self {
            clearance: Clearance::new(destination),
            ruling,
            registration,
        }
    }

    /// Leave to dial.
    pub fn clearance(&self) -> &Clearance {
        &self.clearance
    }

    /// The same, for a session whose TLS does not end at pgusher.
    ///
    /// # Errors
    /// [`Denial::CannotTerminate`], in enforce mode, where the policies want it to.
    pub fn in_passing(self) -> Result<Self, Denial> {
        match &self.ruling {
            Some(ruling)
                if ruling.mode == PolicyMode::Enforce
                    && ruling.obligations.tls == Some(TlsMode::Terminate) =>
            {
                Err(Denial::CannotTerminate(Arc::new(
                    Ruling::clone(ruling).denied(),
                )))
            }
            _ => Ok(self),
        }
    }

    /// What the policies said; none where there are no policies.
    pub fn ruling(&self) -> Option<&Arc<Ruling>> {
        self.ruling.as_ref()
    }

    /// What else they ask for.
    pub fn obligations(&self) -> Obligations {
        let ruling = self.ruling.as_ref();
        ruling
            .map(|ruling| ruling.obligations.clone())
            .unwrap_or_default()
    }

    /// Whether it may be taken back while the session lives.
    pub fn is_revocable(&self) -> bool {
        let ruling = self.ruling.as_ref();
        ruling.is_some_and(|ruling| ruling.mode == PolicyMode::Enforce)
    }

    /// Cancelled when it is taken back, which may be never.
    pub fn revocation(&self) -> &CancellationToken {
        match &self.registration {
            Some(registration) => registration.revocation(),
            None => &NEVER,
        }
    }

    /// Why it was taken back.
    pub fn denial(&self) -> Option<&Denial> {
        self.registration.as_ref().and_then(Registration::denial)
    }
}

/// The revocation of what cannot be revoked.
static NEVER: LazyLock<CancellationToken> = LazyLock::new(CancellationToken::new);

/// Leave for the unit tests of the stages behind this one.
#[cfg(test)]
pub(crate) fn tests_clearance(destination: SocketAddr) -> Clearance {
    Clearance::new(destination)
}

/// Why somebody may not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denial {
    /// The policies say so.
    Policy(Arc<Ruling>),
    /// A policy permits no more sessions at one time.
    Full {
        /// What the policies said.
        ruling: Arc<Ruling>,
        /// Which of them.
        policy: String,
        /// How many it permits.
        most: usize,
    },
    /// The route cannot do what the policies ask for.
    CannotTerminate(Arc<Ruling>),
}

impl Denial {
    /// What the policies said.
    pub fn ruling(&self) -> &Arc<Ruling> {
        match self {
            Self::Policy(ruling) | Self::Full { ruling, .. } | Self::CannotTerminate(ruling) => {
                ruling
            }
        }
    }

    /// What a client is told that has no session yet.
    pub fn error(&self) -> FatalError {
        match self {
            Self::Policy(_) => FatalError::new(SqlState::InvalidAuthorization, self.to_string())
                .with_hint(hint()),
            Self::Full { .. } => FatalError::new(SqlState::TooManyConnections, self.to_string())
                .with_hint(hint()),
            Self::CannotTerminate(_) => {
                FatalError::new(SqlState::InvalidAuthorization, self.to_string()).with_hint(
                    "The operator of pgusher can give the route certificates: tls = \"by-policy\" in its [[route]].",
                )
            }
        }
    }

    /// What a client is told whose session ends.
    pub fn ending(&self) -> FatalError {
        let message = format!("terminating connection: {self}");
        FatalError::new(SqlState::AdminShutdown, message)
            .with_hint("The policy was changed while the session was open.")
    }
}

fn hint() -> &'static str {
    "The operator of pgusher decides who may connect to what; `pgusher explain` shows how it was decided."
}

impl fmt::Display for Denial {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy(ruling) => ruling.fmt(out),
            Self::Full { policy, most, .. } => write!(
                out,
                "pgusher's policy \"{policy}\" permits {most} sessions at one time, and they are there"
            ),
            Self::CannotTerminate(ruling) => write!(
                out,
                "pgusher's policy {} wants TLS to end at pgusher, and there is no certificate for this server",
                quoted(&ruling.policies)
            ),
        }
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
        if !self.errors.is_empty() {
            return write!(
                out,
                "pgusher's policy could not be evaluated, so {what} is denied"
            );
        }
        if self.policies.is_empty() {
            return write!(out, "no policy of pgusher's permits {what}");
        }
        write!(
            out,
            "pgusher's policy {} denies {what}",
            quoted(&self.policies)
        )?;
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
