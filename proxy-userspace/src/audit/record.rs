//! The records, field by field as docs/audit.md describes them. Changing the meaning of a field means a new version.

mod coverage;
pub mod disruption;
pub mod statement;
pub mod tls;
mod values;

use std::net::SocketAddr;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use uuid::Uuid;

use super::tally::{Counts, Tally};
use crate::destination::Destination;
use crate::identify::{Grade, Identity};
use crate::policy::{Ruling, StartupFacts};
use crate::relay::EndedBy;
use crate::wire::login::{LoginOutcome, LoginWatch, Method};
use crate::wire::negotiation::Encryption;
use crate::wire::opening::StartupMessage;
use crate::wire::session::{ServerError, Violation};
pub use coverage::CoverageReport;
use disruption::Disruption;
use statement::Statement;

/// The schema's version, in every record.
const SCHEMA_VERSION: u32 = 1;

/// One audit record.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    v: u32,
    time: Timestamp,
    #[serde(flatten)]
    body: Body,
}

/// What a record is about.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Body {
    /// A connection was accepted and its process identified.
    SessionStart(Box<Party>),
    /// A connection ended.
    Session(Box<Session>),
    /// A message of a client's has its outcome.
    Statement(Box<Statement>),
    /// A peer broke the protocol.
    ProtocolViolation(Box<Disruption<Violation>>),
    /// The server reported an error that answers no statement.
    ServerError(Box<Disruption<ServerError>>),
    /// Records were lost before this one.
    Gap {
        /// How many.
        dropped: u64,
    },
    /// What interception does not reach, at start-up.
    Coverage(Box<CoverageReport>),
    /// Nobody served for a while before this start, and connects were refused.
    Outage {
        /// How many.
        refused: u64,
    },
}

impl Record {
    /// Makes a record of this moment.
    pub fn now(body: Body) -> Self {
        Self::made_at(Timestamp::now(), body)
    }

    /// Makes a record of another moment.
    pub(super) fn made_at(time: Timestamp, body: Body) -> Self {
        Self {
            v: SCHEMA_VERSION,
            time,
            body,
        }
    }

    /// How many bytes it keeps in memory, about, where it is a statement's; others are bounded by their number.
    pub(super) fn weight(&self) -> usize {
        match &self.body {
            Body::Statement(statement) => statement.weight(),
            _ => 0,
        }
    }

    /// Whether it tells of lost records.
    pub(super) fn is_gap(&self) -> bool {
        matches!(self.body, Body::Gap { .. })
    }

    /// Where its loss is counted, besides the trail's own count.
    pub(super) fn counts(&self) -> Option<&Counts> {
        match &self.body {
            Body::Statement(statement) => Some(&statement.author().counts),
            Body::ProtocolViolation(violation) => Some(&violation.author().counts),
            Body::ServerError(error) => Some(&error.author().counts),
            _ => None,
        }
    }
}

/// Who is connected to what.
#[derive(Clone, Debug, Serialize)]
pub struct Party {
    /// The session's id, the same in all its records.
    pub session: Uuid,
    /// The client's address, as its connection to our listener shows it; a unix socket has none.
    pub client: Option<Address>,
    /// Where the application wanted to go; none when nobody knows.
    pub destination: Option<Address>,
    /// The process that connected; none when nobody knows.
    pub origin: Option<Arc<Identity>>,
}

/// A session from accept to close.
#[derive(Clone, Debug, Serialize)]
pub struct Session {
    /// Who was connected to what.
    #[serde(flatten)]
    pub party: Party,
    /// When the connection was accepted.
    pub started: Timestamp,
    /// From accept to close.
    pub duration_ms: u64,
    /// Which of pgusher's modes applied.
    pub mode: Mode,
    /// What the client wanted.
    pub kind: Kind,
    /// What the client's startup packet said, where it could be read.
    pub startup: Option<Startup>,
    /// How the session was encrypted.
    pub encryption: Encryption,
    /// The session that a cancel request is aimed at; none where nobody knows.
    pub cancels: Option<Uuid>,
    /// What the policies said last; none where there are none, or they were not asked.
    pub policy: Option<Box<Ruling>>,
    /// TLS that ended at pgusher; none where none did.
    pub tls: Option<Box<tls::Tls>>,
    /// How the server answered the login.
    pub login: Login,
    /// What was recorded of its statements.
    pub statements: Tally,
    /// Bytes delivered to the server.
    pub bytes_to_server: u64,
    /// Bytes delivered to the client.
    pub bytes_to_client: u64,
    /// Why it ended.
    pub close: CloseReason,
}

/// An address, or the path of a unix socket, and port.
#[derive(Clone, Debug, Serialize)]
pub struct Address {
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<std::net::IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    port: u16,
}

