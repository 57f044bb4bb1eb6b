//! A server that is dialled while something else goes on.

use std::future::ready;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use super::registry::Slot;
use crate::route::DialError;
use crate::stream::Stream;

/// For how long what came of a dial is kept before the server is left. Its own patience with who says nothing is
/// PostgreSQL's `authentication_timeout`, a second at least; until then it counts as one of its clients. And a server that
/// could not be reached may be back by then.
const KEPT_FOR: Duration = Duration::from_millis(500);

/// A dial under way for a client with a place among the sessions; given up when dropped.
pub(super) struct Dialling {
    slot: Option<Slot>,
    wanted: oneshot::Sender<()>,
    task: AbortOnDropHandle<Dialled>,
}

/// What came of a dial.
pub(super) struct Dialled {
    /// None if nobody wanted it for so long.
    pub(super) upstream: Option<Result<Stream, DialError>>,
    /// For how long a server that had accepted was not wanted; none if none had.
    pub(super) waited: Option<Duration>,
}

impl Dialling {
    /// Begins at once, for a client that has `slot`: by the time this returns a server on the same host has accepted.
    pub(super) async fn begin(
        slot: Option<Slot>,
        dial: impl Future<Output = Result<Stream, DialError>> + Send + 'static,
    ) -> Self {
        let mut dial = Box::pin(dial);
        // The task has its first turn only after whatever else the calling one does now.
        let at_once = tokio::select! {
            biased;
            dialled = &mut dial => Some(dialled),
            () = ready(()) => None,
        };
        let dial = async move {
            match at_once {
                Some(dialled) => dialled,
                None => dial.await,
            }
        };
        let (wanted, is_wanted) = oneshot::channel();
        let task = tokio::spawn(dial_and_keep(dial, is_wanted, KEPT_FOR));
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
        // If nothing is kept any more nobody listens.
        let _ = self.wanted.send(());
        self.task.await.unwrap_or(Dialled {
            upstream: None,
            waited: None,
        })
    }
}

/// Dials, and keeps what comes of it until it is wanted, or for as long as the limit says.
async fn dial_and_keep(
    dial: impl Future<Output = Result<Stream, DialError>>,
    is_wanted: oneshot::Receiver<()>,
    limit: Duration,
) -> Dialled {
    let upstream = dial.await;
    let (has_accepted, since) = (upstream.is_ok(), Instant::now());
    let upstream = tokio::select! {
        biased;
        _ = is_wanted => Some(upstream),
        () = sleep(limit) => None,
    };
    Dialled {
        upstream,
        waited: has_accepted.then(|| since.elapsed()),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::{Ipv4Addr, SocketAddr};

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

    fn failed() -> Result<Stream, DialError> {
        Err(DialError::Refused {
            destination: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)).into(),
            source: io::ErrorKind::ConnectionRefused.into(),
        })
    }

    #[tokio::test]
    async fn a_server_is_kept_until_it_is_wanted() {
        let (listener, dial) = server().await;
        let (wanted, is_wanted) = oneshot::channel();
        let kept = tokio::spawn(dial_and_keep(dial, is_wanted, FOR_EVER));
        let (mut accepted, _) = listener.accept().await.unwrap();
        wanted.send(()).unwrap();
        let dialled = kept.await.unwrap();
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
    async fn a_failure_is_told_while_it_is_fresh() {
        let (wanted, is_wanted) = oneshot::channel();
        wanted.send(()).unwrap();
        let dialled = dial_and_keep(async { failed() }, is_wanted, FOR_EVER).await;
        assert!(matches!(dialled.upstream, Some(Err(_))) && dialled.waited.is_none());
        let (_wanted, is_wanted) = oneshot::channel();
        let dialled = dial_and_keep(async { failed() }, is_wanted, Duration::ZERO).await;
        assert!(dialled.upstream.is_none() && dialled.waited.is_none());
    }

    #[tokio::test]
    async fn a_dial_begins_at_once_and_is_given_up_when_dropped() {
        let (alive, ended) = oneshot::channel::<()>();
        let (began, has_begun) = std::sync::mpsc::channel();
        let dial = async move {
            let _alive = alive;
            began.send(()).unwrap();
            std::future::pending().await
        };
        let mut dialling = Dialling::begin(None, dial).await;
        assert!(has_begun.try_recv().is_ok() && dialling.take_slot().is_none());
        drop(dialling);
        assert!(ended.await.is_err());
    }
}
