//! Stage 6, relay: every byte of one side to the other, unchanged, in order, in constant memory.
//!
//! Two directions, driven by one task: neither waits for the other, so a server that blocks on writing while its
//! client goes on sending cannot lock up. A direction holds at most one buffer's worth of bytes that its destination
//! has not taken; then it stops reading, and TCP's own backpressure does the rest.
//!
//! How a session ends is passed on as it happened: a half-close as a half-close, a reset as a reset, and never
//! before what was received ahead of it has been delivered. Previous stages: [`crate::startup`] and
//! [`crate::route`]; next: [`crate::audit`].

mod direction;
mod ending;
mod patience;
mod shortcut;

use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::Interest;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

pub(crate) use direction::BUFFER_BYTES;
use direction::{Direction, End};
pub use ending::EndedBy;
use ending::{Closing, close_both};
use patience::{Patience, Stall};
pub use shortcut::Shortcut;

use crate::leg::{Leg, Port};

/// The two sides of a session and what was read from either and not forwarded yet.
pub struct Legs {
    /// The client's.
    pub client: Leg,
    /// The server's.
    pub upstream: Leg,
    /// Bytes of the client's that come before anything still to be read.
    pub from_client: BytesMut,
    /// Likewise of the server's.
    pub from_server: BytesMut,
    /// The way onto the fast path, if there is one.
    pub shortcut: Option<Shortcut>,
}

/// One side of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The application.
    Client,
    /// PostgreSQL.
    Server,
}

/// Watches a session's bytes on their way. It sees every byte once, in order, before it is forwarded, and can neither
/// change nor keep one.
pub trait Observer: Send {
    /// One side sent these bytes, cut anywhere.
    fn sent(&mut self, by: Side, bytes: &[u8]);

    /// Ready when more of one side may be observed. While it is pending nothing is read from that side; what was read
    /// before is still delivered.
    fn poll_ready(&mut self, side: Side, context: &mut Context<'_>) -> Poll<()>;

    /// Whether it wants to see nothing more, so that bytes may pass it by.
    fn is_indifferent(&self) -> bool {
        false
    }

    /// How many bytes at least are still to come of the message that the server has begun: 0 between two messages,
    /// `None` where nobody knows.
    fn until_boundary(&self) -> Option<usize> {
        None
    }
}

/// What can end a session from outside.
#[derive(Clone, Copy, Debug)]
pub struct Stops<'a> {
    /// At once.
    pub force: &'a CancellationToken,
    /// As soon as the server's current message is delivered; nothing more of the client's is.
    pub revoked: &'a CancellationToken,
}

/// What a relay did.
#[derive(Debug)]
pub struct Relayed {
    /// Who ended it.
    pub ended_by: EndedBy,
    /// Bytes delivered to the server.
    pub to_server: u64,
    /// Bytes delivered to the client.
    pub to_client: u64,
    /// The client of a revoked session, if it can be told: it has had nothing but whole messages.
    pub client: Option<Leg>,
}

/// Relays until both sides are done, one is dead, or one of `stops` is cancelled; then closes both as the ends were.
/// `observer` sees everything but what [`Legs`] holds already.
///
/// # Cancel safety
/// Not cancel safe: dropping it resets nothing and may lose buffered bytes; cancel one of `stops` instead.
pub async fn relay(
    legs: Legs,
    observer: &mut dyn Observer,
    half_closed_timeout: Duration,
    stops: Stops<'_>,
) -> Relayed {
    let Legs {
        mut client,
        mut upstream,
        from_client,
        from_server,
        shortcut,
    } = legs;
    let mut session = Relay {
        client: client.port(),
        upstream: upstream.port(),
        to_server: Direction::new(Side::Client, from_client),
        to_client: Direction::new(Side::Server, from_server),
        first_end: None,
        client_failed: false,
        stall: None,
        server_first: false,
        revoked: false,
        shortcut,
    };
    let ended = session.run(observer, half_closed_timeout, stops).await;
    let passed_by = session.shortcut.as_ref().map(Shortcut::passed_by);
    let passed_by = passed_by.unwrap_or_default();
    let to_server = session.to_server.delivered() + passed_by.0;
    let to_client = session.to_client.delivered() + passed_by.1;
    let client = if ended.closing == Closing::TellClient {
        upstream.reset();
        Some(client)
    } else {
        let (client, upstream) = (client.into_stream(), upstream.into_stream());
        let closing = ended.closing;
        Box::pin(close_both(
            client,
            upstream,
            closing,
            half_closed_timeout,
            stops,
        ))
        .await;
        None
    };
    Relayed {
        ended_by: ended.by,
        to_server,
        to_client,
        client,
    }
}

