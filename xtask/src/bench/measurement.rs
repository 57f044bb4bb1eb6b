//! Numbers: rounds, medians, and how far they can be trusted. Pure.

/// What one way did in one round.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// Units of work in a second
    pub(super) rate: f64,
    /// Processor time of the proxy, in seconds for each unit of work; NaN where there is no proxy
    pub(super) cpu: f64,
}

/// The middle of some numbers, and how far apart they are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) smallest: f64,
    pub(super) largest: f64,
}

impl Spread {
    /// Sums up numbers in any order; of none, everything is NaN.
    pub(super) fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.collect();
        sorted.sort_by(f64::total_cmp);
        Self {
            median: median(&sorted),
            smallest: sorted.first().copied().unwrap_or(f64::NAN),
            largest: sorted.last().copied().unwrap_or(f64::NAN),
        }
    }
}

/// The median with the smallest and the largest.
impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            median,
            smallest,
            largest,
        } = self;
        let text = format!("{median:.2} ({smallest:.2}..{largest:.2})");
        f.pad(&text)
    }
}

/// All rounds of a workload: in each of them one sample of every way, in the order of the table's ways.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    rounds: Vec<Vec<Sample>>,
}

impl Comparison {
    pub(super) fn add(&mut self, round: Vec<Sample>) {
        self.rounds.push(round);
    }

    /// Returns how many times as fast one way was as another; the ratio is taken within each round.
    pub(super) fn ratio(&self, way: usize, other: usize) -> Spread {
        let rate = |round: &[Sample], way| sample(round, way).rate;
        Spread::of(
            self.rounds
                .iter()
                .map(|round| rate(round, way) / rate(round, other)),
        )
    }

    /// Returns a way's median rate.
    pub(super) fn rate(&self, way: usize) -> f64 {
        Spread::of(self.rounds.iter().map(|round| sample(round, way).rate)).median
    }

    /// Returns the median processor time of a way's proxy.
    pub(super) fn cpu(&self, way: usize) -> f64 {
        Spread::of(self.rounds.iter().map(|round| sample(round, way).cpu)).median
    }
}

fn sample(round: &[Sample], way: usize) -> Sample {
    round.get(way).copied().unwrap_or(Sample {
        rate: f64::NAN,
        cpu: f64::NAN,
    })
}

/// Returns the middle of sorted values, or the mean of the two in the middle; NaN of none.
fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    let upper = sorted.get(middle).copied().unwrap_or(f64::NAN);
    if sorted.len() % 2 == 1 {
        return upper;
    }
    let lower = middle.checked_sub(1).and_then(|index| sorted.get(index));
    (lower.copied().unwrap_or(f64::NAN) + upper) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_does_not_care_about_order_or_outliers() {
        let cases: [(&str, &[f64], f64); 3] = [
            ("odd", &[3.0, 1.0, 900.0], 3.0),
            ("even", &[4.0, 1.0, 2.0, 900.0], 3.0),
            ("one", &[7.0], 7.0),
        ];
        for (case, values, expected) in cases {
            let found = Spread::of(values.iter().copied()).median;
            assert!((found - expected).abs() < f64::EPSILON, "{case}: {found}");
        }
        assert!(Spread::of(std::iter::empty()).median.is_nan());
    }

    #[test]
    fn the_ratio_is_that_of_single_rounds() {
        let mut comparison = Comparison::default();
        for round in [
            [100.0, 50.0, 40.0],
            [200.0, 120.0, 60.0],
            [400.0, 280.0, 280.0],
        ] {
            let sample = |rate| Sample {
                rate,
                cpu: 5_000.0 / rate,
            };
            comparison.add(round.map(sample).to_vec());
        }
        let found =
            [(1, 0), (2, 0), (2, 1)].map(|(way, other)| comparison.ratio(way, other).to_string());
        assert_eq!(
            found,
            [
                "0.60 (0.50..0.70)",
                "0.40 (0.30..0.70)",
                "0.80 (0.50..1.00)"
            ]
        );
        assert!((comparison.rate(0) - 200.0).abs() < f64::EPSILON);
        assert!((comparison.cpu(1) - 41.67).abs() < 0.01);
        assert!(comparison.rate(3).is_nan(), "there is no fourth way");
    }
}
