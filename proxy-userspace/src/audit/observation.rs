//! What watches a session's bytes for the audit: its login, and where the route asks for it, its statements.

use std::task::{Context, Poll};

use crate::relay::{Observer, Side};
use crate::wire::login::LoginWatch;

/// The watch over one session.
pub enum Observation {
    /// Until the login is decided.
    Login(LoginWatch),
}

impl Observation {
    /// Watches the login only.
    pub fn of_login() -> Self {
        Self::Login(LoginWatch::new())
    }

    /// Watches nothing: encryption hides it.
    pub fn hidden() -> Self {
        Self::Login(LoginWatch::hidden())
    }

    /// How the login went.
    pub fn login(&self) -> &LoginWatch {
        match self {
            Self::Login(watch) => watch,
        }
    }
}

impl Observer for Observation {
    fn sent(&mut self, by: Side, bytes: &[u8]) {
        match (self, by) {
            (Self::Login(watch), Side::Server) if !watch.is_done() => watch.observe(bytes),
            (Self::Login(watch), Side::Client) if !watch.is_done() => watch.observe_client(bytes),
            (Self::Login(_), _) => {}
        }
    }

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}
