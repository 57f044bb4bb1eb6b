//! The namespaces a process lives in, by number, and which of them are not pgusher's own.

use std::fs;

use serde::{Deserialize, Serialize};

/// Inode numbers of a process's namespaces (/proc/PID/ns); none where one could not be read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// Process numbers.
    pub pid: Option<u64>,
    /// Mounts.
    pub mnt: Option<u64>,
    /// User and group ids, and what capabilities are good for.
    pub user: Option<u64>,
    /// Network devices and sockets.
    pub net: Option<u64>,
    /// Host name.
    pub uts: Option<u64>,
    /// System V IPC and POSIX message queues.
    pub ipc: Option<u64>,
    /// Where cgroup paths begin.
    pub cgroup: Option<u64>,
}

impl Namespaces {
    /// Reads the namespaces of the process with this name in /proc; none if not one could be read.
    pub(super) fn of(process: &str) -> Option<Self> {
        let number = |kind: &str| {
            let link = fs::read_link(format!("/proc/{process}/ns/{kind}")).ok()?;
            number_in(link.to_str()?)
        };
        let found = Self {
            pid: number("pid"),
            mnt: number("mnt"),
            user: number("user"),
            net: number("net"),
            uts: number("uts"),
            ipc: number("ipc"),
            cgroup: number("cgroup"),
        };
        (found != Self::default()).then_some(found)
    }

    /// The kinds in which this process and `own` differ; one that is unknown of either is not among them.
    pub(super) fn other_than(&self, own: &Self) -> Vec<String> {
        let pairs = [
            ("pid", self.pid, own.pid),
            ("mnt", self.mnt, own.mnt),
            ("user", self.user, own.user),
            ("net", self.net, own.net),
            ("uts", self.uts, own.uts),
            ("ipc", self.ipc, own.ipc),
            ("cgroup", self.cgroup, own.cgroup),
        ];
        let differs = |pair: &(&str, Option<u64>, Option<u64>)| matches!((pair.1, pair.2), (Some(theirs), Some(ours)) if theirs != ours);
        let differing = pairs.iter().filter(|pair| differs(pair));
        differing.map(|(kind, _, _)| (*kind).to_owned()).collect()
    }
}

/// `mnt:[4026531832]` → 4026531832
fn number_in(link: &str) -> Option<u64> {
    let (_, number) = link.strip_suffix(']')?.split_once(":[")?;
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_differs_from_itself_in_nothing() {
        let own = Namespaces::of("self").unwrap();
        assert!(own.mnt.is_some());
        assert_eq!(own.other_than(&own), Vec::<String>::new());
    }

    #[test]
    fn only_namespaces_that_are_known_to_differ_are_named() {
        let own = Namespaces::of("self").unwrap();
        let other = Namespaces {
            mnt: Some(1),
            uts: None,
            pid: Some(2),
            ..own.clone()
        };
        assert_eq!(other.other_than(&own), ["pid", "mnt"]);
    }

    #[test]
    fn a_link_without_a_number_is_absent() {
        for (link, expected) in [("mnt:[42]", Some(42)), ("mnt:[]", None), ("mnt:42", None)] {
            assert_eq!(number_in(link), expected, "{link}");
        }
    }
}
