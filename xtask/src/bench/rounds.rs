//! All ways in turn, round by round, so that what the machine does meanwhile hits all of them alike.

use anyhow::{Context, Result, ensure};

use super::measurement::{Comparison, Sample};
use super::tables::Workload;
use super::ways::{Through, Way};
use super::workloads::Stage;
use crate::playground::Lane;

/// A way that is ready to be measured.
pub(super) struct OpenWay {
    pub(super) way: Way,
    pub(super) lane: Lane,
}

/// Measures a workload on all ways; which one goes first changes with every round.
///
/// # Errors
///
/// When a client fails, or a proxy did not see the connections that it was measured with.
pub(super) fn compare(stage: &Stage, ways: &[OpenWay], workload: Workload) -> Result<Comparison> {
    let witnesses = ways
        .iter()
        .map(Witness::before)
        .collect::<Result<Vec<_>>>()?;
    let rounds = stage.rounds();
    let mut comparison = Comparison::default();
    for number in 0..rounds {
        let measure = |open: &OpenWay| {
            sample(stage, open, workload).with_context(|| {
                open.lane
                    .failure(&format!("{}, {}", workload.name, open.way.name))
            })
        };
        comparison.add(in_turn(number, ways, measure)?);
    }
    for witness in witnesses {
        witness.after(rounds)?;
    }
    Ok(comparison)
}

/// Returns what was measured of each way, in the order of the ways, whichever went first.
fn in_turn<W, S>(number: u32, ways: &[W], measure: impl Fn(&W) -> Result<S>) -> Result<Vec<S>> {
    let mut turns: Vec<(usize, &W)> = ways.iter().enumerate().collect();
    let first = number as usize % ways.len().max(1);
    turns.rotate_left(first);
    let mut results = Vec::new();
    for (place, way) in turns {
        results.push((place, measure(way)?));
    }
    results.sort_by_key(|(place, _)| *place);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

fn sample(stage: &Stage, open: &OpenWay, workload: Workload) -> Result<Sample> {
    let before = open.lane.cpu_seconds()?;
    let outcome = stage.perform(workload.work, open.way, &open.lane)?;
    let cpu = match (before, open.lane.cpu_seconds()?) {
        (Some(before), Some(after)) => (after - before) / outcome.amount,
        _ => f64::NAN,
    };
    Ok(Sample {
        rate: outcome.rate,
        cpu,
    })
}

/// What shows that the work went the way it was meant to.
struct Witness<'a> {
    open: &'a OpenWay,
    redirected: Option<u64>,
    cpu: Option<f64>,
}

impl<'a> Witness<'a> {
    fn before(open: &'a OpenWay) -> Result<Self> {
        Ok(Self {
            open,
            redirected: open.lane.redirected()?,
            cpu: open.lane.cpu_seconds()?,
        })
    }

    fn after(self, rounds: u32) -> Result<()> {
        let lane = &self.open.lane;
        let name = self.open.way.name;
        match self.open.way.through {
            Through::Nothing => Ok(()),
            Through::Pgusher(_) => {
                let seen = lane.redirected()?.zip(self.redirected);
                let seen = seen.map_or(0, |(after, before)| after.saturating_sub(before));
                went_through(name, seen, rounds)
            }
            Through::Relay(_) => {
                let worked = lane.cpu_seconds()? > self.cpu;
                ensure!(
                    worked,
                    "{name} used no processor time in {rounds} rounds: the numbers would mean nothing"
                );
                Ok(())
            }
        }
    }
}

/// Every round has at least one connect of its own.
fn went_through(name: &str, seen: u64, rounds: u32) -> Result<()> {
    ensure!(
        seen >= u64::from(rounds),
        "the pgusher of {name} saw {seen} connects in {rounds} rounds: the numbers would mean nothing"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn another_way_goes_first_in_every_round_and_results_keep_their_order() {
        let order = RefCell::new(String::new());
        for number in 0..4 {
            let measure = |way: &&'static str| {
                order.borrow_mut().push_str(way);
                Ok(way.to_lowercase())
            };
            let results = in_turn(number, &["A", "B", "C"], measure).unwrap();
            assert_eq!(results, ["a", "b", "c"]);
        }
        assert_eq!(order.into_inner(), "ABCBCACABABC");
    }

    #[test]
    fn rounds_that_pgusher_did_not_see_are_no_measurement() {
        assert!(went_through("sessions", 5, 5).is_ok());
        let error = went_through("sessions", 4, 5).unwrap_err().to_string();
        assert!(
            error.contains("sessions saw 4 connects in 5 rounds"),
            "{error}"
        );
    }

    #[test]
    fn a_way_that_fails_fails_the_round() {
        let measure = |way: &u32| {
            ensure!(*way != 2, "no server");
            Ok(*way)
        };
        assert!(in_turn(0, &[1, 2, 3], measure).is_err());
    }
}
