//! Since when connections may wait in accept queues: for how long an entry of the hand-over table may belong to one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::clock::boot_time_ns;

/// A pause between two connections that is shorter keeps nobody waiting for long, however many wait.
const SHORT: Duration = Duration::from_millis(10);
/// How long after a pause whoever had to wait may still be there.
const DRAINED_AFTER: Duration = Duration::from_secs(120);

/// When connections were not accepted although there may have been some. Times are nanoseconds since boot.
#[derive(Debug, Default)]
pub struct Intake {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Since when nothing is accepted.
    held_since: Option<u64>,
    /// From when to when nothing was: the last time, and those soon before it with somebody waiting ever since.
    pause: Option<(u64, u64)>,
    /// Nobody waited at some moment since.
    is_drained: bool,
}

/// Nothing is accepted for as long as this lives.
#[derive(Debug)]
pub struct Hold(Arc<Intake>);

impl Intake {
    /// From now on nothing is accepted. One hold at a time.
    pub fn hold(self: &Arc<Self>) -> Hold {
        self.lock().held_since = Some(boot_time_ns());
        Hold(Arc::clone(self))
    }

    /// Nothing was accepted from then to then.
    pub(super) fn paused(&self, since: u64, until: u64) {
        self.lock().add(since, until);
    }

    /// Nobody waits to be accepted now.
    pub(super) fn drained(&self) {
        self.lock().is_drained = true;
    }

    /// Before when every connection that was made is accepted, or will never be.
    pub(super) fn settled_at(&self, now: u64) -> u64 {
        let mut state = self.lock();
        if let Some(since) = state.held_since {
            state.add(since, now);
        }
        match state.pause {
            Some((since, until)) if is_within(until, now, DRAINED_AFTER) => since,
            _ => now,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add(&mut self, since: u64, until: u64) {
        if is_within(since, until, SHORT) {
            return;
        }
        let waits_since = self.pause.filter(|_| !self.is_drained);
        let begin = match waits_since {
            Some((begin, end)) if is_within(end, since, DRAINED_AFTER) => begin.min(since),
            _ => since,
        };
        self.pause = Some((begin, until));
        self.is_drained = false;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if let Some(since) = state.held_since.take() {
            state.add(since, boot_time_ns());
        }
    }
}

fn is_within(since: u64, now: u64, limit: Duration) -> bool {
    u128::from(now.saturating_sub(since)) < limit.as_nanos()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn whoever_may_have_waited_is_not_given_up() {
        let intake = Intake::default();
        assert_eq!(intake.settled_at(10 * SECOND), 10 * SECOND);
        intake.paused(20 * SECOND, 20 * SECOND + 1);
        assert_eq!(intake.settled_at(30 * SECOND), 30 * SECOND);
        intake.paused(40 * SECOND, 900 * SECOND);
        assert_eq!(intake.settled_at(1000 * SECOND), 40 * SECOND);
        // Soon after: whoever waited then may still.
        intake.paused(1010 * SECOND, 1011 * SECOND);
        assert_eq!(intake.settled_at(1100 * SECOND), 40 * SECOND);
        assert_eq!(intake.settled_at(1131 * SECOND), 1131 * SECOND);
        intake.paused(2000 * SECOND, 2001 * SECOND);
        assert_eq!(intake.settled_at(2002 * SECOND), 2000 * SECOND);
        // Pauses that follow one another for ever, with nobody left waiting in between.
        intake.drained();
        assert_eq!(intake.settled_at(2002 * SECOND), 2000 * SECOND);
        intake.paused(2050 * SECOND, 2051 * SECOND);
        assert_eq!(intake.settled_at(2052 * SECOND), 2050 * SECOND);
    }

    #[test]
    fn what_is_not_accepted_now_may_wait() {
        let intake = Arc::new(Intake::default());
        let hold = intake.hold();
        let later = boot_time_ns() + 500 * SECOND;
        let since = intake.settled_at(later);
        assert!(since < later - 400 * SECOND, "{since}");
        drop(hold);
        assert_eq!(
            intake.settled_at(later + 200 * SECOND),
            later + 200 * SECOND
        );
    }
}
