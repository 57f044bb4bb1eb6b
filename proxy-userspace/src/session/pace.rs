//! How long connections spend in each stage before they have a session, for `pgusher status`.
//!
//! Counting is one atomic addition: no lock, no allocation, and the same memory whatever comes.

use std::array;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How many buckets a doubling has: a quantile is told to a quarter of its value.
const PER_OCTAVE: u32 = 4;
/// From a microsecond to 17 minutes; what takes longer counts as that.
const OCTAVES: u32 = 30;
const BUCKETS: usize = (PER_OCTAVE * OCTAVES) as usize;

/// A stage that is ours, and not the client's or the operator's to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// From the accept until a thread has taken it up.
    Handed,
    /// The original destination from the hand-over table.
    Handover,
    /// Who it is.
    Identify,
    /// What of that, and of its record, was still to be done when the server had accepted, where it was dialled meanwhile;
    /// half a second at most, after which the server is left.
    HeldUp,
    /// Handing over the opening record.
    Record,
    /// One answer of the policies'.
    Policy,
    /// Connecting to the server, with the handshake where TLS ends at pgusher.
    Dial,
}

const STAGES: [Stage; 7] = [
    Stage::Handed,
    Stage::Handover,
    Stage::Identify,
    Stage::HeldUp,
    Stage::Record,
    Stage::Policy,
    Stage::Dial,
];

impl fmt::Display for Stage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Handed => "handed over",
            Self::Handover => "destination",
            Self::Identify => "identity",
            Self::HeldUp => "held up by it",
            Self::Record => "record",
            Self::Policy => "policy",
            Self::Dial => "dial",
        })
    }
}

/// The times of every stage.
#[derive(Debug, Default)]
pub struct Pace {
    stages: [Histogram; STAGES.len()],
}

impl Pace {
    /// Counts that a stage took so long.
    pub fn took(&self, stage: Stage, time: Duration) {
        if let Some(histogram) = self.stages.get(stage as usize) {
            histogram.count(time);
        }
    }

    /// Does something that is a stage, and counts how long it took.
    pub fn time<T>(&self, stage: Stage, work: impl FnOnce() -> T) -> T {
        let since = Instant::now();
        let done = work();
        self.took(stage, since.elapsed());
        done
    }

    /// The times as they stand.
    pub fn read(&self) -> Vec<StagePace> {
        let stages = STAGES.into_iter().zip(&self.stages);
        stages
            .map(|(stage, histogram)| histogram.read(stage))
            .collect()
    }
}

/// How long one stage took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagePace {
    /// Which.
    pub stage: Stage,
    /// How many connections passed it.
    pub count: u64,
    /// What half of them did not exceed, in microseconds, rounded up to a quarter more.
    pub p50_us: u64,
    /// What 99 of 100 did not exceed, likewise.
    pub p99_us: u64,
}

impl fmt::Display for StagePace {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}/{} µs", self.stage, self.p50_us, self.p99_us)
    }
}

#[derive(Debug)]
struct Histogram {
    buckets: [AtomicU64; BUCKETS],
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

impl Histogram {
    fn count(&self, time: Duration) {
        if let Some(bucket) = self.buckets.get(bucket_of(time)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn read(&self, stage: Stage) -> StagePace {
        let counts = self
            .buckets
            .each_ref()
            .map(|one| one.load(Ordering::Relaxed));
        let count = counts.iter().sum();
        StagePace {
            stage,
            count,
            p50_us: quantile(&counts, count, 50),
            p99_us: quantile(&counts, count, 99),
        }
    }
}

/// The last bucket whose lower bound is not above the time.
fn bucket_of(time: Duration) -> usize {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1);
    let octave = micros.ilog2();
    // The two bits behind the first say where in its octave it is.
    let quarter = ((u128::from(micros) << 2 >> octave) & 3) as usize;
    ((octave * PER_OCTAVE) as usize + quarter).min(BUCKETS - 1)
}

/// Where the next bucket begins, in microseconds.
fn upper_bound(bucket: usize) -> u64 {
    let next = bucket as u64 + 1;
    let (octave, quarter) = (next / 4, next % 4);
    ((4 + quarter) << octave).div_ceil(4)
}

/// What so many of a hundred did not exceed; 0 of none.
fn quantile(counts: &[u64], of: u64, percent: u64) -> u64 {
    let wanted = (of * percent).div_ceil(100);
    let mut seen = 0;
    let found = counts.iter().position(|count| {
        seen += count;
        seen >= wanted && wanted > 0
    });
    found.map_or(0, upper_bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_to_a_quarter_of_its_value() {
        for micros in [1_u64, 2, 3, 7, 8, 99, 150, 1_000, 123_456, 999_999_999] {
            let bound = upper_bound(bucket_of(Duration::from_micros(micros)));
            assert!(bound > micros, "{micros} counted below {bound}");
            assert!(bound <= micros + micros / 4 + 1, "{micros} told as {bound}");
        }
    }

    #[test]
    fn nothing_is_too_short_or_too_long_to_be_counted() {
        assert_eq!(bucket_of(Duration::ZERO), 0);
        assert_eq!(bucket_of(Duration::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_those_of_what_was_counted() {
        let pace = Pace::default();
        assert!(
            pace.read()
                .iter()
                .all(|stage| stage.count == 0 && stage.p99_us == 0)
        );
        for _ in 0..98 {
            pace.took(Stage::Identify, Duration::from_micros(100));
        }
        for _ in 0..2 {
            pace.took(Stage::Identify, Duration::from_millis(50));
        }
        let all = pace.read();
        let identify = all.iter().find(|one| one.stage == Stage::Identify).unwrap();
        assert_eq!(identify.count, 100);
        assert!((101..=125).contains(&identify.p50_us), "{identify:?}");
        assert!((50_001..=62_501).contains(&identify.p99_us), "{identify:?}");
    }

    #[test]
    fn every_stage_has_a_place_of_its_own() {
        for (index, stage) in STAGES.into_iter().enumerate() {
            assert_eq!(stage as usize, index);
        }
    }
}
