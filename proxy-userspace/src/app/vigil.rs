//! Keeps a thread awake that serves sessions: for some time after one of them was at work it goes on asking what has come,
//! instead of sleeping until it is told. That spares a short query the wake-ups of pgusher, and costs a core meanwhile.
//!
//! docs/decisions/0063-fewer-wake-ups.md has the measurements.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::yield_now;

/// What a thread's sessions and whoever keeps it awake know of each other. All of them are on that thread, so no order
/// of memory is asked for.
#[derive(Debug)]
pub(super) struct Vigil {
    /// Zero where there is none.
    duration: Duration,
    /// How often a session was at work.
    turns: AtomicU64,
    /// The thread may sleep when it has nothing to do.
    is_over: AtomicBool,
    begins: Notify,
}

impl Vigil {
    /// For so long after each turn of a session; never if that is no time at all.
    pub(super) fn new(duration: Duration) -> Arc<Self> {
        Arc::new(Self {
            duration,
            turns: AtomicU64::new(0),
            is_over: AtomicBool::new(true),
            begins: Notify::new(),
        })
    }

    /// Serves a session, each of whose turns begins the vigil or prolongs it.
    ///
    /// # Cancel safety
    /// As that of `serving`.
    pub(super) fn during<T>(&self, serving: impl Future<Output = T>) -> impl Future<Output = T> {
        // On the heap, or it would take its room twice: before its first turn and from then on.
        let mut serving = Box::pin(serving);
        poll_fn(move |context| {
            if !self.duration.is_zero() {
                self.turns.fetch_add(1, Ordering::Relaxed);
                if self.is_over.swap(false, Ordering::Relaxed) {
                    self.begins.notify_one();
                }
            }
            serving.as_mut().poll(context)
        })
    }

    /// Keeps the thread awake that runs it, whenever there is cause; for ever.
    pub(super) async fn keep(self: Arc<Self>) {
        loop {
            self.begins.notified().await;
            self.watch().await;
            self.is_over.store(true, Ordering::Relaxed);
        }
    }

    /// Returns when so long has passed without a session's turn.
    async fn watch(&self) {
        let mut seen = self.turns.load(Ordering::Relaxed);
        let mut last = Instant::now();
        while last.elapsed() < self.duration {
            // Whoever else wants this core has it first: a client or a server may, and their work is what is waited for.
            thread::yield_now();
            // Then the runtime looks for what has come, without waiting, and serves it before it asks here again.
            yield_now().await;
            let turns = self.turns.load(Ordering::Relaxed);
            if turns != seen {
                (seen, last) = (turns, Instant::now());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use super::*;

    /// Longer than any test takes.
    const LONG: Duration = Duration::from_secs(600);

    /// A session's turn, and no more.
    async fn turn(vigil: &Vigil) {
        vigil.during(async {}).await;
    }

    fn poll(future: &mut Pin<Box<impl Future>>) -> Poll<()> {
        let mut context = Context::from_waker(std::task::Waker::noop());
        future.as_mut().poll(&mut context).map(drop)
    }

    #[tokio::test]
    async fn it_begins_with_a_turn_and_goes_on_without_waiting() {
        let vigil = Vigil::new(LONG);
        let keeper = tokio::spawn(Arc::clone(&vigil).keep());
        yield_now().await;
        assert!(vigil.is_over.load(Ordering::Relaxed));
        turn(&vigil).await;
        for _ in 0..100 {
            yield_now().await;
            assert!(!vigil.is_over.load(Ordering::Relaxed));
        }
        keeper.abort();
    }

    #[tokio::test]
    async fn it_is_over_in_time_and_begins_again() {
        let vigil = Vigil::new(Duration::from_nanos(1));
        let keeper = tokio::spawn(Arc::clone(&vigil).keep());
        for _ in 0..3 {
            turn(&vigil).await;
            assert!(!vigil.is_over.load(Ordering::Relaxed));
            while !vigil.is_over.load(Ordering::Relaxed) {
                yield_now().await;
            }
        }
        keeper.abort();
    }

    #[tokio::test]
    async fn each_turn_prolongs_it() {
        let vigil = Vigil::new(LONG);
        turn(&vigil).await;
        let mut watching = Box::pin(vigil.watch());
        assert!(poll(&mut watching).is_pending());
        turn(&vigil).await;
        assert!(poll(&mut watching).is_pending());
    }

    #[tokio::test]
    async fn where_there_is_none_nobody_is_kept_awake() {
        let vigil = Vigil::new(Duration::ZERO);
        turn(&vigil).await;
        assert!(vigil.is_over.load(Ordering::Relaxed));
        let mut keeping = Box::pin(Arc::clone(&vigil).keep());
        assert!(poll(&mut keeping).is_pending());
        turn(&vigil).await;
        assert_eq!(vigil.turns.load(Ordering::Relaxed), 0);
    }
}
