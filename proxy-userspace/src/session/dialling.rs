//! A server that is dialled while something else goes on.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use super::registry::Slot;
use crate::route::DialError;
use crate::stream::Stream;

/// For how long a server that has accepted hears nothing from us before it is left. Its own patience with who says
/// nothing is PostgreSQL's `authentication_timeout`, a second at least; until then it counts as one of its clients.
const SILENCE_LIMIT: Duration = Duration::from_millis(500);

/// A dial under way for a client with a place among the sessions; given up when dropped.
pub(super) struct Dialling {
    slot: Option<Slot>,
    wanted: oneshot::Sender<()>,
    task: AbortOnDropHandle<Dialled>,
}

/// What came of a dial.
pub(super) struct Dialled {
    /// None if the server has been left, since nobody wanted it for so long.
    pub(super) upstream: Option<Result<Stream, DialError>>,
    /// For how long a server that had accepted was not wanted; none if none had.
    pub(super) waited: Option<Duration>,
}

impl Dialling {
    /// Begins, for a client that has `slot`.
    pub(super) fn begin(
        slot: Option<Slot>,
        dial: impl Future<Output = Result<Stream, DialError>> + Send + 'static,
    ) -> Self {
        let (wanted, is_wanted) = oneshot::channel();
        let task = tokio::spawn(dial_and_keep(dial, is_wanted, SILENCE_LIMIT));
        Self {
            slot,
            wanted,
            task: AbortOnDropHandle::new(task),
        }
    }

    /// Gives the client's place away, which may be none.
    pub(super) fn take_slot(&mut self) -> Option<Slot> {
        self.slot.take()
    }

    /// Waits for what comes of it.
    pub(super) async fn finish(self) -> Dialled {
        // If it has been left nobody listens.
        let _ = self.wanted.send(());
        self.task.await.unwrap_or(Dialled {
            upstream: None,
            waited: None,
        })
    }
}

/// Dials, and keeps the server until it is wanted, or for as long as the limit says.
async fn dial_and_keep(
    dial: impl Future<Output = Result<Stream, DialError>>,
    is_wanted: oneshot::Receiver<()>,
    limit: Duration,
) -> Dialled {
    let upstream = dial.await;
    if upstream.is_err() {
        return Dialled {
            upstream: Some(upstream),
            waited: None,
        };
    }
    let since = Instant::now();
    let upstream = tokio::select! {
        biased;
        _ = is_wanted => Some(upstream),
        () = sleep(limit) => None,
    };
    Dialled {
        upstream,
        waited: Some(since.elapsed()),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::Ipv4Addr;

    use tokio::io::AsyncReadExt as _;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    const FOR_EVER: Duration = Duration::from_secs(3600);

    /// A server, and a dial to it.
    async fn server() -> (
        TcpListener,
        impl Future<Output = Result<Stream, DialError>> + Send + 'static,
    ) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let dial = async move { Ok(TcpStream::connect(address).await.unwrap().into()) };
        (listener, dial)
    }

    #[tokio::test]
    async fn a_server_is_kept_until_it_is_wanted() {
        let (listener, dial) = server().await;
        let mut dialling = Dialling::begin(None, dial);
        let (mut accepted, _) = listener.accept().await.unwrap();
        assert!(dialling.take_slot().is_none());
        let dialled = dialling.finish().await;
        assert!(matches!(dialled.upstream, Some(Ok(_))) && dialled.waited.is_some());
        drop(dialled);
        assert_eq!(accepted.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_server_that_nobody_wants_in_time_is_left() {
        let (listener, dial) = server().await;
        let (_wanted, is_wanted) = oneshot::channel();
        let dialled = dial_and_keep(dial, is_wanted, Duration::ZERO).await;
        assert!(dialled.upstream.is_none() && dialled.waited.is_some());
        let (mut accepted, _) = listener.accept().await.unwrap();
        assert_eq!(accepted.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_dial_that_is_given_up_leaves_its_server() {
        let (listener, dial) = server().await;
        let dialling = Dialling::begin(None, dial);
        let (mut accepted, _) = listener.accept().await.unwrap();
        drop(dialling);
        assert_eq!(accepted.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_failure_is_told_however_late_it_is_wanted() {
        let failed = async {
            Err(DialError::Refused {
                destination: "127.0.0.1:5432"
                    .parse::<std::net::SocketAddr>()
                    .unwrap()
                    .into(),
                source: io::ErrorKind::ConnectionRefused.into(),
            })
        };
        let (_wanted, is_wanted) = oneshot::channel();
        let dialled = dial_and_keep(failed, is_wanted, FOR_EVER).await;
        assert!(matches!(dialled.upstream, Some(Err(_))) && dialled.waited.is_none());
    }
}
