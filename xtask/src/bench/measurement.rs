//! Numbers: what pgbench reports, medians, and how far they can be trusted. Pure.

/// What one way did in one round.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// In the workload's unit
    pub(super) rate: f64,
    /// Processor time of pgusher, in microseconds for each unit of work
    pub(super) cpu: f64,
}

/// One round's result for each of three ways: without pgusher, and through it in two ways.
pub(super) type Round = [Sample; 3];

/// All rounds of a workload.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    rounds: Vec<Round>,
}

impl Comparison {
    /// Returns the titles of the columns that [`Comparison::row`] fills, for ways of these names.
    pub(super) fn headline([direct, second, third]: [&str; 3]) -> String {
        let ratios = [
            format!("{second}/{direct}"),
            format!("{third}/{direct}"),
            format!("{third}/{second}"),
        ];
        let [first, other, cost] = ratios;
        format!(
            "{:<19} {direct:>9}       {first:<20}  {other:<20}  {cost:<20}  CPU {second}, {third}",
            "workload"
        )
    }

    pub(super) fn add(&mut self, round: Round) {
        self.rounds.push(round);
    }

    /// Returns one line of the table.
    pub(super) fn row(&self, name: &str, unit: &str) -> String {
        let column = |value: fn(&Round) -> f64| sorted(self.rounds.iter().map(value));
        let direct = median(&column(|[direct, ..]| direct.rate));
        let first = spread(&column(|[direct, second, _]| second.rate / direct.rate));
        let other = spread(&column(|[direct, _, third]| third.rate / direct.rate));
        let cost = spread(&column(|[_, second, third]| third.rate / second.rate));
        let second = median(&column(|[_, second, _]| second.cpu));
        let third = median(&column(|[.., third]| third.cpu));
        format!(
            "{name:<19} {direct:>9.0} {unit:<4}  {first:<20}  {other:<20}  {cost:<20}  {second:.0}, {third:.0} µs"
        )
    }
}

/// Writes sorted ratios as their median with the smallest and the largest.
fn spread(ratios: &[f64]) -> String {
    let smallest = ratios.first().copied().unwrap_or(f64::NAN);
    let largest = ratios.last().copied().unwrap_or(f64::NAN);
    format!("{:.2}  ({smallest:.2}..{largest:.2})", median(ratios))
}

/// Reads the rate from pgbench's report: `tps = 8123.4 (without initial connection time)`.
pub(super) fn transactions_per_second(report: &str) -> Option<f64> {
    let rate = report
        .lines()
        .find_map(|line| line.strip_prefix("tps = "))?;
    rate.split_whitespace().next()?.parse().ok()
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
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
            let found = median(&sorted(values.iter().copied()));
            assert!((found - expected).abs() < f64::EPSILON, "{case}: {found}");
        }
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn the_rate_is_read_from_the_report_of_pgbench() {
        let report = "number of failed transactions: 0 (0.000%)\n\
            latency average = 0.123 ms\n\
            tps = 812.5 (without initial connection time)\n";
        assert_eq!(transactions_per_second(report), Some(812.5));
        assert_eq!(transactions_per_second("tps unknown"), None);
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
            comparison.add(round.map(sample));
        }
        let row = comparison.row("select", "tps");
        for part in [
            "200 tps",
            "0.60  (0.50..0.70)",
            "0.40  (0.30..0.70)",
            "0.80  (0.50..1.00)",
            "42, 83 µs",
        ] {
            assert!(row.contains(part), "{part} is not in {row}");
        }
    }
}
