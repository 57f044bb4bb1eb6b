//! Closes the two sockets of a session the way it ended.

use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::EndedBy;
use crate::socket::unacknowledged;

/// How long bytes on their way may delay a reset.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LAST_PAUSE: Duration = Duration::from_millis(100);

/// Closes both sockets: orderly ends need nothing more, since both directions were shut down; a reset is passed on
/// to the side that lives, behind everything that was received before it.
pub(super) async fn close_both(client: TcpStream, upstream: TcpStream, ended_by: EndedBy) {
    match ended_by {
        EndedBy::ClientClosed | EndedBy::ServerClosed | EndedBy::HalfClosedTimeout => {}
        EndedBy::ServerReset => {
            drop(upstream);
            reset_after_delivery(client).await;
        }
        EndedBy::ClientReset => {
            drop(client);
            reset_after_delivery(upstream).await;
        }
        EndedBy::Shutdown => {
            reset(&client);
            reset(&upstream);
        }
    }
}

/// Resets once the peer's kernel has everything: a reset discards what is still in our send queue, and there is no
/// event for that queue running empty.
async fn reset_after_delivery(stream: TcpStream) {
    let limit = Instant::now() + DRAIN_LIMIT;
    let mut pause = FIRST_PAUSE;
    while unacknowledged(&stream).is_ok_and(|bytes| bytes > 0) && Instant::now() < limit {
        sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
    reset(&stream);
}

/// Makes the close of a socket a reset. A socket that refuses the option is closed in the ordinary way.
fn reset(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
