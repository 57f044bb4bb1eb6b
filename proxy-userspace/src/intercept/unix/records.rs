//! The record of an accepted connection: with its client's socket in the kernel, and with ours once it was asked for.

use std::os::fd::{AsFd as _, AsRawFd as _};

use aya::maps::{MapData, MapError, SkStorage};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{UnixCredentials, getsockopt};
use proxy_ebpf::origin::Origin;
use proxy_ebpf::unix::UnixInterception;
use rustix::net::getsockname;

use super::super::handover::HandoverError;
use crate::stream::Stream;

/// Where the hooks keep the records.
pub(in crate::intercept) struct UnixRecords {
    storage: SkStorage<MapData, UnixInterception>,
}

impl UnixRecords {
    pub(in crate::intercept) fn new(storage: SkStorage<MapData, UnixInterception>) -> Self {
        Self { storage }
    }

    /// Takes an accepted connection's record. The kernel ties our socket to its client's for as long as ours is open, so
    /// it is this connection's and no other's, even if the client has gone.
    ///
    /// # Errors
    /// [`HandoverError`]; there is no default destination.
    pub(in crate::intercept) fn take(
        &self,
        accepted: &Stream,
    ) -> Result<UnixInterception, HandoverError> {
        // It is the hook on this call that copies the record from the client's socket to ours.
        getsockname(accepted)
            .map_err(|error| HandoverError::Table(MapError::IoError(error.into())))?;
        let socket = accepted.as_fd();
        let record = self.storage.get(&socket.as_raw_fd(), 0);
        let record = record.map_err(|error| match error {
            MapError::KeyNotFound => HandoverError::Unknown,
            error => HandoverError::Table(error),
        })?;
        let caller = getsockopt(&socket, PeerCredentials)
            .map_err(|error| HandoverError::Table(MapError::IoError(error.into())))?;
        if is_by(record.origin(), &caller) {
            Ok(record)
        } else {
            Err(HandoverError::Another)
        }
    }
}

/// Whether a record is of the connect that made the connection. While one waits for room among a listener's connections,
/// whoever shares its socket may try too, and the record is the last one's; the kernel notes who got through.
fn is_by(origin: &Origin, caller: &UnixCredentials) -> bool {
    let ids = origin.effective_ids();
    let is_known = |(uid, gid)| (uid, gid) == (caller.uid(), caller.gid());
    u32::try_from(caller.pid()) == Ok(origin.tgid()) && ids.is_none_or(is_known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_for_the_process_and_the_ids_that_made_the_connection() {
        let caller = UnixCredentials::new();
        let (pid, uid, gid) = (std::process::id(), caller.uid(), caller.gid());
        let mut origin = Origin::new(pid, 4242, 4242, 0, 0);
        assert!(
            is_by(&origin, &caller),
            "a kernel that tells no effective ids"
        );
        origin.set_effective_ids(uid, gid);
        assert!(is_by(&origin, &caller));
        for (euid, egid) in [(uid + 1, gid), (uid, gid + 1)] {
            origin.set_effective_ids(euid, egid);
            assert!(!is_by(&origin, &caller));
        }
        let mut another = Origin::new(pid + 1, uid, gid, 0, 0);
        another.set_effective_ids(uid, gid);
        assert!(!is_by(&another, &caller));
    }
}
