//! What watches a session's bytes for the audit: its login, and where the route asks for it, its statements.

use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::outbox::Outbox;
use super::queue::Audit;
use super::record::disruption::Disruption;
use super::record::statement::{Author, Moment, Statement};
use super::record::{Body, Record};
use super::redaction::{ScanSettings, Scanning};
use crate::config::{AuditConfig, AuditScope, Redaction};
use crate::relay::{Observer, Side};
use crate::wire::login::LoginWatch;
use crate::wire::session::{Capture, Event, Session, Setting};

/// Room for events that an idle session keeps.
const STANDING_EVENTS: usize = 16;

/// How much of a statement is recorded.
#[derive(Clone, Copy, Debug)]
pub struct AuditLimits {
    /// Bytes of a SQL text.
    text_bytes: usize,
    /// Bytes of all its parameters.
    parameter_bytes: usize,
}

impl From<&AuditConfig> for AuditLimits {
    fn from(config: &AuditConfig) -> Self {
        Self {
            text_bytes: config.text_limit,
            parameter_bytes: config.parameter_limit,
        }
    }
}

/// The watch over one session.
pub enum Observation {
    /// Until the login is decided.
    Login(Box<LoginWatch>),
    /// From the startup packet to the end.
    Statements(Box<StatementWatch>),
}

/// Follows a session's statements and hands over a record of each.
pub struct StatementWatch {
    session: Session,
    recorder: Recorder,
    /// What one reading told, in order.
    events: Vec<Event>,
    /// Whoever waits for the server's answers before more of the client's can be followed.
    waiting: Option<Waker>,
}

/// Makes records of what the machine tells. It formats nothing: that is the writer's.
struct Recorder {
    author: Arc<Author>,
    settings: ScanSettings,
    outbox: Outbox,
}

impl Observation {
    /// Watches the login only.
    pub fn of_login() -> Self {
        Self::Login(Box::new(LoginWatch::new()))
    }

    /// Watches nothing: encryption hides it.
    pub fn hidden() -> Self {
        Self::Login(Box::new(LoginWatch::hidden()))
    }

    /// Watches login and statements.
    pub(super) fn of_statements(
        audit: &Audit,
        author: Author,
        scope: AuditScope,
        limits: AuditLimits,
    ) -> Self {
        let records_values = scope.parameters && scope.redaction == Redaction::Full;
        let capture = Capture {
            text_bytes: limits.text_bytes,
            parameter_bytes: records_values.then_some(limits.parameter_bytes),
        };
        Self::Statements(Box::new(StatementWatch {
            session: Session::new(capture),
            recorder: Recorder {
                author: Arc::new(author),
                settings: ScanSettings::default(),
                outbox: Outbox::new(audit.clone(), scope.overflow),
            },
            events: Vec::new(),
            waiting: None,
        }))
    }

    /// How the login went.
    pub fn login(&self) -> &LoginWatch {
        match self {
            Self::Login(watch) => watch,
            Self::Statements(watch) => watch.session.login(),
        }
    }

    /// Records what is left without an outcome, and waits until every record is queued: for as long as it takes under
    /// `block`, but not for ever once `force` is cancelled. The session's closing record comes after.
    ///
    /// # Cancel safety
    /// Cancel safe; what was not queued is counted as lost when dropped.
    pub async fn finish(&mut self, force: &CancellationToken) {
        if let Self::Statements(watch) = self {
            watch.follow(|session, events| {
                session.end(Instant::now(), &mut |event| events.push(event));
            });
            watch.recorder.outbox.empty(force).await;
        }
    }
}

impl Observer for Observation {
    fn sent(&mut self, by: Side, bytes: &[u8]) {
        match (self, by) {
            (Self::Login(watch), Side::Server) if !watch.is_done() => watch.observe(bytes),
            (Self::Login(watch), Side::Client) if !watch.is_done() => watch.observe_client(bytes),
            (Self::Login(_), _) => {}
            (Self::Statements(watch), by) => watch.follow(|session, events| {
                let mut tell = |event| events.push(event);
                match by {
                    Side::Client => session.client_sent(bytes, Instant::now(), &mut tell),
                    Side::Server => session.server_sent(bytes, Instant::now(), &mut tell),
                }
            }),
        }
    }

    fn is_indifferent(&self) -> bool {
        match self {
            Self::Login(watch) => watch.is_done(),
            Self::Statements(_) => false,
        }
    }

    fn poll_ready(&mut self, side: Side, context: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Login(_) => Poll::Ready(()),
            Self::Statements(watch) => watch.poll_ready(side, context),
        }
    }
}

impl StatementWatch {
    /// Lets the machine see something, and records what it tells.
    fn follow(&mut self, see: impl FnOnce(&mut Session, &mut Vec<Event>)) {
        see(&mut self.session, &mut self.events);
        if !self.events.is_empty() {
            self.recorder.take(&mut self.events);
            self.events.shrink_to(STANDING_EVENTS);
        }
        if !self.session.is_full()
            && let Some(waiting) = self.waiting.take()
        {
            waiting.wake();
        }
    }

    fn poll_ready(&mut self, side: Side, context: &mut Context<'_>) -> Poll<()> {
        ready!(self.recorder.outbox.poll_empty(context));
        if side == Side::Client && self.session.is_full() {
            self.waiting = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}

impl Recorder {
    /// Hands over a record of each event that is to have one.
    fn take(&mut self, events: &mut Vec<Event>) {
        // A setting is reported behind the statements of its batch, some of which it may have been in force for.
        let doubts = events.iter().filter_map(|event| match event {
            Event::Setting(setting) => ScanSettings::doubt(&setting.name, &setting.value),
            _ => None,
        });
        let doubt = doubts.max().unwrap_or(Scanning::Certain);
        let now = Moment::now();
        for event in events.drain(..) {
            if let Some(body) = self.body(event, doubt, now) {
                self.outbox.put(Record::made_at(now.time, body));
            }
        }
    }

    fn body(&mut self, event: Event, doubt: Scanning, now: Moment) -> Option<Body> {
        Some(match event {
            Event::Setting(setting) => {
                let Setting { name, value } = *setting;
                self.settings.report(&name, value, Instant::now());
                return None;
            }
            Event::Finished(finished) => {
                let encoding = self.settings.encoding(finished.started).cloned();
                let scanning = self.settings.scanning(finished.started);
                let scanning = scanning.max(doubt);
                let statement = Statement::new(&self.author, finished, encoding, scanning, now);
                Body::Statement(Box::new(statement))
            }
            Event::Unsolicited(error) => {
                Body::ServerError(Box::new(Disruption::new(&self.author, *error)))
            }
            Event::Violation(violation) => {
                self.author.counts.violate();
                Body::ProtocolViolation(Box::new(Disruption::new(&self.author, violation)))
            }
        })
    }
}

#[cfg(test)]
mod tests;
