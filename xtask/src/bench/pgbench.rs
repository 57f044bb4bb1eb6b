//! What pgbench is told, and what it reports. Pure.

use anyhow::{Context, Result, ensure};

/// Threads of pgbench: as many as the smallest machine that this is run on has processors.
const THREADS: u32 = 2;

/// pgbench's clock runs while clients connect, and its rate does not count that: so many of them get another second.
const CONNECTED_IN_A_SECOND: u32 = 100;

const PROCESSED: &str = "number of transactions actually processed: ";

/// What pgbench does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Script {
    /// `simple`, `extended` or `prepared`
    pub(super) protocol: &'static str,
    pub(super) clients: u32,
    /// Select single rows; else what resembles TPC-B
    pub(super) select_only: bool,
    /// A connection for each transaction
    pub(super) connects_each_time: bool,
}

impl Script {
    /// Selects single rows.
    pub(super) const fn select(protocol: &'static str, clients: u32) -> Self {
        Self {
            protocol,
            clients,
            select_only: true,
            connects_each_time: false,
        }
    }

    /// Five statements in a transaction, three of which write.
    pub(super) const fn tpc_b(clients: u32) -> Self {
        Self {
            protocol: "simple",
            clients,
            select_only: false,
            connects_each_time: false,
        }
    }

    /// Connects for each row.
    pub(super) const fn reconnect(clients: u32) -> Self {
        Self {
            protocol: "simple",
            clients,
            select_only: true,
            connects_each_time: true,
        }
    }

    /// Returns pgbench's arguments for a run of so many seconds, or more with many clients.
    pub(super) fn arguments(self, seconds: u32) -> Vec<String> {
        let connecting = (self.clients + CONNECTED_IN_A_SECOND / 2) / CONNECTED_IN_A_SECOND;
        let seconds = seconds + connecting;
        let mut arguments = vec![
            "--no-vacuum".to_owned(),
            format!("--protocol={}", self.protocol),
            format!("--client={}", self.clients),
            format!("--jobs={}", self.clients.min(THREADS)),
            format!("--time={seconds}"),
        ];
        if self.select_only {
            arguments.push("--select-only".to_owned());
        }
        if self.connects_each_time {
            arguments.push("--connect".to_owned());
        }
        arguments
    }
}

/// What came out.
#[derive(Debug, PartialEq)]
pub(super) struct Report {
    /// Transactions a second, as pgbench counts them
    pub(super) rate: f64,
    pub(super) transactions: u32,
}

impl Report {
    /// Reads what pgbench 15 prints at the end; none if its time was over before it had connected.
    ///
    /// # Errors
    ///
    /// When a transaction failed, or the text is of another kind.
    pub(super) fn read(text: &str) -> Result<Option<Self>> {
        let number = |label: &str| -> Option<f64> {
            let rest = text.lines().find_map(|line| line.strip_prefix(label))?;
            rest.split_whitespace().next()?.parse().ok()
        };
        let count = |label: &str| -> Option<u32> {
            let rest = text.lines().find_map(|line| line.strip_prefix(label))?;
            rest.split_whitespace().next()?.parse().ok()
        };
        let read = || {
            Some(Self {
                rate: number("tps = ")?,
                transactions: count(PROCESSED)?,
            })
        };
        if count(PROCESSED) == Some(0) {
            return Ok(None);
        }
        let report =
            read().with_context(|| format!("pgbench tells no transactions or tps:\n{text}"))?;
        let failed = count("number of failed transactions: ").unwrap_or(0);
        ensure!(failed == 0, "{failed} transactions failed:\n{text}");
        Ok(Some(report))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TPC_B: &str = "transaction type: <builtin: TPC-B (sort of)>\n\
        number of transactions actually processed: 1620\n\
        number of failed transactions: 0 (0.000%)\n\
        latency average = 0.123 ms\n\
        initial connection time = 6.109 ms\n\
        tps = 812.5 (without initial connection time)\n";

    #[test]
    fn the_rate_is_read_from_the_report_of_pgbench() {
        let report = Report {
            rate: 812.5,
            transactions: 1_620,
        };
        assert_eq!(Report::read(TPC_B).unwrap().as_ref(), Some(&report));
        let reconnecting = TPC_B.replace("(without initial", "(including reconnection");
        assert_eq!(Report::read(&reconnecting).unwrap(), Some(report));
    }

    #[test]
    fn a_run_with_failures_or_without_numbers_is_no_measurement() {
        let failed = TPC_B.replace("failed transactions: 0", "failed transactions: 3");
        for text in [failed.as_str(), "tps unknown"] {
            assert!(Report::read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_run_that_ended_before_it_had_connected_is_told_apart() {
        let text = "number of transactions actually processed: 0\n\
            number of failed transactions: 0 (NaN%)\n";
        assert_eq!(Report::read(text).unwrap(), None);
    }

    #[test]
    fn many_clients_have_time_to_connect() {
        for (clients, time) in [
            (1, "--time=2"),
            (8, "--time=2"),
            (64, "--time=3"),
            (512, "--time=7"),
        ] {
            let arguments = Script::select("simple", clients).arguments(2);
            assert!(arguments.contains(&time.to_owned()), "{arguments:?}");
        }
    }

    #[test]
    fn what_resembles_tpc_b_is_what_pgbench_does_unless_told_otherwise() {
        let arguments = Script::tpc_b(8).arguments(2);
        assert_eq!(
            arguments,
            [
                "--no-vacuum",
                "--protocol=simple",
                "--client=8",
                "--jobs=2",
                "--time=2"
            ]
        );
        let arguments = Script::reconnect(1).arguments(2);
        assert_eq!(
            arguments[3..],
            ["--jobs=1", "--time=2", "--select-only", "--connect"]
        );
    }
}
