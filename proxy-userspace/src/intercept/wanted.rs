//! Answers what the hooks tell: a connect met no listener in its network namespace.
//!
//! A namespace is told of once until it is answered. One that cannot have a listener is answered after
//! [`RETRY_AFTER`], so that nobody keeps us busy by connecting.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use aya::maps::{HashMap, MapData, RingBuf};
use proxy_ebpf::wanted::WantedNetns;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;
use tracing::{debug, error, warn};

use super::namespaces::{Namespaces, OpenError};
use super::watched::watch;

/// How long a namespace that got no listener waits for the next try, and the pause between two looks at all namespaces.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The messages, and the marks that keep the hooks from repeating them.
pub struct WantedQueue {
    queue: RingBuf<MapData>,
    waiting: HashMap<MapData, u64, u8>,
}

impl WantedQueue {
    pub(super) fn new(queue: RingBuf<MapData>, waiting: HashMap<MapData, u64, u8>) -> Self {
        Self { queue, waiting }
    }

    /// Everything that has been told so far.
    fn take(&mut self) -> Vec<WantedNetns> {
        let next = || Some(WantedNetns::from_bytes(&self.queue.next()?));
        std::iter::from_fn(next).flatten().collect()
    }

    /// The hooks tell of this namespace again, should they have to.
    fn answer(&mut self, cookie: u64) {
        if let Err(error) = self.waiting.remove(&cookie) {
            warn!(%error, cookie, "a network namespace cannot be waited for any more");
        }
    }
}

/// Answers for as long as the task lives.
pub async fn answer_forever(wanted: WantedQueue, namespaces: Arc<Namespaces>) {
    let watched = wanted.queue.as_fd().try_clone_to_owned();
    match watched.and_then(watch) {
        Ok(ready) => {
            let mut answering = Answering {
                wanted,
                namespaces,
                lost: HashSet::new(),
                last_search: None,
                refused: VecDeque::new(),
            };
            if let Err(error) = answering.run(&ready).await {
                error!(%error, "network namespaces without a listener will not get one");
            }
        }
        Err(error) => error!(%error, "network namespaces without a listener cannot be waited for"),
    }
}

struct Answering {
    wanted: WantedQueue,
    namespaces: Arc<Namespaces>,
    /// Those that are not where the connecting thread is; it may be gone, or use a socket of another namespace.
    lost: HashSet<u64>,
    /// When all namespaces were looked at for the last time, which takes long on a large host.
    last_search: Option<Instant>,
    /// Those that got no listener, by when they are answered. The hooks bound the number of all that wait.
    refused: VecDeque<(Instant, u64)>,
}

impl Answering {
    async fn run(&mut self, ready: &AsyncFd<OwnedFd>) -> io::Result<()> {
        loop {
            let next = self
                .next_search()
                .into_iter()
                .chain(self.next_answer())
                .min();
            tokio::select! {
                guard = ready.readable() => {
                    // Before reading: what is told from here on wakes us again.
                    guard?.clear_ready();
                    let told = self.wanted.take();
                    self.open(told).await;
                }
                () = until(next) => {}
            }
            if self.next_search().is_some_and(|due| due <= Instant::now()) {
                self.search().await;
            }
            self.answer_refused();
        }
    }

    /// Opens listeners where they are wanted: in the namespace of the thread that connected.
    async fn open(&mut self, told: Vec<WantedNetns>) {
        for wanted in told {
            let cookie = wanted.netns_cookie();
            let namespaces = Arc::clone(&self.namespaces);
            match blocking(move || namespaces.open_for(&wanted)).await {
                Ok(()) => self.wanted.answer(cookie),
                Err(OpenError::Elsewhere) => {
                    self.lost.insert(cookie);
                }
                Err(error) => self.refuse(cookie, &error),
            }
        }
    }

    /// Opens listeners in whichever namespaces have the cookies that are lost.
    async fn search(&mut self) {
        self.last_search = Some(Instant::now());
        let mut lost = std::mem::take(&mut self.lost);
        let (namespaces, wanted) = (Arc::clone(&self.namespaces), lost.clone());
        let searching =
            blocking(move || Ok(namespaces.open_all(|cookie| wanted.contains(&cookie))));
        for cookie in searching.await.unwrap_or_default() {
            lost.remove(&cookie);
            self.wanted.answer(cookie);
        }
        for cookie in lost {
            self.refuse(cookie, &OpenError::Elsewhere);
        }
    }

    /// When the search for what is lost is due.
    fn next_search(&self) -> Option<Instant> {
        if self.lost.is_empty() {
            return None;
        }
        let last = self.last_search.map(|last| last + RETRY_AFTER);
        Some(last.unwrap_or_else(Instant::now))
    }

    fn next_answer(&self) -> Option<Instant> {
        self.refused.front().map(|(at, _)| *at)
    }

    fn refuse(&mut self, cookie: u64, error: &OpenError) {
        if error.is_expected() {
            debug!(cookie, "no listener in a network namespace: {error}");
        } else {
            warn!(cookie, "no listener in a network namespace: {error}");
        }
        self.refused
            .push_back((Instant::now() + RETRY_AFTER, cookie));
    }

    fn answer_refused(&mut self) {
        let now = Instant::now();
        while let Some((_, cookie)) = self.refused.pop_front_if(|(at, _)| *at <= now) {
            self.wanted.answer(cookie);
        }
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Runs what blocks off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, OpenError> + Send + 'static,
) -> Result<T, OpenError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(OpenError::Io(io::Error::other(error))),
    }
}