struct Relay<'a> {
    client: Port<'a>,
    upstream: Port<'a>,
    to_server: Direction,
    to_client: Direction,
    /// Which side closed first, if one has.
    first_end: Option<EndedBy>,
    /// The client's socket has an error pending, whether or not it is being read.
    client_failed: bool,
    /// The client was found to take nothing of what there is for it; whether it still does is looked at now and then.
    stall: Option<Stall>,
    /// Whose turn it is to be polled first.
    server_first: bool,
    /// Nothing more of the client's is delivered, and of the server's only what it has begun.
    revoked: bool,
    shortcut: Option<Shortcut>,
}

impl Relay<'_> {
    async fn run(
        &mut self,
        observer: &mut dyn Observer,
        half_closed_timeout: Duration,
        stops: Stops<'_>,
    ) -> Ended {
        loop {
            let patience = self.patience(half_closed_timeout);
            let before = patience.map_or(0, |_| self.progress());
            let (client, client_failed) = (self.client.stream(), self.client_failed);
            tokio::select! {
                // Shutdown first: a busy session would otherwise never see it.
                biased;
                () = stops.force.cancelled() => {
                    return Ended { by: EndedBy::Shutdown, closing: Closing::ResetBoth };
                }
                () = stops.revoked.cancelled(), if !self.revoked => {
                    if observer.until_boundary().is_none() {
                        return Ended::REVOKED_UNTOLD;
                    }
                    self.revoked = true;
                    self.to_client.stop_at_boundary();
                }
                ended = poll_fn(|context| self.poll(context, observer)) => match ended {
                    Progress::Ended(ended) => return ended,
                    // How long the session may go on has changed.
                    Progress::HalfEnded | Progress::Stalled => {}
                },
                // While the server takes nothing, the client is not read, and only this tells that it is gone.
                _ = client.ready(Interest::ERROR), if !client_failed => self.client_failed = true,
                () = wait_for(patience.map(Patience::limit)) => {
                    if let Some(ended) = patience.and_then(|patience| self.outlived(patience, before)) {
                        return ended;
                    }
                }
            }
        }
    }

    /// Bytes that have come to the other side, also past us.
    fn progress(&self) -> u64 {
        let passed_by = self.shortcut.as_ref().map_or(0, Shortcut::passed_by_so_far);
        self.to_server.delivered() + self.to_client.delivered() + passed_by
    }

    /// The end, if patience is exhausted; of a session that had come so far when it began.
    fn outlived(&mut self, patience: Patience, before: u64) -> Option<Ended> {
        if let Patience::StalledClient(_) = patience {
            self.stall = self.stall.filter(|_| self.to_client.is_stalled());
            // Behind what the client does not take nothing is read that would tell.
            let server_has_ended = self.upstream.stream().has_ended();
            let undelivered = self.client.stream().undelivered();
            let stall = self.stall.as_mut()?;
            if !stall.has_lasted(server_has_ended, undelivered) {
                return None;
            }
        }
        patience.exhausted(self.progress() - before, self.first_end)
    }

    /// How long the session may go on as it stands: for ever while both directions are open and both peers live.
    fn patience(&self, half_closed_timeout: Duration) -> Option<Patience> {
        match (self.to_server.end(), self.to_client.end()) {
            _ if self.revoked => Some(Patience::Revoked),
            (_, Some(End::WriteFailed)) => Some(Patience::DeadClient),
            _ if self.client_failed => Some(Patience::DeadClient),
            (Some(End::WriteFailed), _) => Some(Patience::DeadServer(half_closed_timeout)),
            (None, Some(End::Eof)) => Some(Patience::ClosedServer(half_closed_timeout)),
            _ if self.stall.is_some() => Some(Patience::StalledClient(half_closed_timeout)),
            _ => None,
        }
    }

    fn poll(&mut self, context: &mut Context<'_>, observer: &mut dyn Observer) -> Poll<Progress> {
        if self.revoked {
            return self.poll_revoked(context, observer);
        }
        let ended_before = self.ended_directions();
        // Taking turns: whichever comes first may use up the task's budget.
        self.server_first = !self.server_first;
        if self.server_first {
            self.poll_to_client(context, observer);
            self.poll_to_server(context, observer);
        } else {
            self.poll_to_server(context, observer);
            self.poll_to_client(context, observer);
        }
        self.take_shortcut(observer);
        // Reading may have called for an answer, such as to a key update.
        self.client.flush_answers(context);
        self.upstream.flush_answers(context);
        if self.first_end.is_none() {
            self.first_end = match (
                self.to_client.source_closed(),
                self.to_server.source_closed(),
            ) {
                // Of two that are met at once the client's was first: a server closes when its client says goodbye, and a
                // client that a server says goodbye to hears of it through us.
                (_, true) => Some(EndedBy::ClientClosed),
                (true, false) => Some(EndedBy::ServerClosed),
                (false, false) => None,
            };
        }
        match self.ended() {
            Some(ended) => Poll::Ready(Progress::Ended(ended)),
            None if self.ended_directions() > ended_before => Poll::Ready(Progress::HalfEnded),
            None if self.to_client.is_stalled() && self.stall.is_none() => {
                self.stall = Some(Stall::default());
                Poll::Ready(Progress::Stalled)
            }
            None => Poll::Pending,
        }
    }

    /// Puts the session on the fast path, once, when it has shown that it lasts and nothing is held back here.
    fn take_shortcut(&mut self, observer: &dyn Observer) {
        let Some(shortcut) = &mut self.shortcut else {
            return;
        };
        if shortcut.is_due(self.to_server.reads())
            && self.to_server.is_at_rest()
            && self.to_client.is_at_rest()
        {
            shortcut.take(
                &mut self.client,
                &mut self.upstream,
                observer.is_indifferent(),
            );
        }
    }

    /// Delivers what the server has begun.
    fn poll_revoked(
        &mut self,
        context: &mut Context<'_>,
        observer: &mut dyn Observer,
    ) -> Poll<Progress> {
        self.poll_to_client(context, observer);
        let closing = match (self.to_client.end(), observer.until_boundary()) {
            // It failed, or ended by itself.
            (Some(_), _) | (None, None) => Closing::ResetBoth,
            (None, Some(0)) if self.to_client.is_at_rest() => {
                ready!(self.client.poll_flush(context))
                    .map_or(Closing::ResetBoth, |()| Closing::TellClient)
            }
            (None, Some(_)) => return Poll::Pending,
        };
        Poll::Ready(Progress::Ended(Ended {
            by: EndedBy::Revoked,
            closing,
        }))
    }

    fn poll_to_client(&mut self, context: &mut Context<'_>, observer: &mut dyn Observer) {
        if self.to_server.destination_was_reset() {
            self.to_client.source_was_reset();
        }
        self.to_client
            .poll(context, &mut self.upstream, &mut self.client, observer);
    }

    fn poll_to_server(&mut self, context: &mut Context<'_>, observer: &mut dyn Observer) {
        if self.to_client.destination_was_reset() {
            self.to_server.source_was_reset();
        }
        self.to_server
            .poll(context, &mut self.client, &mut self.upstream, observer);
    }

    fn ended_directions(&self) -> usize {
        usize::from(self.to_server.end().is_some()) + usize::from(self.to_client.end().is_some())
    }

    /// Whether the session has ended, and how. Whoever closed first in an orderly way ended it; a reset that follows
    /// (a backend that exits with a TLS close_notify unread, a client that is gone when the rest of a result comes)
    /// is passed on, but it is not the reason.
    fn ended(&self) -> Option<Ended> {
        let (reset_by, closing) = match (self.to_server.end(), self.to_client.end()) {
            // A peer whose connection failed on reading is dead both ways.
            (Some(End::ReadFailed), _) => (EndedBy::ClientReset, Closing::ResetServer),
            (_, Some(End::ReadFailed)) => (EndedBy::ServerReset, Closing::ResetClient),
            (Some(End::Eof), Some(End::Eof)) => (EndedBy::ClientClosed, Closing::Orderly),
            // A peer that takes nothing any more is dead, but what it sent before may still be on its way.
            (Some(End::Eof | End::WriteFailed), Some(End::WriteFailed)) => {
                (EndedBy::ClientReset, Closing::ResetServer)
            }
            (Some(End::WriteFailed), Some(End::Eof)) => {
                (EndedBy::ServerReset, Closing::ResetClient)
            }
            _ => return None,
        };
        Some(Ended {
            by: self.first_end.unwrap_or(reset_by),
            closing,
        })
    }
}

/// The end of a session: what to call it, and what is left to do.
#[derive(Clone, Copy)]
struct Ended {
    by: EndedBy,
    closing: Closing,
}

impl Ended {
    /// The end of a session whose client cannot be told why.
    const REVOKED_UNTOLD: Self = Self {
        by: EndedBy::Revoked,
        closing: Closing::ResetBoth,
    };
}

enum Progress {
    Ended(Ended),
    HalfEnded,
    Stalled,
}

async fn wait_for(limit: Option<Duration>) {
    match limit {
        Some(limit) => sleep(limit).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
