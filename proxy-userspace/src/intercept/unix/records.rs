//! The record of an accepted connection: with its client's socket in the kernel, and with ours once it was asked for.

use std::os::fd::{AsFd as _, AsRawFd as _};

use aya::maps::{MapData, MapError, SkStorage};
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
        self.storage
            .get(&socket.as_raw_fd(), 0)
            .map_err(|error| match error {
                MapError::KeyNotFound => HandoverError::Unknown,
                error => HandoverError::Table(error),
            })
    }
}
