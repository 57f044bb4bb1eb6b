//! What is compared with what: the tables, their ways and their workloads, in the order in which they are shown.

use super::pgbench::Script;
use super::ways::{
    AUTO_STATEMENTS, DIRECT, DIRECT_TLS, ENDED, FAST, FAST_STATEMENTS, PASSED, POLICED, POLLING,
    POLLING_FAST_STATEMENTS, SESSIONS, STATEMENTS, Way,
};
use super::workloads::Work;
use crate::playground::{Place, Product};

/// Something that all ways of a table do in turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Workload {
    pub(super) name: &'static str,
    pub(super) work: Work,
    /// Whether a rough answer includes it.
    quick: bool,
}

impl Workload {
    const fn always(name: &'static str, work: Work) -> Self {
        Self {
            name,
            work,
            quick: true,
        }
    }

    const fn thorough(name: &'static str, work: Work) -> Self {
        Self {
            name,
            work,
            quick: false,
        }
    }
}

/// Ways, and what is sent along all of them.
#[derive(Debug)]
pub(super) struct Table {
    /// How `--only` calls it.
    pub(super) name: &'static str,
    pub(super) legend: &'static str,
    /// The direct one first.
    ways: &'static [Way],
    /// Ways that are also compared with each other: positions in `ways`.
    pub(super) also: &'static [(usize, usize)],
    workloads: &'static [Workload],
    /// Whether other relays take part, and the server may be elsewhere.
    is_main: bool,
}

const fn select(protocol: &'static str, clients: u32) -> Work {
    Work::Pgbench(Script::select(protocol, clients))
}

impl Table {
    /// Returns what `--only` finds of this table.
    pub(super) fn names(&self) -> impl Iterator<Item = String> {
        let name = self.name;
        let workloads = self.workloads.iter();
        workloads.map(move |workload| format!("{name}: {}", workload.name))
    }
}

/// Without TLS.
pub(super) const PLAIN: Table = Table {
    name: "plain",
    legend: "Without TLS. sessions: through pgusher; statements: through pgusher with every statement on record; fast: on the fast path (full), auto: on the fast path (auto)",
    ways: &[
        DIRECT,
        SESSIONS,
        STATEMENTS,
        AUTO_STATEMENTS,
        FAST_STATEMENTS,
        FAST,
    ],
    also: &[(2, 1)],
    workloads: &[
        Workload::always("select simple x1", select("simple", 1)),
        Workload::thorough("select simple x8", select("simple", 8)),
        Workload::thorough("select simple x64", select("simple", 64)),
        Workload::thorough("select simple x512", select("simple", 512)),
        Workload::thorough("select extended x1", select("extended", 1)),
        Workload::thorough("select extended x8", select("extended", 8)),
        Workload::thorough("select extended x64", select("extended", 64)),
        Workload::thorough("select extended x512", select("extended", 512)),
        Workload::always("select prepared x1", select("prepared", 1)),
        Workload::always("select prepared x8", select("prepared", 8)),
        Workload::always("select prepared x64", select("prepared", 64)),
        Workload::always("select prepared x512", select("prepared", 512)),
        Workload::thorough("TPC-B x1", Work::Pgbench(Script::tpc_b(1))),
        Workload::always("TPC-B x8", Work::Pgbench(Script::tpc_b(8))),
        Workload::always("connect, select x1", Work::Pgbench(Script::reconnect(1))),
        Workload::always("accept x8", Work::Accept { clients: 8 }),
        Workload::always("COPY out", Work::CopyOut),
        Workload::always("COPY in", Work::CopyIn),
        Workload::always("one value of 100 MB", Work::LargeValue),
    ],
    is_main: true,
};

/// Threads that stay awake for the next message, with few clients and with more of them than cores.
pub(super) const AWAKE: Table = Table {
    name: "polling",
    legend: "Busy polling. polling: with `busy_poll`, beside the same without it",
    ways: &[
        DIRECT,
        SESSIONS,
        POLLING,
        FAST_STATEMENTS,
        POLLING_FAST_STATEMENTS,
    ],
    also: &[(2, 1), (4, 3)],
    workloads: &[
        Workload::always("select prepared x1", select("prepared", 1)),
        Workload::always("select prepared x8", select("prepared", 8)),
    ],
    is_main: false,
};

/// Policies are about connections, so connections are what is measured.
pub(super) const NEW_CONNECTIONS: Table = Table {
    name: "policies",
    legend: "New connections. sessions: through pgusher; policies: the same, enforcing a hundred policies",
    ways: &[DIRECT, SESSIONS, POLICED],
    also: &[(2, 1)],
    workloads: &[Workload::always(
        "connect, select x1",
        Work::Pgbench(Script::reconnect(1)),
    )],
    is_main: false,
};

