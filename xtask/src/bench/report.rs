//! What came out of a table, as cells and as bars. Pure.

use super::grid::Grid;
use super::measurement::Comparison;
use super::plot::{Bar, Group};
use super::tables::Table;
use super::ways::{Through, Way};
use super::workloads::Unit;

/// A workload's rounds.
pub(super) struct Line {
    pub(super) name: &'static str,
    pub(super) unit: Unit,
    pub(super) comparison: Comparison,
}

/// All that was measured for a table.
pub(super) struct Findings<'a> {
    pub(super) table: &'a Table,
    /// As in the samples of each round, the direct one first.
    pub(super) ways: Vec<Way>,
    pub(super) lines: Vec<Line>,
}

impl Findings<'_> {
    /// Returns the table: the direct rate, ratios, and the proxies' processor time.
    pub(super) fn grid(&self) -> Grid {
        let mut titles = vec!["workload".to_owned(), self.name(0).to_owned()];
        for (way, other) in self.pairs() {
            titles.push(format!("{} / {}", self.name(way), self.name(other)));
        }
        for way in self.proxied() {
            titles.push(format!("CPU {}", self.name(way)));
        }
        titles.push("of CPU".to_owned());
        let mut grid = Grid::new(titles);
        for line in &self.lines {
            grid.add(self.row(line));
        }
        grid
    }

    /// Returns for each workload how the other ways compare with the direct one.
    pub(super) fn groups(&self) -> Vec<Group> {
        let bar = |line: &Line, way| Bar {
            way: self.name(way),
            ratio: line.comparison.ratio(way, 0),
        };
        self.lines
            .iter()
            .map(|line| Group {
                name: line.name,
                bars: (1..self.ways.len()).map(|way| bar(line, way)).collect(),
            })
            .collect()
    }

    fn row(&self, line: &Line) -> Vec<String> {
        let Line {
            name,
            unit,
            comparison,
        } = line;
        let mut row = vec![
            (*name).to_owned(),
            format!("{:.0} {}", comparison.rate(0), unit.rate),
        ];
        for (way, other) in self.pairs() {
            row.push(comparison.ratio(way, other).to_string());
        }
        for way in self.proxied() {
            row.push(format!("{:.2}", comparison.cpu(way) * unit.batch));
        }
        row.push(unit.cpu.to_owned());
        row
    }

    /// Every way beside the direct one, then those that the table wants beside each other.
    fn pairs(&self) -> impl Iterator<Item = (usize, usize)> {
        let with_direct = (1..self.ways.len()).map(|way| (way, 0));
        with_direct.chain(self.table.also.iter().copied())
    }

    fn proxied(&self) -> impl Iterator<Item = usize> {
        let ways = self.ways.iter().enumerate();
        ways.filter(|(_, way)| !matches!(way.through, Through::Nothing))
            .map(|(number, _)| number)
    }

    fn name(&self, way: usize) -> &'static str {
        self.ways.get(way).map_or("?", |way| way.name)
    }
}

#[cfg(test)]
mod tests {
    use super::super::measurement::Sample;
    use super::super::tables::PLAIN;
    use super::super::ways::{DIRECT, SESSIONS, STATEMENTS};
    use super::super::workloads::Work;
    use super::*;

    #[test]
    fn a_row_has_the_direct_rate_all_ratios_and_the_price_of_each_proxy() {
        let mut comparison = Comparison::default();
        let sample = |rate, cpu| Sample { rate, cpu };
        comparison.add(vec![
            sample(200.0, f64::NAN),
            sample(100.0, 20e-6),
            sample(50.0, 25e-6),
        ]);
        let findings = Findings {
            table: &PLAIN,
            ways: vec![DIRECT, SESSIONS, STATEMENTS],
            lines: vec![Line {
                name: "connect",
                unit: Work::Accept { clients: 1 }.unit(),
                comparison,
            }],
        };
        assert_eq!(
            findings.grid().markdown(),
            "| workload | direct | sessions / direct | statements / direct | statements / sessions | CPU sessions | CPU statements | of CPU |\n\
             |---|---|---|---|---|---|---|---|\n\
             | connect | 200 1/s | 0.50 (0.50..0.50) | 0.25 (0.25..0.25) | 0.50 (0.50..0.50) | 2.00 | 2.50 | s/100k |\n"
        );
        let groups = findings.groups();
        let bars: Vec<&str> = groups[0].bars.iter().map(|bar| bar.way).collect();
        assert_eq!(bars, ["sessions", "statements"]);
    }
}
