//! What a run gives up, and what a running instance has given up.

use std::fs;
use std::path::Path;

use crate::admin;
use crate::fences::capabilities::{NEEDS, Need, When, kept};
use crate::fences::inspection::{Fences, names};
use crate::fences::{REFUSED_CALLS, Role};

use super::{Check, Verdict};
use rustix::thread::{CapabilitySet, capabilities as held};

/// What the kernel's filters can answer with.
const ACTIONS: &str = "/proc/sys/kernel/seccomp/actions_avail";

/// CAP_SYS_ADMIN includes what these allow.
const OF_SYS_ADMIN: CapabilitySet = CapabilitySet::BPF.union(CapabilitySet::PERFMON);

pub(super) fn capabilities() -> Check {
    const NAME: &str = "capabilities";
    let effective = match held(None) {
        Ok(sets) => sets.effective,
        Err(error) => return Check::new(NAME, Verdict::Missing, error.to_string()),
    };
    let lacking: Vec<String> = lacking(effective)
        .map(|need| format!("{} ({})", need.name, need.purpose))
        .collect();
    if lacking.is_empty() {
        let needed = NEEDS.iter().map(|need| need.capability).collect();
        return Check::new(NAME, Verdict::Ok, names(needed));
    }
    let detail = format!(
        "not effective: {}; run as root or grant them",
        lacking.join(", ")
    );
    Check::new(NAME, Verdict::Missing, detail)
}

/// Without those for unix sockets, the others go on.
fn lacking(effective: CapabilitySet) -> impl Iterator<Item = &'static Need> {
    let granted = if effective.contains(CapabilitySet::SYS_ADMIN) {
        effective | OF_SYS_ADMIN
    } else {
        effective
    };
    let is_lacking =
        move |need: &&Need| need.when != When::ToImpersonate && !granted.contains(need.capability);
    NEEDS.iter().filter(is_lacking)
}

/// The names of what connecting to unix sockets as their clients takes and is not effective.
pub(super) fn lacking_for_unix_sockets() -> Vec<&'static str> {
    let effective = held(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    let is_lacking =
        |need: &&Need| need.when == When::ToImpersonate && !effective.contains(need.capability);
    NEEDS
        .iter()
        .filter(is_lacking)
        .map(|need| need.name)
        .collect()
}

/// The fences that a run would have.
pub(super) fn available() -> Check {
    const NAME: &str = "fences";
    let actions = fs::read_to_string(ACTIONS).unwrap_or_default();
    if !actions.split_whitespace().any(|action| action == "errno") {
        let detail = "this kernel cannot refuse system calls (CONFIG_SECCOMP_FILTER)";
        return Check::new(NAME, Verdict::Missing, detail);
    }
    let detail = format!(
        "a run keeps {}; {} for one thread; {REFUSED_CALLS} system calls are refused",
        names(kept(Role::Relay)),
        names(kept(Role::Porter) - kept(Role::Relay)),
    );
    Check::new(NAME, Verdict::Ok, detail)
}

/// The fences of the instance that answers at `admin_socket`, if there is one.
pub(super) fn running(admin_socket: &Path) -> Option<Check> {
    const NAME: &str = "running";
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    let status = runtime.block_on(admin::fetch_status(admin_socket)).ok()?;
    let pid = i32::try_from(status.pid()).ok()?;
    let fences = match Fences::of(pid) {
        Ok(fences) => fences,
        Err(error) => return Some(Check::new(NAME, Verdict::Limited, error.to_string())),
    };
    let gaps = fences.gaps();
    Some(if gaps.is_empty() {
        let detail = format!("pid {pid}, {fences}; no new privileges, filtered");
        Check::new(NAME, Verdict::Ok, detail)
    } else {
        let detail = format!("pid {pid} is not fenced in: {}", gaps.join("; "));
        Check::new(NAME, Verdict::Limited, detail)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lacking_is_told_by_name_and_sys_admin_includes_bpf() {
        let all = |without: CapabilitySet| {
            let lacking = lacking(CapabilitySet::all() - without);
            lacking.map(|need| need.name).collect::<Vec<_>>()
        };
        assert!(all(CapabilitySet::empty()).is_empty());
        assert!(all(OF_SYS_ADMIN).is_empty());
        assert_eq!(all(CapabilitySet::SYS_ADMIN), ["CAP_SYS_ADMIN"]);
        assert!(all(CapabilitySet::SETUID).is_empty());
        assert_eq!(
            all(OF_SYS_ADMIN | CapabilitySet::SYS_ADMIN),
            ["CAP_BPF", "CAP_PERFMON", "CAP_SYS_ADMIN"]
        );
    }
}