/// With TLS.
pub(super) const ENCRYPTED: Table = Table {
    name: "tls",
    legend: "With TLS. passed: through pgusher to the server; ended: at pgusher, which speaks TLS with the server",
    ways: &[DIRECT_TLS, PASSED, ENDED],
    also: &[(2, 1)],
    workloads: &[
        Workload::thorough("select prepared x1", select("prepared", 1)),
        Workload::always("select prepared x8", select("prepared", 8)),
        Workload::always("connect, select x1", Work::Pgbench(Script::reconnect(1))),
        Workload::always("COPY out", Work::CopyOut),
    ],
    is_main: false,
};

/// All of them.
pub(super) const ALL: [&Table; 4] = [&PLAIN, &AWAKE, &NEW_CONNECTIONS, &ENCRYPTED];

/// What of all this was asked for.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    pub(super) quick: bool,
    pub(super) place: Place,
    pub(super) against: Vec<Product>,
    /// Part of a name
    pub(super) only: Option<String>,
}

impl Choice {
    /// Returns whether something of this name, in the table of that name, was asked for.
    pub(super) fn includes(&self, table: &str, name: &str) -> bool {
        let full_name = format!("{table}: {name}");
        self.only
            .as_ref()
            .is_none_or(|part| full_name.contains(part))
    }

    /// Returns the workloads of a table that were asked for. Naming one includes it in a rough answer.
    pub(super) fn workloads(&self, table: &Table) -> Vec<Workload> {
        if !table.is_main && self.place == Place::Remote {
            return Vec::new();
        }
        let mut chosen = table.workloads.to_vec();
        chosen.retain(|it| self.includes(table.name, it.name));
        chosen.retain(|it| it.quick || !self.quick || self.only.is_some());
        chosen
    }

    /// Returns the ways of a table, with the other relays where they take part.
    pub(super) fn ways(&self, table: &Table) -> Vec<Way> {
        let mut ways = table.ways.to_vec();
        if table.is_main {
            ways.extend(self.against.iter().copied().map(Way::beside));
        }
        ways
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn choice(only: Option<&str>) -> Choice {
        Choice {
            quick: false,
            place: Place::SameHost,
            against: vec![Product::Haproxy],
            only: only.map(str::to_owned),
        }
    }

    #[test]
    fn every_table_begins_with_the_direct_way_and_names_nothing_twice() {
        for table in ALL {
            assert_eq!(table.ways[0].name, "direct", "{}", table.name);
            let names: HashSet<&str> = table.workloads.iter().map(|it| it.name).collect();
            assert_eq!(names.len(), table.workloads.len(), "{}", table.name);
            for (way, other) in table.also {
                assert!(*way < table.ways.len() && *other < table.ways.len());
            }
        }
    }

    #[test]
    fn a_filter_finds_workloads_by_part_of_their_name_and_whole_tables_by_theirs() {
        let count = |only, table| choice(only).workloads(table).len();
        assert_eq!(count(Some("prepared x1"), &PLAIN), 1);
        assert_eq!(count(Some("prepared x1"), &ENCRYPTED), 1);
        assert_eq!(count(Some("tls: "), &PLAIN), 0);
        assert_eq!(count(Some("tls: "), &ENCRYPTED), 4);
        assert_eq!(count(None, &PLAIN), PLAIN.workloads.len());
    }

    #[test]
    fn a_rough_answer_leaves_out_what_takes_long_unless_it_is_named() {
        let quick = |only| Choice {
            quick: true,
            ..choice(only)
        };
        let names = |only| -> Vec<&str> {
            let chosen = quick(only).workloads(&PLAIN);
            chosen.iter().map(|it| it.name).collect()
        };
        assert!(!names(None).contains(&"select simple x512"));
        assert_eq!(names(Some("simple x512")), ["select simple x512"]);
    }

    #[test]
    fn other_relays_and_a_remote_server_belong_to_the_main_table_only() {
        let mut choice = choice(None);
        assert_eq!(choice.ways(&PLAIN).len(), PLAIN.ways.len() + 1);
        assert_eq!(choice.ways(&ENCRYPTED).len(), 3);
        choice.place = Place::Remote;
        assert!(choice.workloads(&ENCRYPTED).is_empty());
        assert!(!choice.workloads(&PLAIN).is_empty());
    }
}
