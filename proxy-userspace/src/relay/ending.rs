//! Closes the two sockets of a session the way it ended.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Stops;
use super::patience::ABORT_GRACE;
use crate::stream::Stream;

/// How long a peer may always take nothing of what is on its way to it; a client may for longer.
const LEAST_PATIENCE: Duration = Duration::from_secs(10);
/// How long one may take altogether.
const LONGEST_DELIVERY: Duration = Duration::from_secs(3600);
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LAST_PAUSE: Duration = Duration::from_millis(100);

/// Who ended a session, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndedBy {
    /// The client closed its side first.
    ClientClosed,
    /// The server closed its side first.
    ServerClosed,
    /// The client's connection was reset or failed.
    ClientReset,
    /// The server's connection was reset or failed.
    ServerReset,
    /// The server closed and the client said nothing more for too long.
    HalfClosedTimeout,
    /// pgusher is shutting down.
    Shutdown,
    /// The session's permit was taken back.
    Revoked,
}

/// How the sockets of a session that is over are to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closing {
    /// Both directions were shut down; nothing is left to say.
    Orderly,
    /// The server is gone: the client gets a reset behind everything received before it.
    ResetClient,
    /// The client is gone: likewise the server.
    ResetServer,
    /// Both get a reset now, whatever is on its way.
    ResetBoth,
    /// The server gets a reset; the client, who has had nothing but whole messages, is still to be told why.
    TellClient,
}

/// Closes both sockets. A client may take nothing for `client_patience` before the rest of what a dead server sent is
/// discarded.
pub(super) async fn close_both(
    client: Stream,
    upstream: Stream,
    closing: Closing,
    client_patience: Duration,
    stops: Stops<'_>,
) {
    match closing {
        Closing::Orderly => {}
        Closing::ResetClient => {
            drop(upstream);
            let patience = client_patience.max(LEAST_PATIENCE);
            reset_after_delivery(client, patience, ABORT_GRACE, stops).await;
        }
        Closing::ResetServer => {
            drop(client);
            // Nothing more of a client's is delivered after a revocation.
            reset_after_delivery(upstream, LEAST_PATIENCE, Duration::ZERO, stops).await;
        }
        Closing::ResetBoth | Closing::TellClient => {
            client.set_reset();
            upstream.set_reset();
        }
    }
}

/// Resets once the peer's kernel has everything, or takes nothing any more: a reset discards what is still in our send
/// queue, and there is no event for that queue running empty. After a revocation it waits for `grace` and no longer.
async fn reset_after_delivery(
    stream: Stream,
    patience: Duration,
    grace: Duration,
    stops: Stops<'_>,
) {
    let mut delivery = Delivery::begin(stream.undelivered(), patience, Instant::now());
    let mut pause = FIRST_PAUSE;
    while !stops.force.is_cancelled() {
        let now = Instant::now();
        if stops.revoked.is_cancelled() {
            delivery.end_by(now + grace);
        }
        if !delivery.is_worth_waiting_for(stream.undelivered(), now) {
            break;
        }
        sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
    stream.set_reset();
}

/// How what is on its way to a peer gets less.
struct Delivery {
    /// The fewest bytes there were to deliver.
    least: usize,
    /// When a peer that takes nothing has had its time.
    limit: Instant,
    patience: Duration,
    /// When any peer has.
    end: Instant,
}

impl Delivery {
    fn begin(undelivered: usize, patience: Duration, now: Instant) -> Self {
        Self {
            least: undelivered,
            limit: now + patience,
            patience,
            end: now + LONGEST_DELIVERY,
        }
    }

    /// Ends it then at the latest; what was said first holds.
    fn end_by(&mut self, end: Instant) {
        self.end = self.end.min(end);
    }

    fn is_worth_waiting_for(&mut self, undelivered: usize, now: Instant) -> bool {
        if undelivered < self.least {
            self.least = undelivered;
            self.limit = now + self.patience;
        }
        undelivered > 0 && now < self.limit.min(self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn a_slow_reader_is_waited_for_as_long_as_it_takes_something() {
        let mut now = Instant::now();
        let mut delivery = Delivery::begin(1_000, PATIENCE, now);
        for left in (700..1_000).rev() {
            now += PATIENCE.mul_f32(0.9);
            assert!(
                delivery.is_worth_waiting_for(left, now),
                "given up with {left} bytes left"
            );
        }
        assert!(!delivery.is_worth_waiting_for(0, now), "nothing is left");
    }

    #[test]
    fn one_that_takes_hardly_anything_is_given_up_in_the_end() {
        let begin = Instant::now();
        let mut delivery = Delivery::begin(1 << 20, PATIENCE, begin);
        let looks = (1..).map(|look| (look, begin + PATIENCE / 2 * look));
        let given_up = looks
            .map(|(look, now)| {
                (
                    now,
                    delivery.is_worth_waiting_for((1 << 20) - look as usize, now),
                )
            })
            .find(|(_, is_worth)| !is_worth);
        assert_eq!(given_up.map(|(now, _)| now - begin), Some(LONGEST_DELIVERY));
    }

    #[test]
    fn the_first_end_that_is_set_holds() {
        let begin = Instant::now();
        let mut delivery = Delivery::begin(1_000, PATIENCE, begin);
        delivery.end_by(begin + PATIENCE / 2);
        delivery.end_by(begin + PATIENCE);
        assert!(delivery.is_worth_waiting_for(1_000, begin));
        assert!(!delivery.is_worth_waiting_for(999, begin + PATIENCE / 2));
    }

    #[test]
    fn a_reader_that_takes_nothing_is_given_up() {
        let begin = Instant::now();
        let mut delivery = Delivery::begin(1_000, PATIENCE, begin);
        assert!(delivery.is_worth_waiting_for(1_000, begin + PATIENCE / 2));
        assert!(!delivery.is_worth_waiting_for(1_000, begin + PATIENCE));
    }
}
