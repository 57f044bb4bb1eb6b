//! Which capabilities pgusher needs, when, and what for: one table for start-up, `pgusher doctor` and the tests.

use std::io;

use procfs::sys::kernel::Version;
use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};
use tracing::debug;

use super::Role;

/// A capability, and what it is there for.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    /// The capability.
    pub capability: CapabilitySet,
    /// Its name.
    pub name: &'static str,
    /// When it is needed.
    pub when: When,
    /// What cannot be done without it.
    pub purpose: &'static str,
}

/// When a capability is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Until the hooks are attached.
    AtStart,
    /// Until then, and on kernels before this one by every thread for as long as it lives.
    AtStartAndBefore(u16, u16),
    /// To enter a network namespace, by the thread that does nothing else.
    ToEnter,
    /// To do as another user would, by threads that end with it, and the one that starts them.
    ToImpersonate,
    /// By every thread for as long as it lives.
    Always,
}

/// Everything that a run needs. docs/decisions/0044-least-privilege.md says which test fails without each.
pub const NEEDS: [Need; 10] = [
    Need {
        capability: CapabilitySet::BPF,
        name: "CAP_BPF",
        // Until then bpf(2) asked for it even where a descriptor is at hand, if unprivileged_bpf_disabled is set.
        when: When::AtStartAndBefore(5, 19),
        purpose: "loading the hooks",
    },
    Need {
        capability: CapabilitySet::PERFMON,
        name: "CAP_PERFMON",
        when: When::AtStart,
        purpose: "reading the calling task in the hooks",
    },
    Need {
        capability: CapabilitySet::NET_ADMIN,
        name: "CAP_NET_ADMIN",
        // From then on CAP_NET_RAW allows SO_MARK.
        when: When::AtStartAndBefore(5, 17),
        purpose: "attaching the hooks, resetting sessions of before",
    },
    Need {
        capability: CapabilitySet::NET_RAW,
        name: "CAP_NET_RAW",
        when: When::Always,
        purpose: "firewall marks on connections to servers",
    },
    Need {
        capability: CapabilitySet::SYS_PTRACE,
        name: "CAP_SYS_PTRACE",
        when: When::Always,
        purpose: "reading what /proc shows of other users' processes",
    },
    Need {
        capability: CapabilitySet::DAC_READ_SEARCH,
        name: "CAP_DAC_READ_SEARCH",
        when: When::Always,
        purpose: "reading programs, scripts and keys that belong to other users",
    },
    Need {
        capability: CapabilitySet::SYS_ADMIN,
        name: "CAP_SYS_ADMIN",
        when: When::ToEnter,
        purpose: "entering other network namespaces",
    },
    Need {
        capability: CapabilitySet::SETUID,
        name: "CAP_SETUID",
        when: When::ToImpersonate,
        purpose: "connecting to unix sockets as their clients would",
    },
    Need {
        capability: CapabilitySet::SETGID,
        name: "CAP_SETGID",
        when: When::ToImpersonate,
        purpose: "the same, with their groups",
    },
    Need {
        capability: CapabilitySet::DAC_OVERRIDE,
        name: "CAP_DAC_OVERRIDE",
        when: When::ToImpersonate,
        purpose: "the same for clients that have it, such as root",
    },
];

/// What a thread with this role keeps, on the running kernel.
pub fn kept(role: Role) -> CapabilitySet {
    // A kernel that does not tell its version gets what the oldest would.
    let version = Version::current().map_or((0, 0), |version| {
        (u16::from(version.major), u16::from(version.minor))
    });
    kept_on(role, version)
}

fn kept_on(role: Role, version: (u16, u16)) -> CapabilitySet {
    let is_kept = |need: &&Need| match need.when {
        When::AtStart => false,
        When::AtStartAndBefore(major, minor) => version < (major, minor),
        When::ToEnter => role == Role::Porter,
        When::ToImpersonate => matches!(role, Role::Porter | Role::Envoy),
        When::Always => true,
    };
    NEEDS
        .iter()
        .filter(is_kept)
        .fold(CapabilitySet::empty(), |set, need| set | need.capability)
}

/// Leaves the calling thread with `kept`, as far as it has them, in every set; nothing is inheritable.
///
/// # Errors
/// The operating system's reason.
pub(super) fn give_up(kept: CapabilitySet) -> io::Result<()> {
    narrow_bounding_set(kept)?;
    clear_ambient_capability_set()?;
    keep_only(kept)
}

/// Leaves the calling thread with `kept` in effect, and with no way back to others.
///
/// # Errors
/// The operating system's reason.
pub fn keep_only(kept: CapabilitySet) -> io::Result<()> {
    let permitted = capabilities(None)?.permitted & kept;
    let sets = CapabilitySets {
        effective: permitted,
        permitted,
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, sets)?)
}

/// Takes everything else out of the set that bounds what a program that is executed may gain.
fn narrow_bounding_set(kept: CapabilitySet) -> io::Result<()> {
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if kept.contains(capability) {
            continue;
        }
        match remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // The kernel has no more.
            Err(Errno::INVAL) => return Ok(()),
            // Nothing is executed any more, and nothing could be gained by it.
            Err(Errno::PERM) => {
                debug!("the bounding set stays as it is: CAP_SETPCAP is missing");
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_porter_may_enter_only_envoys_impersonate_and_nobody_loads() {
        for version in [(5, 10), (6, 18)] {
            let relay = kept_on(Role::Relay, version);
            let porter = kept_on(Role::Porter, version);
            let envoy = kept_on(Role::Envoy, version);
            assert_eq!(porter - envoy, CapabilitySet::SYS_ADMIN);
            let as_others =
                CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::DAC_OVERRIDE;
            assert_eq!(envoy - relay, as_others);
            assert!(!relay.intersects(CapabilitySet::PERFMON));
        }
    }

    #[test]
    fn old_kernels_need_more() {
        let bpf = |version| kept_on(Role::Relay, version).contains(CapabilitySet::BPF);
        assert!(bpf((5, 18)) && !bpf((5, 19)));
        let marks = |version| kept_on(Role::Relay, version).contains(CapabilitySet::NET_ADMIN);
        assert!(marks((5, 16)) && !marks((5, 17)));
    }

    #[test]
    fn what_is_given_up_is_gone_from_every_set_of_the_thread_alone() {
        let before = capabilities(None).unwrap();
        let kept = CapabilitySet::NET_RAW;
        let thread = std::thread::spawn(move || {
            give_up(kept).unwrap();
            (
                capabilities(None).unwrap(),
                std::thread::spawn(|| capabilities(None).unwrap())
                    .join()
                    .unwrap(),
            )
        });
        let (after, inherited) = thread.join().unwrap();
        for sets in [after, inherited] {
            assert_eq!(sets.permitted, before.permitted & kept);
            assert_eq!(sets.effective, sets.permitted);
            assert_eq!(sets.inheritable, CapabilitySet::empty());
        }
        assert_eq!(capabilities(None).unwrap(), before);
    }
}
