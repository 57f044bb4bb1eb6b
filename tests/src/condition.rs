//! Waiting for a condition: the only place of the tests where time passes on purpose.
//!
//! A test never waits *for* a time; it waits *until* something holds, and says what it saw last when it never does.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Longest a condition may take before the test fails: generous, because it only costs time in failing runs. An emulated
/// guest on a busy host may take a minute to load the programs.
pub const DEADLINE: Duration = Duration::from_secs(180);

/// Pause between two looks at a condition.
const INTERVAL: Duration = Duration::from_millis(5);

/// What one look at a condition found.
#[derive(Debug)]
pub enum Seen<T> {
    /// The condition holds.
    Holds(T),
    /// It does not hold yet; the text describes the state for the failure message.
    NotYet(String),
}

impl<T> Seen<T> {
    /// Holds when `value` is there; otherwise describes the state with `state`.
    pub fn some_or(value: Option<T>, state: impl FnOnce() -> String) -> Self {
        match value {
            Some(value) => Self::Holds(value),
            None => Self::NotYet(state()),
        }
    }
}

impl Seen<()> {
    /// Holds when `condition` is true; otherwise describes the state with `state`.
    pub fn when(condition: bool, state: impl FnOnce() -> String) -> Self {
        Self::some_or(condition.then_some(()), state)
    }
}

/// Looks until the condition holds and returns what it yielded.
///
/// # Errors
/// When a look fails, or when [`DEADLINE`] passes: the message holds the last state.
pub fn wait_until<T>(what: &str, look: impl FnMut() -> Result<Seen<T>>) -> Result<T> {
    wait_until_within(DEADLINE, what, look)
}

/// [`wait_until`] with a deadline of its own, for work that takes long by nature.
///
/// # Errors
/// As [`wait_until`].
pub fn wait_until_within<T>(
    deadline: Duration,
    what: &str,
    mut look: impl FnMut() -> Result<Seen<T>>,
) -> Result<T> {
    let begin = Instant::now();
    loop {
        match look()? {
            Seen::Holds(value) => return Ok(value),
            Seen::NotYet(state) if begin.elapsed() > deadline => {
                bail!("waited {deadline:?} in vain until {what}; last state: {state}")
            }
            Seen::NotYet(_) => thread::sleep(INTERVAL),
        }
    }
}
