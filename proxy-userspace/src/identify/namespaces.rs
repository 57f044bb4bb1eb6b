//! The namespaces a process lives in, by number, and which of them are neither pgusher's own nor the host's.

use std::fs;

use proxy_ebpf::standing::{Namespace, Standing};
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
        let found = Self::each(|kind| {
            let link = fs::read_link(format!("/proc/{process}/ns/{}", name(kind))).ok()?;
            number_in(link.to_str()?)
        });
        (found != Self::default()).then_some(found)
    }

    /// The namespaces that were captured; none unless all were.
    pub(super) fn captured(standing: &Standing) -> Option<Self> {
        let found = Self::each(|kind| standing.namespace(kind).map(u64::from));
        let is_complete = found.by_kind().iter().all(|(_, number)| number.is_some());
        is_complete.then_some(found)
    }

    fn each(number: impl Fn(Namespace) -> Option<u64>) -> Self {
        Self {
            pid: number(Namespace::Pid),
            mnt: number(Namespace::Mnt),
            user: number(Namespace::User),
            net: number(Namespace::Net),
            uts: number(Namespace::Uts),
            ipc: number(Namespace::Ipc),
            cgroup: number(Namespace::Cgroup),
        }
    }

    /// Tells them as the hook would have captured them.
    pub(super) fn show(&self, standing: &mut Standing) {
        for (kind, number) in self.by_kind() {
            if let Some(number) = number.and_then(|number| u32::try_from(number).ok()) {
                standing.set_namespace(kind, number);
            }
        }
    }

    /// Those that count as ours: pgusher's own, and the host's, which are those of the first process and of the kernel's
    /// threads (some hosts hide the first). A service manager may have given us mounts of our own that show the host's
    /// files.
    pub(super) fn ours() -> Vec<Self> {
        ["self", "1", "2"]
            .into_iter()
            .filter_map(Self::of)
            .collect()
    }

    /// The kinds in which this process differs from all of `ours`; one that is unknown is not among them.
    pub(super) fn other_than(&self, ours: &[Self]) -> Vec<String> {
        let mut differing = Vec::new();
        for (index, (kind, theirs)) in self.by_kind().into_iter().enumerate() {
            let known = ours.iter().filter_map(|one| one.by_kind().get(index)?.1);
            let mut known = known.peekable();
            let is_known = theirs.is_some() && known.peek().is_some();
            if is_known && known.all(|number| Some(number) != theirs) {
                differing.push(name(kind).to_owned());
            }
        }
        differing
    }

    fn by_kind(&self) -> [(Namespace, Option<u64>); 7] {
        [
            (Namespace::Pid, self.pid),
            (Namespace::Mnt, self.mnt),
            (Namespace::User, self.user),
            (Namespace::Net, self.net),
            (Namespace::Uts, self.uts),
            (Namespace::Ipc, self.ipc),
            (Namespace::Cgroup, self.cgroup),
        ]
    }
}

/// What a kind is called, in /proc/PID/ns and in records.
fn name(kind: Namespace) -> &'static str {
    match kind {
        Namespace::Pid => "pid",
        Namespace::Mnt => "mnt",
        Namespace::User => "user",
        Namespace::Net => "net",
        Namespace::Uts => "uts",
        Namespace::Ipc => "ipc",
        Namespace::Cgroup => "cgroup",
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
        let ours = std::slice::from_ref(&own);
        assert_eq!(own.other_than(ours), Vec::<String>::new());
    }

    #[test]
    fn what_the_hook_captures_is_what_proc_shows_and_a_part_is_nothing() {
        let own = Namespaces::of("self").unwrap();
        let mut standing = Standing::UNKNOWN;
        own.show(&mut standing);
        assert_eq!(Namespaces::captured(&standing), Some(own));
        standing.set_namespace(Namespace::Ipc, 0);
        assert_eq!(Namespaces::captured(&standing), None);
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
        assert_eq!(other.other_than(&[own]), ["pid", "mnt"]);
        assert_eq!(other.other_than(&[]), Vec::<String>::new());
    }

    #[test]
    fn what_is_the_hosts_is_not_foreign_to_a_pgusher_with_mounts_of_its_own() {
        let host = Namespaces {
            mnt: Some(1),
            net: Some(2),
            ..Namespaces::default()
        };
        let own = Namespaces {
            mnt: Some(3),
            ..host.clone()
        };
        let container = Namespaces {
            mnt: Some(4),
            ..host.clone()
        };
        let ours = [own, host.clone()];
        assert_eq!(host.other_than(&ours), Vec::<String>::new());
        assert_eq!(container.other_than(&ours), ["mnt"]);
    }

    #[test]
    fn a_link_without_a_number_is_absent() {
        for (link, expected) in [("mnt:[42]", Some(42)), ("mnt:[]", None), ("mnt:42", None)] {
            assert_eq!(number_in(link), expected, "{link}");
        }
    }
}