impl From<&Destination> for Address {
    fn from(destination: &Destination) -> Self {
        match destination {
            Destination::Tcp(address) => (*address).into(),
            Destination::Unix(path) => Self {
                address: None,
                path: Some(path.as_str().to_owned()),
                port: path.port(),
            },
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self {
            address: Some(address.ip().to_canonical()),
            path: None,
            port: address.port(),
        }
    }
}

/// pgusher's modes.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Bytes pass unchanged; the client authenticates to the server itself.
    Relay,
}

/// What a connection turned out to be for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Nothing readable ever came.
    #[default]
    None,
    /// A session.
    Session,
    /// A session with `replication` set.
    Replication,
    /// A cancel request.
    Cancel,
    /// Encrypted, or of a protocol not known here.
    Opaque,
}

/// A startup packet's parameters.
#[derive(Clone, Debug, Serialize)]
pub struct Startup {
    protocol: String,
    user: Option<String>,
    database: Option<String>,
    application_name: Option<String>,
    parameters: Vec<(String, String)>,
    grade: Grade,
}

impl Startup {
    /// The user and the database, as the server looks them up.
    pub(super) fn role(&self) -> (Option<&str>, Option<&str>) {
        (self.user.as_deref(), self.database.as_deref())
    }
}

impl From<&StartupMessage> for Startup {
    fn from(message: &StartupMessage) -> Self {
        let facts = StartupFacts::from(message);
        Self {
            application_name: facts.last("application_name").map(str::to_owned),
            protocol: facts.protocol,
            user: facts.user,
            database: facts.database,
            parameters: facts.parameters,
            grade: Grade::Claimed,
        }
    }
}

/// How a login went.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Login {
    #[serde(serialize_with = "outcome_name")]
    outcome: LoginOutcome,
    sqlstate: Option<String>,
    method: Option<&'static str>,
    backend_pid: Option<u32>,
    grade: Option<Grade>,
}

impl Login {
    /// What the server's own words came to.
    pub fn observed(watch: &LoginWatch) -> Self {
        let outcome = watch.outcome();
        let (sqlstate, is_known) = match outcome {
            LoginOutcome::Rejected { sqlstate } => (sqlstate.clone(), true),
            LoginOutcome::Accepted => (None, true),
            LoginOutcome::Unanswered | LoginOutcome::Opaque => (None, false),
        };
        Self {
            outcome: outcome.clone(),
            sqlstate,
            method: watch.method().map(Method::name),
            backend_pid: watch.backend_pid(),
            grade: is_known.then_some(Grade::Confirmed),
        }
    }
}

fn outcome_name<S: Serializer>(outcome: &LoginOutcome, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match outcome {
        LoginOutcome::Unanswered => "unanswered",
        LoginOutcome::Accepted => "accepted",
        LoginOutcome::Rejected { .. } => "rejected",
        LoginOutcome::Opaque => "opaque",
    })
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CloseReason {
    /// The client closed first.
    ClientClosed,
    /// The server closed first.
    ServerClosed,
    /// The client's connection was reset.
    ClientReset,
    /// The server's connection was reset.
    ServerReset,
    /// The server had closed and the client said nothing more.
    HalfClosedTimeout,
    /// The opening took too long.
    StartupTimeout,
    /// The opening was no PostgreSQL packet.
    MalformedStartup,
    /// The client closed before its opening was complete.
    NoStartup,
    /// The client's TLS handshake with pgusher failed.
    TlsHandshakeFailed,
    /// The route admits only clients with TLS.
    TlsRequired,
    /// The client chose a channel binding that cannot succeed where TLS ends at pgusher.
    ChannelBinding,
    /// The server could not be reached.
    UpstreamUnreachable,
    /// There was no TLS to be had with the server, although the route wants it.
    UpstreamTlsFailed,
    /// The server is not who the route wants it to be.
    UpstreamNotVerified,
    /// As many sessions as allowed were there already.
    TooManySessions,
    /// pgusher had no socket left to connect to the server with.
    OutOfResources,
    /// The connection did not come through the hooks.
    NoOriginalDestination,
    /// The policies do not permit it.
    PolicyDenied,
    /// The policies do not permit it any more.
    PolicyRevoked,
    /// pgusher was told to stop.
    Shutdown,
    /// The session's task ended without a reason: a defect of pgusher's.
    InternalError,
}

impl From<EndedBy> for CloseReason {
    fn from(ended_by: EndedBy) -> Self {
        match ended_by {
            EndedBy::ClientClosed => Self::ClientClosed,
            EndedBy::ServerClosed => Self::ServerClosed,
            EndedBy::ClientReset => Self::ClientReset,
            EndedBy::ServerReset => Self::ServerReset,
            EndedBy::HalfClosedTimeout => Self::HalfClosedTimeout,
            EndedBy::Shutdown => Self::Shutdown,
            EndedBy::Revoked => Self::PolicyRevoked,
        }
    }
}
