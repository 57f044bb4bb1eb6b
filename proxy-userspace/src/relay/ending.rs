//! Closes the two sockets of a session the way it ended.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Stops;
use super::patience::ABORT_GRACE;
use crate::stream::Stream;

/// How long a server may take nothing of what a client that is gone has sent it.
const SERVER_PATIENCE: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LAST_PAUSE: Duration = Duration::from_millis(100);

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
            reset_after_delivery(client, client_patience, stops).await;
        }
        Closing::ResetServer => {
            drop(client);
            reset_after_delivery(upstream, SERVER_PATIENCE, stops).await;
        }
        Closing::ResetBoth | Closing::TellClient => {
            client.set_reset();
            upstream.set_reset();
        }
    }
}

/// Resets once the peer's kernel has everything, or takes nothing any more: a reset discards what is still in our send
/// queue, and there is no event for that queue running empty. After a revocation it does not wait for long.
async fn reset_after_delivery(stream: Stream, patience: Duration, stops: Stops<'_>) {
    let mut delivery = Delivery::begin(stream.undelivered(), patience, Instant::now());
    let mut revoked_limit = None;
    let mut pause = FIRST_PAUSE;
    while delivery.is_worth_waiting_for(stream.undelivered(), Instant::now())
        && !stops.force.is_cancelled()
    {
        if stops.revoked.is_cancelled() {
            let limit = *revoked_limit.get_or_insert_with(|| Instant::now() + ABORT_GRACE);
            if Instant::now() >= limit {
                break;
            }
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
}

impl Delivery {
    fn begin(undelivered: usize, patience: Duration, now: Instant) -> Self {
        Self {
            least: undelivered,
            limit: now + patience,
            patience,
        }
    }

    fn is_worth_waiting_for(&mut self, undelivered: usize, now: Instant) -> bool {
        if undelivered < self.least {
            self.least = undelivered;
            self.limit = now + self.patience;
        }
        undelivered > 0 && now < self.limit
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
        for left in (1..1_000).rev() {
            now += PATIENCE.mul_f32(0.9);
            assert!(
                delivery.is_worth_waiting_for(left, now),
                "given up with {left} bytes left"
            );
        }
        assert!(!delivery.is_worth_waiting_for(0, now), "nothing is left");
    }

    #[test]
    fn a_reader_that_takes_nothing_is_given_up() {
        let begin = Instant::now();
        let mut delivery = Delivery::begin(1_000, PATIENCE, begin);
        assert!(delivery.is_worth_waiting_for(1_000, begin + PATIENCE / 2));
        assert!(!delivery.is_worth_waiting_for(1_000, begin + PATIENCE));
    }
}
