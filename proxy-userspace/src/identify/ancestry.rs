//! The process's parent, that one's parent and so on: who started what connects.
//!
//! Each link is checked while both ends are pinned, so that a chain never joins two processes that were not parent
//! and child. What has exited before it was looked at is not in it, and neither is what came before that: a process
//! whose parent exits becomes a child of init or of a subreaper.

use proxy_ebpf::offsets::NANOSECONDS_PER_TICK;
use proxy_ebpf::origin::Origin;
use serde::{Deserialize, Serialize};

use super::executable;
use super::fact::{Fact, Grade};
use super::held::Held;
use super::pinned::Pinned;
use crate::wire::text::printable;

/// How many ancestors are told.
const MAX_ANCESTORS: usize = 8;

/// A process above the one that connected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ancestor {
    /// Its process id in the initial pid namespace.
    pub pid: u32,
    /// When it started, in nanoseconds since boot, to the hundredth of a second.
    pub start_time_ns: u64,
    /// The path of its executable, without "(deleted)".
    pub exe: Option<String>,
    /// Its command name, which it can set to anything.
    pub comm: String,
}

/// Reads the chain above `process`.
pub(super) fn ancestors(process: &Pinned, origin: &Origin, held: &Held) -> Vec<Fact<Ancestor>> {
    let mut chain = Vec::new();
    let mut parent = process.parent(held);
    while let Some(found) = parent.filter(|_| chain.len() < MAX_ANCESTORS) {
        let grade = if chain.is_empty() && is_captured_parent(&found, origin) {
            Grade::Verified
        } else {
            Grade::Late
        };
        let Some(ancestor) = describe(&found) else {
            break;
        };
        chain.push(Fact::new(ancestor, grade));
        parent = found.parent(held);
    }
    chain
}

fn is_captured_parent(parent: &Pinned, origin: &Origin) -> bool {
    origin.parent().is_some_and(|(tgid, start_time_ns)| {
        parent.pid() == tgid && parent.started_at_ticks() == start_time_ns / NANOSECONDS_PER_TICK
    })
}

fn describe(process: &Pinned) -> Option<Ancestor> {
    let link = executable::link(process.pid());
    let exe = link.map(|link| executable::unchecked(&link).path.value().clone());
    let described = Ancestor {
        pid: process.pid(),
        start_time_ns: process
            .started_at_ticks()
            .saturating_mul(NANOSECONDS_PER_TICK),
        exe,
        comm: printable(process.comm()),
    };
    // Its number may have been taken by another while its /proc entry was read.
    process.is_alive().then_some(described)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own_chain(origin: &Origin) -> Vec<Fact<Ancestor>> {
        let own = Pinned::open(std::process::id()).unwrap();
        ancestors(&own, origin, &Held::default())
    }

    #[test]
    fn the_chain_begins_with_the_parent_and_is_bounded() {
        let origin = Origin::new(std::process::id(), 0, 0, 0, 0);
        let chain = own_chain(&origin);
        let parent = chain.first().unwrap();
        assert_eq!(parent.value().pid, std::os::unix::process::parent_id());
        assert_eq!(parent.grade(), Grade::Late);
        assert!(chain.len() <= MAX_ANCESTORS);
    }

    #[test]
    fn only_the_captured_parent_is_verified() {
        let parent = std::os::unix::process::parent_id();
        let started = Pinned::open(parent).unwrap().started_at_ticks() * NANOSECONDS_PER_TICK;
        let mut origin = Origin::new(std::process::id(), 0, 0, 0, 0);
        let mut grade_with = |tgid, start_time_ns| {
            origin.set_parent(tgid, start_time_ns);
            own_chain(&origin).first().unwrap().grade()
        };
        assert_eq!(grade_with(parent, started + 5_000_000), Grade::Verified);
        assert_eq!(grade_with(parent, started + 1_000_000_000), Grade::Late);
        assert_eq!(grade_with(parent + 1, started), Grade::Late);
    }
}
