//! Closes the two sockets of a session the way it ended.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::stream::Stream;

/// How long bytes on their way may delay a reset.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
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

/// Closes both sockets.
pub(super) async fn close_both(
    client: Stream,
    upstream: Stream,
    closing: Closing,
    force: &CancellationToken,
) {
    match closing {
        Closing::Orderly => {}
        Closing::ResetClient => {
            drop(upstream);
            reset_after_delivery(client, force).await;
        }
        Closing::ResetServer => {
            drop(client);
            reset_after_delivery(upstream, force).await;
        }
        Closing::ResetBoth | Closing::TellClient => {
            client.set_reset();
            upstream.set_reset();
        }
    }
}

/// Resets once the peer's kernel has everything: a reset discards what is still in our send queue, and there is no
/// event for that queue running empty.
async fn reset_after_delivery(stream: Stream, force: &CancellationToken) {
    let limit = Instant::now() + DRAIN_LIMIT;
    let mut pause = FIRST_PAUSE;
    while stream.is_delivering() && Instant::now() < limit && !force.is_cancelled() {
        sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
    stream.set_reset();
}
