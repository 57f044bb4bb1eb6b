//! Doing as a client would: on a thread with its effective ids, groups and capabilities over files.
//!
//! Who connects to a unix socket is what the server sees (`SO_PEERCRED`, `peer` in pg_hba.conf) and what the modes of
//! socket and directories decide by. The kernel keeps credentials for each thread; the system calls here are its own,
//! not the C library's, which would change every thread's.
//!
//! **Invariant:** only a thread that ends with its errand takes them, and it keeps root as its real and saved user id:
//! with those, a client could send signals to it, and so end all of pgusher.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proxy_ebpf::origin::Origin;
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, Uid, capabilities, set_capabilities, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};

use crate::fences;
use crate::identify::Identity;

/// The most errands of all users: one login may have many of them in its user namespaces.
const MAX_ERRANDS: usize = 512;
/// The most errands for one user at a time: a client may have us wait for a file system that it serves itself, or for a
/// server that accepts nobody.
const MAX_ERRANDS_PER_USER: usize = 64;
/// What lets a process pass the modes of files, by its name in an identity.
const OVER_FILES: [(&str, CapabilitySet); 2] = [
    ("cap_dac_override", CapabilitySet::DAC_OVERRIDE),
    ("cap_dac_read_search", CapabilitySet::DAC_READ_SEARCH),
];

/// The credentials a client connected with.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
    over_files: CapabilitySet,
}

impl Caller {
    /// Those of the captured process. Groups and capabilities count if they are those it had when it connected, and
    /// capabilities if they are over this host's files; without them less is allowed, never more. None where not even the
    /// ids were captured.
    pub(super) fn of(origin: &Origin, identity: &Identity) -> Option<Self> {
        let (uid, gid) = origin.effective_ids()?;
        let groups = identity
            .groups()
            .filter(|groups| groups.grade().is_attested());
        let is_ours = identity
            .other_namespaces()
            .is_some_and(|others| !others.value().iter().any(|kind| kind == "user"));
        let held = identity
            .capabilities()
            .filter(|held| is_ours && held.grade().is_attested());
        let is_held = |name: &str| held.is_some_and(|held| held.value().contains(name));
        let over_files = OVER_FILES.into_iter().filter(|(name, _)| is_held(name));
        Some(Self {
            uid: Uid::from_raw(uid),
            gid: Gid::from_raw(gid),
            groups: groups
                .into_iter()
                .flat_map(|groups| groups.value())
                .map(|group| Gid::from_raw(*group))
                .collect(),
            over_files: over_files.map(|(_, capability)| capability).collect(),
        })
    }

    /// Gives the calling thread these credentials, for good.
    ///
    /// # Errors
    /// The operating system's reason; the thread is then to do nothing more.
    pub(super) fn impersonate(&self) -> io::Result<()> {
        set_thread_groups(&self.groups)?;
        set_thread_res_gid(None, self.gid, None)?;
        set_thread_res_uid(None, self.uid, None)?;
        fences::stay_private()?;
        // Root among the others leaves the permitted ones in place, so they can be had again one by one.
        let held = capabilities(None)?;
        let sets = CapabilitySets {
            effective: self.over_files.intersection(held.permitted),
            permitted: self.over_files.intersection(held.permitted),
            inheritable: CapabilitySet::empty(),
        };
        Ok(set_capabilities(None, sets)?)
    }
}

/// Errands under way, by user.
#[derive(Clone, Debug, Default)]
pub(super) struct Errands {
    under_way: Arc<Mutex<HashMap<Uid, usize>>>,
}

/// A place for one errand.
#[derive(Debug)]
pub(super) struct Place {
    errands: Errands,
    uid: Uid,
}

impl Errands {
    /// Takes a place for an errand of this caller's; it has to be kept until the errand ends, whoever waits for it.
    ///
    /// # Errors
    /// When there are as many as allowed.
    pub(super) fn begin(&self, caller: &Caller) -> io::Result<Place> {
        let mut under_way = self.lock();
        if under_way.values().sum::<usize>() >= MAX_ERRANDS {
            return Err(io::Error::other(format!(
                "{MAX_ERRANDS} connects to unix sockets are waiting already"
            )));
        }
        let count = under_way.entry(caller.uid).or_default();
        if *count >= MAX_ERRANDS_PER_USER {
            return Err(io::Error::other(format!(
                "{MAX_ERRANDS_PER_USER} connects of user {} to unix sockets are waiting already",
                caller.uid.as_raw()
            )));
        }
        *count += 1;
        Ok(Place {
            errands: self.clone(),
            uid: caller.uid,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uid, usize>> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut under_way = self.errands.lock();
        if let Some(count) = under_way.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                under_way.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(uid: u32) -> Caller {
        Caller {
            uid: Uid::from_raw(uid),
            gid: Gid::from_raw(uid),
            groups: Vec::new(),
            over_files: CapabilitySet::empty(),
        }
    }

    #[test]
    fn a_user_whose_errands_hang_keeps_nobody_else_from_theirs() {
        let errands = Errands::default();
        let mut hanging: Vec<_> = (0..MAX_ERRANDS_PER_USER)
            .map(|_| errands.begin(&caller(1)).unwrap())
            .collect();
        assert!(errands.begin(&caller(1)).is_err());
        assert!(errands.begin(&caller(2)).is_ok());
        hanging.pop();
        assert!(errands.begin(&caller(1)).is_ok());
        drop(hanging);
        assert!(errands.lock().is_empty());
    }
}
