//! Tells the hooks, in time, that somebody lives behind the listeners.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aya::maps::{Array, MapData, MapError};
use proxy_ebpf::serving::NOT_YET;
use tokio::runtime::Handle;
use tokio::time::{MissedTickBehavior, timeout};
use tracing::error;

use super::clock::monotonic_ns;

/// How often they are told. It is a tenth of the usual `stall_timeout`: a busy host delays some of them.
const BEAT_EVERY: Duration = Duration::from_millis(500);
/// How long a thread may take to answer before it is said that it does not.
const PATIENCE: Duration = Duration::from_secs(2);
/// The shortest time that silence can be taken for death.
pub const MIN_STALL_TIMEOUT: Duration = Duration::from_secs(1);

/// The heart: it beats only while every runtime that serves answers, so that it stops when one hangs.
pub struct Heartbeat {
    /// None once it has stopped for good.
    slot: Mutex<Option<Array<MapData, u64>>>,
}

impl Heartbeat {
    pub(super) fn new(slot: Array<MapData, u64>) -> Self {
        Self {
            slot: Mutex::new(Some(slot)),
        }
    }

    /// Has the hooks leave everything alone until the first beat.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn not_yet(&self) -> Result<(), MapError> {
        self.write(NOT_YET)
    }

    /// Beats once, unless it has stopped.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn beat(&self) -> Result<(), MapError> {
        self.write(monotonic_ns())
    }

    /// Stops for good: from the return on we count as down.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn stop(&self) -> Result<(), MapError> {
        match self.lock().take() {
            Some(mut slot) => slot.set(0, 0, 0),
            None => Ok(()),
        }
    }

    fn write(&self, value: u64) -> Result<(), MapError> {
        match self.lock().as_mut() {
            Some(slot) => slot.set(0, value, 0),
            None => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Array<MapData, u64>>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Beats for as long as the task lives, and all that `serving` serves.
pub async fn beat_forever(heartbeat: Arc<Heartbeat>, serving: Vec<Handle>) {
    let mut ticks = tokio::time::interval(BEAT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_told = false;
    loop {
        ticks.tick().await;
        match timeout(PATIENCE, all_answer(&serving)).await {
            Ok(true) => is_told = false,
            Ok(false) => continue,
            Err(_) => {
                if !is_told {
                    error!(
                        "a thread that serves sessions has not answered for {PATIENCE:?}; unless it does, pgusher counts as down"
                    );
                }
                is_told = true;
                continue;
            }
        }
        if let Err(error) = heartbeat.beat() {
            error!(%error, "cannot tell the hooks that pgusher lives; new connects will not be served");
        }
    }
}

/// Whether each of them runs a task. Waits for one that does not, for as long as that takes.
async fn all_answer(serving: &[Handle]) -> bool {
    // Asked all at once: what is slow shall not be waited for one by one.
    let asked: Vec<_> = serving.iter().map(|one| one.spawn(async {})).collect();
    for answer in asked {
        if answer.await.is_err() {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;

    use tokio::runtime::Builder;
    use tokio::task::yield_now;

    use super::*;

    #[test]
    fn a_runtime_that_hangs_or_has_ended_does_not_answer() {
        let build = || Builder::new_current_thread().build().unwrap();
        let (asking, serving) = (build(), build());
        let runtimes = [serving.handle().clone()];
        let mut answer = pin!(all_answer(&runtimes));
        let mut look = || {
            asking.block_on(poll_fn(|context| {
                Poll::Ready(answer.as_mut().poll(context))
            }))
        };
        assert!(look().is_pending());
        let answered = loop {
            serving.block_on(yield_now());
            if let Poll::Ready(answered) = look() {
                break answered;
            }
        };
        assert!(answered);
        drop(serving);
        assert!(!asking.block_on(all_answer(&runtimes)));
    }
}
