//! The session after its startup packet, as both sides' bytes tell it: which message is under way, what PostgreSQL made
//! of it, and what state that leaves.
//!
//! Sans-IO: chunks of either side and the time go in, [`Event`]s come out, in the order things happened. Messages are
//! read by their headers; of a body only what an event carries is kept, up to the limits in [`Capture`], so a message
//! of a gigabyte passes in constant memory. Nothing is assumed of either peer: what breaks the protocol is an
//! [`Event::Violation`], after which the machine stops looking.
//!
//! Rules: protocol documentation, "Message Flow"; src/backend/tcop/postgres.c (PostgresMain, SocketBackend).

pub mod event;

pub use event::{
    Copied, CopyDirection, Event, Finished, Outcome, Parameters, Prepared, ServerError, Subject,
    Target, Text, TransactionStatus, Verdict, Violation,
};

use std::time::Instant;

use crate::wire::login::LoginWatch;

/// How much of bodies is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capture {
    /// Bytes of one SQL text; what is longer keeps its full length and hash.
    pub text_bytes: usize,
    /// Bytes of one Bind's or FunctionCall's values; `None` keeps no value at all.
    pub parameter_bytes: Option<usize>,
}

/// Follows one session.
#[derive(Debug)]
pub struct Session {
    capture: Capture,
    login: LoginWatch,
}

impl Session {
    /// Starts behind the startup packet.
    pub fn new(capture: Capture) -> Self {
        Self {
            capture,
            login: LoginWatch::new(),
        }
    }

    /// How the login went.
    pub fn login(&self) -> &LoginWatch {
        &self.login
    }

    /// Takes the next bytes the client sent, cut anywhere.
    pub fn client_sent(&mut self, _bytes: &[u8], _now: Instant, _events: &mut dyn FnMut(Event)) {
        let _ = self.capture;
    }

    /// Takes the next bytes the server sent, cut anywhere.
    pub fn server_sent(&mut self, bytes: &[u8], _now: Instant, _events: &mut dyn FnMut(Event)) {
        self.login.observe(bytes);
    }

    /// Tells what is still without an outcome, when no more bytes will come.
    pub fn end(&mut self, _now: Instant, _events: &mut dyn FnMut(Event)) {}
}
