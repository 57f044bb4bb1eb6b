//! From a permit to a server that is spoken to as `server_sslmode` says, with what libpq would do to get there: which
//! attempts are made, in which order, and which failures lead to the next (`select_next_encryption_method` in
//! src/interfaces/libpq/fe-connect.c).
//!
//! An attempt is given up for the next only while nothing has been said to the server but the startup packet, and the
//! server has answered it with nothing but an error: nothing else of a login can be said twice.

use std::time::Duration;

use bytes::BytesMut;
use rustls::pki_types::CertificateDer;
use tokio::time::timeout;

use crate::config::ServerSslMode;
use crate::leg::Leg;
use crate::policy::Clearance;
use crate::route::{DialError, Router, Way};
use crate::tls::{SecureError, Secured, ServerTls};
use crate::wire::login::{LoginOutcome, LoginWatch};

/// What libpq takes for an error before authentication at most (`MAX_ERRLEN` in fe-connect.c).
const MAX_ERROR_BYTES: usize = 30_000;
const READ_BYTES: usize = 4 * 1024;
/// How long a server may take to refuse a startup packet for what pg_hba.conf says, which may have names looked up.
const REFUSAL_LIMIT: Duration = Duration::from_secs(15);
/// cannot_connect_now: libpq goes on to its next host, and so shall the client.
const NEXT_HOST: &str = "57P03";

/// A server that is ready for the client's startup packet, or has answered it.
pub(super) struct Upstream {
    pub(super) leg: Leg,
    /// The certificate it showed.
    pub(super) shown: Option<CertificateDer<'static>>,
    /// Whether it has got the startup packet.
    pub(super) started: bool,
    /// What it said since.
    pub(super) from_server: BytesMut,
}

/// Why there is none.
pub(super) enum ConnectError {
    Dial(DialError),
    Secure(SecureError),
}

/// One way of speaking to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    Plain,
    Tls,
}

/// The ways a mode allows, in order.
fn attempts(mode: ServerSslMode) -> &'static [Attempt] {
    match mode {
        ServerSslMode::Disable => &[Attempt::Plain],
        ServerSslMode::Allow => &[Attempt::Plain, Attempt::Tls],
        ServerSslMode::Prefer => &[Attempt::Tls, Attempt::Plain],
        ServerSslMode::Require | ServerSslMode::VerifyCa | ServerSslMode::VerifyFull => {
            &[Attempt::Tls]
        }
    }
}

/// What a session wants of its server.
pub(super) struct Wanted<'a> {
    pub(super) tls: &'a ServerTls,
    /// The name of the server, as the client gave it.
    pub(super) name: Option<&'a str>,
    /// The startup packet; none for a cancel request, which no server answers.
    pub(super) startup: Option<&'a [u8]>,
    /// The leave to go there, the way, and who goes it, once for each attempt.
    pub(super) clearance: &'a Clearance,
    pub(super) way: &'a Way,
    pub(super) router: &'a Router,
}

/// Connects, as often as needed.
///
/// # Errors
/// [`ConnectError`], of the last attempt.
///
/// # Cancel safety
/// Cancel safe: an unfinished connection is closed.
pub(super) async fn connect(wanted: &Wanted<'_>) -> Result<Upstream, ConnectError> {
    let mut ways = attempts(wanted.tls.mode).iter().copied().peekable();
    let mut refused: Option<Upstream> = None;
    let mut failed = ConnectError::Secure(SecureError::Gone("no attempt was made".to_owned()));
    while let Some(way) = ways.next() {
        let is_last = ways.peek().is_none();
        match attempt(wanted, way, is_last).await {
            Ok(Attempted::Ready(upstream)) => return Ok(upstream),
            Ok(Attempted::Refused(upstream)) => refused = Some(upstream),
            Err(error) => {
                let may_go_on =
                    matches!(&error, ConnectError::Secure(error) if error.is_handshake());
                failed = error;
                if !may_go_on {
                    break;
                }
            }
        }
    }
    // The server's own words say more than our lack of another way.
    refused.ok_or(failed)
}

enum Attempted {
    Ready(Upstream),
    /// It answered the startup packet with an error; there may be another way.
    Refused(Upstream),
}

async fn attempt(
    wanted: &Wanted<'_>,
    way: Attempt,
    is_last: bool,
) -> Result<Attempted, ConnectError> {
    let dialled = wanted.router.dial(wanted.clearance, wanted.way).await;
    let stream = dialled.map_err(ConnectError::Dial)?;
    let (leg, shown, is_last) = match way {
        Attempt::Plain => (stream.into(), None, is_last),
        Attempt::Tls => match wanted.tls.ask(stream, wanted.name).await {
            Ok(Secured::Tls(leg, shown)) => (leg, shown, is_last),
            // The same connection goes on in plain text: nothing else is left to try.
            Ok(Secured::Refused(stream)) if wanted.tls.mode == ServerSslMode::Prefer => {
                (stream.into(), None, true)
            }
            Ok(Secured::Refused(_)) => {
                return Err(ConnectError::Secure(SecureError::unsupported()));
            }
            Err(error) => return Err(ConnectError::Secure(error)),
        },
    };
    let mut upstream = Upstream {
        leg,
        shown,
        started: false,
        from_server: BytesMut::new(),
    };
    match wanted.startup {
        Some(startup) if !is_last => {
            // Whoever has said nothing for so long has not refused it, and may take its time.
            let is_refused = match timeout(REFUSAL_LIMIT, upstream.start(startup)).await {
                Ok(started) => started.map_err(|error| {
                    let reason = format!("its connection failed: {error}");
                    ConnectError::Secure(SecureError::Gone(reason))
                })?,
                Err(_) => false,
            };
            Ok(if is_refused {
                Attempted::Refused(upstream)
            } else {
                Attempted::Ready(upstream)
            })
        }
        _ => Ok(Attempted::Ready(upstream)),
    }
}

impl Upstream {
    /// Sends the startup packet and reads until it is known whether the answer is an error that another way may avoid. What
    /// comes before the server asks for something, such as another version of the protocol, is no choice yet.
    ///
    /// # Cancel safety
    /// Cancel safe once the packet has gone out, which a fresh connection has room for.
    async fn start(&mut self, startup: &[u8]) -> std::io::Result<bool> {
        self.leg.write_all(startup).await?;
        self.started = true;
        let mut watch = LoginWatch::new();
        loop {
            let before = self.from_server.len();
            if self.leg.read_buf(&mut self.from_server, READ_BYTES).await? == 0 {
                // The relay will meet the end again, behind whatever was said.
                return Ok(false);
            }
            watch.observe(self.from_server.get(before..).unwrap_or_default());
            match (watch.method(), watch.outcome()) {
                (None, LoginOutcome::Rejected { sqlstate }) => {
                    return Ok(sqlstate.as_deref() != Some(NEXT_HOST));
                }
                (None, LoginOutcome::Unanswered) if self.from_server.len() < MAX_ERROR_BYTES => {}
                _ => return Ok(false),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_mode_ends_weaker_than_it_says() {
        use ServerSslMode::{Allow, Disable, Prefer, Require, VerifyCa, VerifyFull};
        for mode in [Require, VerifyCa, VerifyFull] {
            assert_eq!(attempts(mode), [Attempt::Tls]);
        }
        assert_eq!(attempts(Disable), [Attempt::Plain]);
        assert_eq!(attempts(Prefer), [Attempt::Tls, Attempt::Plain]);
        assert_eq!(attempts(Allow), [Attempt::Plain, Attempt::Tls]);
    }
}
