//! Session records read back from an audit trail: as much of each as policies are about.

use std::io::{BufRead, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use jiff::Timestamp;
use serde::Deserialize;
use uuid::Uuid;

use crate::destination::{Destination, SocketPath};
use crate::identify::Identity;
use crate::policy::{
    Action, CancelFacts, Decision, OWN_CANCEL, Question, StartupFacts, Subject, TlsFacts,
};
use crate::tls::ClientCertificate;
use crate::wire::negotiation::Encryption;

/// The longest line taken for a record; a statement's text as JSON may be six times its limit.
const MAX_LINE_BYTES: u64 = 8 * 1024 * 1024;

/// A session's closing record.
#[derive(Clone, Debug, Deserialize)]
pub struct SessionRecord {
    /// The session.
    pub session: Uuid,
    /// When it began.
    pub started: Timestamp,
    /// The process; none when nobody knows.
    pub origin: Option<Identity>,
    /// What it was for.
    pub kind: Kind,
    /// How the server answered the login.
    pub login: Login,
    destination: Option<Address>,
    startup: Option<Startup>,
    encryption: Encryption,
    tls: Option<Tls>,
    cancels: Option<Uuid>,
    policy: Option<Policy>,
}

/// What a session was for, as records name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "docs/audit.md has them")]
pub enum Kind {
    None,
    Session,
    Replication,
    Cancel,
    Opaque,
}

/// How a login went.
#[derive(Clone, Debug, Deserialize)]
pub struct Login {
    /// `accepted`, `rejected`, `unanswered` or `opaque`.
    pub outcome: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Address {
    address: Option<IpAddr>,
    path: Option<String>,
    port: u16,
}

#[derive(Clone, Debug, Deserialize)]
struct Startup {
    protocol: String,
    user: Option<String>,
    database: Option<String>,
    parameters: Vec<(String, String)>,
}

#[derive(Clone, Debug, Deserialize)]
struct Tls {
    client: Option<ClientLeg>,
}

#[derive(Clone, Debug, Deserialize)]
struct ClientLeg {
    sni: Option<String>,
    certificate: Option<ClientCertificate>,
}

#[derive(Clone, Debug, Deserialize)]
struct Policy {
    action: Action,
    /// None in records of before it was there.
    database: Option<String>,
    decision: Decision,
    policies: Vec<String>,
}

/// A record of another type, or of this one.
#[derive(Deserialize)]
struct Typed {
    #[serde(rename = "type")]
    kind: String,
}

/// What is wrong with a trail.
#[derive(Debug, thiserror::Error)]
pub enum TrailError {
    /// It cannot be read.
    #[error("line {line}: {source}")]
    Io {
        /// Which line, from 1.
        line: usize,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A line is no record.
    #[error("line {line} is no audit record: {reason}")]
    NoRecord {
        /// Which line, from 1.
        line: usize,
        /// Why.
        reason: String,
    },
}

impl SessionRecord {
    /// Where the application wanted to go.
    pub fn server(&self) -> Option<Destination> {
        let destination = self.destination.as_ref()?;
        match (destination.address, &destination.path) {
            (Some(address), _) => Some(SocketAddr::new(address, destination.port).into()),
            (None, path) => {
                let path = SocketPath::at(path.as_deref()?, destination.port);
                Some(Destination::Unix(path))
            }
        }
    }

    /// How it was encrypted.
    pub fn encryption(&self) -> Encryption {
        self.encryption
    }

    /// Whether it was denied by the policies of its time, or would have been.
    pub fn was_denied(&self) -> bool {
        let policy = self.policy.as_ref();
        policy.is_some_and(|policy| policy.decision == Decision::Deny)
    }

    /// What was known of the session to cancel, as far as the record tells.
    fn cancel_facts(&self) -> CancelFacts {
        let known = self.cancels.is_some();
        let policies = self.policy.iter().flat_map(|policy| &policy.policies);
        let was_own = policies.into_iter().any(|policy| policy == OWN_CANCEL);
        CancelFacts {
            known,
            same_workload: known && was_own,
            may_connect: !known && was_own,
        }
    }

    /// The question that the policies were asked about it, as far as the record tells: none where it lacks process or
    /// destination. The database of a session to cancel is in that session's record.
    pub fn question(&self) -> Option<Question> {
        let identity = Arc::new(self.origin.clone()?);
        let subject = Arc::new(Subject::of(&identity));
        let client = self.tls.as_ref().and_then(|tls| tls.client.as_ref());
        let tls = TlsFacts {
            encryption: self.encryption,
            sni: client.and_then(|client| client.sni.clone()),
            certificate: client.and_then(|client| client.certificate.clone()),
            ..TlsFacts::default()
        };
        let hidden = Question::opaque(subject, self.server()?, tls);
        // Of a denied session pgusher reads more than it was asked about: it answers in the server's place.
        let policy = self.policy.as_ref();
        let was_hidden = policy
            .is_some_and(|policy| policy.action == Action::Connect && policy.database.is_none());
        Some(match (&self.startup, self.kind) {
            (Some(_), _) if was_hidden => hidden,
            (_, Kind::Cancel) => hidden.cancelling(None, self.cancel_facts()),
            (Some(startup), kind) => hidden.with_startup(
                StartupFacts {
                    protocol: startup.protocol.clone(),
                    user: startup.user.clone(),
                    database: startup.database.clone(),
                    parameters: startup.parameters.clone(),
                },
                kind == Kind::Replication,
            ),
            (None, _) => hidden,
        })
    }
}

/// Reads every session record of a trail, in order; records of other types are passed over.
///
/// # Errors
/// [`TrailError`], with the line.
pub fn sessions(
    mut trail: impl BufRead,
    mut each: impl FnMut(SessionRecord),
) -> Result<(), TrailError> {
    let mut text = Vec::new();
    for line in 1.. {
        text.clear();
        let failed = |source| TrailError::Io { line, source };
        let mut bounded = trail.by_ref().take(MAX_LINE_BYTES);
        if bounded.read_until(b'\n', &mut text).map_err(failed)? == 0 {
            break;
        }
        if text.trim_ascii().is_empty() {
            continue;
        }
        let no_record = |error: serde_json::Error| TrailError::NoRecord {
            line,
            reason: error.to_string(),
        };
        let typed: Typed = match serde_json::from_slice(&text) {
            // The last line of a trail that is being written.
            Err(error) if error.is_eof() && !text.ends_with(b"\n") => break,
            typed => typed.map_err(no_record)?,
        };
        if typed.kind == "session" {
            each(serde_json::from_slice(&text).map_err(no_record)?);
        }
    }
    Ok(())
}
