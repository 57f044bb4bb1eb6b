//! Reads which fences a process has, thread by thread.

use std::fmt;

use procfs::ProcResult;
use procfs::process::{Process, Status};
use rustix::thread::CapabilitySet;

use super::Role;
use super::capabilities::{NEEDS, kept};
use crate::intercept::{ERRAND_NAME, PORTER_NAME};

/// What `Seccomp:` in /proc/PID/status says of a thread with a filter.
const FILTERED: u32 = 2;

/// The fences of one thread.
#[derive(Clone, Debug)]
struct Thread {
    name: String,
    /// In effect, to be had, or to be inherited.
    held: CapabilitySet,
    bounding: CapabilitySet,
    is_filtered: bool,
    has_no_new_privs: bool,
}

/// The fences of a process.
#[derive(Clone, Debug)]
pub struct Fences(Vec<Thread>);

impl Fences {
    /// Those of all threads of a process.
    ///
    /// # Errors
    /// When /proc cannot be read, or the process is gone.
    pub fn of(pid: i32) -> ProcResult<Self> {
        let tasks = Process::new(pid)?.tasks()?;
        // A thread may end while we look.
        let statuses = tasks.filter_map(|task| task.and_then(|task| task.status()).ok());
        Ok(Self(statuses.map(Thread::from).collect()))
    }

    /// The threads that lack a fence, and which.
    pub fn gaps(&self) -> Vec<String> {
        let gaps = self.0.iter().filter_map(|thread| {
            let lacks = thread.lacks();
            (!lacks.is_empty()).then(|| format!("{} {}", thread.name, lacks.join(", ")))
        });
        gaps.collect()
    }
}

impl From<Status> for Thread {
    fn from(status: Status) -> Self {
        let set = CapabilitySet::from_bits_retain;
        let ambient = status.capamb.unwrap_or_default();
        Self {
            held: set(status.capprm | status.capeff | status.capinh | ambient),
            bounding: set(status.capbnd.unwrap_or_default()),
            is_filtered: status.seccomp == Some(FILTERED),
            has_no_new_privs: status.nonewprivs == Some(1),
            name: status.name,
        }
    }
}

impl Thread {
    fn role(&self) -> Role {
        // An errand has what the porter has, for a moment.
        if [PORTER_NAME, ERRAND_NAME].contains(&self.name.as_str()) {
            Role::Porter
        } else {
            Role::Relay
        }
    }

    fn lacks(&self) -> Vec<String> {
        let mut lacks = Vec::new();
        if !self.is_filtered {
            lacks.push("has no seccomp filter".to_owned());
        }
        if !self.has_no_new_privs {
            lacks.push("may gain privileges".to_owned());
        }
        let kept = kept(self.role());
        if !(self.held - kept).is_empty() {
            lacks.push(format!("holds {}", names(self.held - kept)));
        }
        if !(self.bounding - kept).is_empty() {
            lacks.push("is not bounded".to_owned());
        }
        lacks
    }
}

impl fmt::Display for Fences {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} threads", self.0.len())?;
        let held_by = |role| {
            let of_role = self.0.iter().filter(|thread| thread.role() == role);
            let held = of_role.fold(CapabilitySet::empty(), |set, thread| set | thread.held);
            names(held)
        };
        write!(
            out,
            " with {}, one with {}",
            held_by(Role::Relay),
            held_by(Role::Porter)
        )
    }
}

/// Capabilities by their names; those that pgusher has no use for by their number.
pub fn names(capabilities: CapabilitySet) -> String {
    let name = |single: CapabilitySet| {
        let need = NEEDS.iter().find(|need| need.capability == single);
        need.map_or_else(
            || format!("capability {}", single.bits().trailing_zeros()),
            |need| need.name.to_owned(),
        )
    };
    let bits = (0..u64::BITS).map(|number| CapabilitySet::from_bits_retain(1 << number));
    let names: Vec<String> = bits
        .filter(|single| capabilities.contains(*single))
        .map(name)
        .collect();
    if names.is_empty() {
        "no capabilities".to_owned()
    } else {
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(name: &str, held: CapabilitySet) -> Thread {
        Thread {
            name: name.to_owned(),
            held,
            bounding: held,
            is_filtered: true,
            has_no_new_privs: true,
        }
    }

    #[test]
    fn a_thread_is_told_for_what_it_lacks_and_only_the_porter_may_enter() {
        let (relay, porter) = (kept(Role::Relay), kept(Role::Porter));
        let fenced = [
            thread("relay", relay),
            thread("audit", CapabilitySet::empty()),
            thread(PORTER_NAME, porter),
        ];
        assert!(Fences(fenced.to_vec()).gaps().is_empty());
        let entering = Fences(vec![thread("relay", porter)]);
        let [gap] = &entering.gaps()[..] else {
            panic!("{entering:?}");
        };
        let more = "CAP_DAC_OVERRIDE, CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN";
        assert_eq!(*gap, format!("relay holds {more}, is not bounded"));
        let open = Thread {
            is_filtered: false,
            has_no_new_privs: false,
            ..thread("relay", relay)
        };
        let gaps = Fences(vec![open]).gaps();
        assert_eq!(gaps, ["relay has no seccomp filter, may gain privileges"]);
    }

    #[test]
    fn capabilities_have_their_names() {
        let set = CapabilitySet::NET_RAW | CapabilitySet::CHOWN;
        assert_eq!(names(set), "capability 0, CAP_NET_RAW");
        assert_eq!(names(CapabilitySet::empty()), "no capabilities");
    }

    #[test]
    fn a_process_without_fences_has_gaps() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(!Fences::of(own).unwrap().gaps().is_empty());
    }
}
