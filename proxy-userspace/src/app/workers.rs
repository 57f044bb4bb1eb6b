//! The threads that serve sessions: one for each core, each with a runtime of its own.
//!
//! A session stays where it was put when it was accepted. Its sockets are in that thread's poll, its task is woken there
//! and nowhere else, and no other thread has to be told: for a short query that costs more than the relay does.
//! docs/decisions/0060-runtime-layout.md has the measurements.

use std::io;
use std::iter;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, available_parallelism};
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::vigil::Vigil;

/// What the threads are called.
const WORKER_NAME: &str = "relay";
/// How many turns of its sessions a thread takes before it looks for what comes from outside.
const TURNS_BEFORE_OTHERS: u32 = 8;
/// How many there are where the number of cores cannot be told.
const DEFAULT_WORKERS: usize = 2;

/// The threads. They end when this is dropped, and so does what they still serve.
pub(super) struct Workers {
    first: Worker,
    others: Vec<Worker>,
    /// Where the search for the next one begins.
    next: AtomicUsize,
    /// Cancelled when one of them has ended by itself.
    failure: CancellationToken,
    _stop: DropGuard,
}

struct Worker {
    runtime: Handle,
    /// How many connections it serves.
    load: Arc<AtomicUsize>,
    vigil: Arc<Vigil>,
}

/// A place on one of the threads, given back when dropped.
pub(super) struct Desk {
    runtime: Handle,
    load: Arc<AtomicUsize>,
    vigil: Arc<Vigil>,
}

impl Desk {
    /// Whose it is.
    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Serves a session on that thread.
    ///
    /// # Cancel safety
    /// As that of `serving`.
    pub(super) fn serve(&self, serving: impl Future<Output = ()>) -> impl Future<Output = ()> {
        self.vigil.during(serving)
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Workers {
    /// Starts them. What the calling thread has given up, they have not either. They stay awake for `busy_poll` after
    /// each turn of a session.
    ///
    /// # Errors
    /// The operating system's reason.
    pub(super) fn start(busy_poll: Duration) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let failure = CancellationToken::new();
        // From here on, those that were started end with whatever fails.
        let guard = stop.clone().drop_guard();
        let count = available_parallelism().map_or(DEFAULT_WORKERS, usize::from);
        let start = || Worker::start(busy_poll, stop.clone(), failure.clone());
        let others = (1..count).map(|_| start());
        Ok(Self {
            first: start()?,
            others: others.collect::<io::Result<_>>()?,
            next: AtomicUsize::new(0),
            failure,
            _stop: guard,
        })
    }

    /// Cancelled when one of them has ended by itself, with all that it served.
    pub(super) fn failure(&self) -> &CancellationToken {
        &self.failure
    }

    /// All of them, to be asked whether they live.
    pub(super) fn runtimes(&self) -> Vec<Handle> {
        self.all().map(|worker| worker.runtime.clone()).collect()
    }

    /// A place on the thread that serves the fewest connections; among equals they take turns.
    pub(super) fn desk(&self) -> Desk {
        let count = 1 + self.others.len();
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % count;
        let in_turn = self.all().cycle().skip(turn).take(count);
        let worker = in_turn
            .min_by_key(|worker| worker.load.load(Ordering::Relaxed))
            .unwrap_or(&self.first);
        worker.load.fetch_add(1, Ordering::Relaxed);
        Desk {
            runtime: worker.runtime.clone(),
            load: Arc::clone(&worker.load),
            vigil: Arc::clone(&worker.vigil),
        }
    }

    fn all(&self) -> impl Iterator<Item = &Worker> + Clone {
        iter::once(&self.first).chain(&self.others)
    }
}

impl Worker {
    fn start(
        busy_poll: Duration,
        stop: CancellationToken,
        failure: CancellationToken,
    ) -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            // New connections, and whoever asks whether the thread lives, do not wait for more of the old ones' turns.
            .global_queue_interval(TURNS_BEFORE_OTHERS)
            .build()?;
        let handle = runtime.handle().clone();
        let vigil = Vigil::new(busy_poll);
        let keeper = handle.spawn(Arc::clone(&vigil).keep());
        thread::Builder::new()
            .name(WORKER_NAME.to_owned())
            .spawn(move || {
                let failed = failure.drop_guard();
                let is_told = runtime.block_on(async {
                    tokio::select! {
                        () = stop.cancelled() => true,
                        // It does not end by itself.
                        _ = keeper => false,
                    }
                });
                if is_told {
                    failed.disarm();
                }
                // A /proc read may hang for as long as the process it reads likes.
                runtime.shutdown_background();
            })?;
        Ok(Self {
            runtime: handle,
            load: Arc::default(),
            vigil,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_serves_the_fewest_gets_the_next() {
        let workers = Workers::start(Duration::ZERO).unwrap();
        let count = workers.runtimes().len();
        let mut desks: Vec<Desk> = (0..3 * count).map(|_| workers.desk()).collect();
        assert!(
            workers
                .all()
                .all(|one| one.load.load(Ordering::Relaxed) == 3)
        );
        let left = desks.swap_remove(0);
        let freed = Arc::clone(&left.load);
        drop(left);
        assert!(Arc::ptr_eq(&workers.desk().load, &freed));
    }

    #[test]
    fn a_thread_that_ends_by_itself_is_noticed_and_one_that_is_told_to_is_not() {
        let (stop, failure) = (CancellationToken::new(), CancellationToken::new());
        let worker = Worker::start(Duration::ZERO, stop.clone(), failure.clone()).unwrap();
        let (held, released) = std::sync::mpsc::channel::<()>();
        worker.runtime.spawn(async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        stop.cancel();
        assert!(released.recv().is_err());
        assert!(!failure.is_cancelled());
        let failed = failure.clone().drop_guard();
        assert!(
            thread::spawn(move || {
                let _failed = failed;
                panic!("as a runtime would");
            })
            .join()
            .is_err()
        );
        assert!(failure.is_cancelled());
    }

    #[test]
    fn what_runs_there_ends_with_the_threads() {
        let workers = Workers::start(Duration::ZERO).unwrap();
        let (held, released) = std::sync::mpsc::channel::<()>();
        workers.desk().runtime().spawn(async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        drop(workers);
        // Told apart from a thread that goes on: its end of the channel is dropped.
        assert!(released.recv().is_err());
    }
}
