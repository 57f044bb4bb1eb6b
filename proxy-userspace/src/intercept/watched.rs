//! Descriptors that the runtime waits for.
#![expect(
    unsafe_code,
    reason = "registering a descriptor with the reactor is unsafe for arbitrary types"
)]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor to be waited for until it can be read.
///
/// # Errors
/// The operating system's reason.
pub(crate) fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor stays the same one for as long as it is owned, and is dropped with the registration.
    let registered = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
    Ok(registered?)
}
