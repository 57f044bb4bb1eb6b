//! The record of one connection while it lives.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use uuid::Uuid;

use super::observation::Observation;
use super::queue::ClosingPlace;
use super::record::statement::Author;
use super::record::tls::{ClientLeg, ServerLeg};
use super::record::{Body, CloseReason, Kind, Login, Mode, Party, Record, Session, Startup};
use super::tally::{Coverage, Tally};
use super::{Audit, AuditLimits};
use crate::config::{AuditLevel, AuditScope};
use crate::destination::Destination;
use crate::identify::Identity;
use crate::policy::Ruling;
use crate::relay::Relayed;
use crate::wire::negotiation::Encryption;

/// Writes a connection's closing record when dropped, however the connection's task ends.
pub struct SessionGuard {
    /// Where the closing record goes; its place in the queue was taken when the connection was accepted.
    place: Option<ClosingPlace>,
    session: Box<Session>,
    since: Instant,
}

impl SessionGuard {
    /// Opens the record of a connection from `client`, to be closed in `place`.
    pub fn open(place: ClosingPlace, client: Option<SocketAddr>) -> Self {
        let started = Timestamp::now();
        Self {
            place: Some(place),
            since: Instant::now(),
            session: Box::new(Session {
                party: Party {
                    session: Uuid::now_v7(),
                    client: client.map(Into::into),
                    destination: None,
                    origin: None,
                },
                started,
                duration_ms: 0,
                mode: Mode::Relay,
                kind: Kind::None,
                startup: None,
                encryption: Encryption::None,
                cancels: None,
                policy: None,
                tls: None,
                login: Login::default(),
                statements: Tally::default(),
                bytes_to_server: 0,
                bytes_to_client: 0,
                close: CloseReason::InternalError,
            }),
        }
    }

    /// The session's id.
    pub fn id(&self) -> Uuid {
        self.session.party.session
    }

    /// Adds who is connecting and where to.
    pub fn identified(&mut self, origin: Arc<Identity>, destination: &Destination) {
        self.session.party.origin = Some(origin);
        self.session.party.destination = Some(destination.into());
    }

    /// The opening record, with what is known by now.
    pub fn start_record(&self) -> Record {
        Record::now(Body::SessionStart(Box::new(self.session.party.clone())))
    }

    /// Adds what the client wants.
    pub fn opened(&mut self, kind: Kind, startup: Option<Startup>, encryption: Encryption) {
        self.session.kind = kind;
        self.session.startup = startup;
        self.session.encryption = encryption;
    }

    /// Adds whose queries the request cancels.
    pub fn cancels(&mut self, session: Uuid) {
        self.session.cancels = Some(session);
    }

    /// Adds what the policies said.
    pub fn ruled(&mut self, ruling: &Ruling) {
        self.session.policy = Some(Box::new(ruling.clone()));
    }

    /// Adds how the client's leg is encrypted, or was to be where there is nothing else to tell. Returns what is known: one
    /// that does not ask now may have asked before.
    pub fn encrypted(&mut self, encryption: Encryption) -> Encryption {
        if encryption != Encryption::None {
            self.session.encryption = encryption;
        }
        self.session.encryption
    }

    /// Adds that TLS ends here, and what it is with the client.
    pub fn terminated(&mut self, client: Option<ClientLeg>) {
        self.session.tls.get_or_insert_default().client = client;
    }

    /// Adds what the leg with the server is, where TLS ends here.
    pub fn spoke_to_server(&mut self, server: ServerLeg) {
        self.session.tls.get_or_insert_default().server = Some(server);
    }

    /// Adds how the login went.
    pub fn login(&mut self, login: Login) {
        self.session.login = login;
    }

    /// Begins to watch what `scope` asks for; `readable` says whether what follows the opening can be read.
    pub fn observe(
        &mut self,
        audit: &Audit,
        scope: AuditScope,
        limits: AuditLimits,
        readable: bool,
    ) -> Observation {
        let is_session = matches!(self.session.kind, Kind::Session | Kind::Replication);
        let coverage = match (scope.level, readable) {
            (AuditLevel::Sessions, _) => Coverage::None,
            (AuditLevel::Statements, _) if self.session.kind == Kind::Cancel => Coverage::None,
            (AuditLevel::Statements, false) => Coverage::HiddenByEncryption,
            (AuditLevel::Statements, true) if is_session => Coverage::Statements,
            (AuditLevel::Statements, true) => Coverage::UnknownProtocol,
        };
        self.session.statements = Tally::of(coverage);
        if coverage == Coverage::Statements {
            Observation::of_statements(audit, self.author(scope), scope, limits)
        } else if readable {
            Observation::of_login()
        } else {
            Observation::hidden()
        }
    }

    /// What the records of the session's statements say of it.
    fn author(&self, scope: AuditScope) -> Author {
        let party = &self.session.party;
        let startup = self.session.startup.as_ref();
        let (user, database) = startup.map_or((None, None), Startup::role);
        Author {
            session: party.session,
            process: party.origin.as_deref().map(Into::into),
            user: user.map(str::to_owned),
            database: database.map(str::to_owned),
            redaction: scope.redaction,
            counts: Arc::clone(self.session.statements.counts()),
        }
    }

    /// Adds bytes delivered: to the server, to the client.
    pub fn delivered(&mut self, (to_server, to_client): (u64, u64)) {
        self.session.bytes_to_server += to_server;
        self.session.bytes_to_client += to_client;
    }

    /// Closes the record of a connection that was relayed.
    pub fn relayed(mut self, relayed: &Relayed) {
        self.delivered((relayed.to_server, relayed.to_client));
        self.close(relayed.ended_by.into());
    }

    /// Closes the record with a reason.
    pub fn close(mut self, reason: CloseReason) {
        self.session.close = reason;
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        self.session.duration_ms =
            u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        if let Some(place) = self.place.take() {
            place.send(Record::now(Body::Session(self.session.clone())));
        }
    }
}
