//! How long is played, and from which seed: `cargo xtask torture` says so in the environment.

use std::env;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

const SEED: &str = "PGUSHER_TORTURE_SEED";
const MINUTES: &str = "PGUSHER_TORTURE_MINUTES";

/// Seeds of rounds: of one, or of as many as begin in the minutes that are wanted.
pub(super) fn rounds() -> Result<impl Iterator<Item = u64>> {
    let first = match env::var(SEED) {
        Ok(seed) => u64::from_str_radix(&seed, 16)
            .with_context(|| format!("{SEED} is {seed:?}, and not a hexadecimal number"))?,
        Err(_) => fastrand::u64(..),
    };
    let minutes = match env::var(MINUTES) {
        Ok(minutes) => minutes
            .parse()
            .with_context(|| format!("{MINUTES} is {minutes:?}, and not a number"))?,
        Err(_) => 0,
    };
    let end = Instant::now() + Duration::from_secs(60 * minutes);
    Ok((0..)
        .map(move |round: u64| first.wrapping_add(round.wrapping_mul(0x1_0000_0001)))
        .enumerate()
        .take_while(move |(round, _)| *round == 0 || Instant::now() < end)
        .map(|(_, seed)| seed))
}

/// Whether rounds may be long: when minutes are wanted.
pub(super) fn is_long() -> bool {
    env::var_os(MINUTES).is_some()
}
