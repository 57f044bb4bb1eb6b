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
use std::sync::{Arc, Mutex, PoisonError};

use proxy_ebpf::origin::Origin;
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, Uid, capabilities, set_capabilities, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

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

/// Places for errands: everybody's, and each user's.
#[derive(Clone, Debug)]
pub(super) struct Errands {
    everybodys: Arc<Semaphore>,
    /// Of the users that have errands or wait to begin one, and some of before.
    users: Arc<Mutex<HashMap<Uid, Arc<Semaphore>>>>,
}

/// A place for one errand.
#[derive(Debug)]
pub(super) struct Place {
    _users: OwnedSemaphorePermit,
    _everybodys: OwnedSemaphorePermit,
}

impl Errands {
    pub(super) fn new() -> Self {
        Self {
            everybodys: Arc::new(Semaphore::new(MAX_ERRANDS)),
            users: Arc::default(),
        }
    }

    /// Takes a place for an errand of this caller's, as soon as there is one; it has to be kept until the errand ends,
    /// whoever waits for it. How long to wait is the caller's to say: where errands hang it is for ever.
    ///
    /// # Errors
    /// None that happens: nobody closes the semaphores.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn begin(&self, caller: &Caller) -> io::Result<Place> {
        // The user's own first: who waits for one of those takes up none of everybody's.
        let users = self.places_of(caller.uid).acquire_owned();
        let users = users.await.map_err(io::Error::other)?;
        let everybodys = Arc::clone(&self.everybodys).acquire_owned();
        Ok(Place {
            _users: users,
            _everybodys: everybodys.await.map_err(io::Error::other)?,
        })
    }

    fn places_of(&self, uid: Uid) -> Arc<Semaphore> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        // A place and a wait for one each have a reference of their own.
        users.retain(|_, places| Arc::strong_count(places) > 1);
        let own = users.entry(uid);
        Arc::clone(own.or_insert_with(|| Arc::new(Semaphore::new(MAX_ERRANDS_PER_USER))))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn caller(uid: u32) -> Caller {
        Caller {
            uid: Uid::from_raw(uid),
            gid: Gid::from_raw(uid),
            groups: Vec::new(),
            over_files: CapabilitySet::empty(),
        }
    }

    /// Whether there is a place at once.
    async fn begin(errands: &Errands, uid: u32) -> Option<Place> {
        let caller = caller(uid);
        let place = tokio::time::timeout(Duration::ZERO, errands.begin(&caller)).await;
        place.ok().map(Result::unwrap)
    }

    #[tokio::test]
    async fn a_user_whose_errands_hang_keeps_nobody_else_from_theirs() {
        let errands = Errands::new();
        let mut hanging = Vec::new();
        for _ in 0..MAX_ERRANDS_PER_USER {
            hanging.push(begin(&errands, 1).await.unwrap());
        }
        assert!(begin(&errands, 1).await.is_none());
        assert!(begin(&errands, 2).await.is_some());
        hanging.pop();
        assert!(begin(&errands, 1).await.is_some());
        drop(hanging);
        let _other = begin(&errands, 3).await.unwrap();
        assert_eq!(errands.users.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_user_with_many_errands_at_once_waits_and_does_them_all() {
        let errands = Errands::new();
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..4 * MAX_ERRANDS_PER_USER {
            let errands = errands.clone();
            all.spawn(async move {
                let place = errands.begin(&caller(1)).await.unwrap();
                // Others get to wait behind this one.
                tokio::task::yield_now().await;
                drop(place);
            });
        }
        assert_eq!(all.join_all().await.len(), 4 * MAX_ERRANDS_PER_USER);
        assert_eq!(errands.everybodys.available_permits(), MAX_ERRANDS);
    }
}
