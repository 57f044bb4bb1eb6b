//! Stage 7, audit: what happened, as typed records, one pair for every accepted connection.
//!
//! A session's closing record is written whatever happens to the session: [`SessionGuard`] writes it when dropped.
//! Records travel through a bounded queue to a thread of their own, so a slow sink holds up no byte of any session;
//! what it holds up instead is declared ([`crate::config::OverflowPolicy`]).
//! Previous stage: [`crate::relay`]. Schema: docs/audit.md.

mod guard;
mod observation;
mod outbox;
mod queue;
pub mod reading;
pub mod record;
mod redaction;
mod sink;
mod tally;
mod writer;

pub use guard::SessionGuard;
pub use observation::{AuditLimits, Observation};
pub use queue::{Audit, AuditStats, ClosingPlace};
pub use sink::{SinkError, journal_socket};
pub use tally::Coverage;
pub use writer::{Writer, start};
