//! What pgusher gives up for good before it takes its first connection: capabilities, system calls, core dumps.
//!
//! Capabilities and system call filters belong to threads and are inherited by those that a thread starts. So the main
//! thread gives everything up before it starts the runtime; what still needs more at start is done by a [`Starter`]
//! that ends with it, and what needs more later by a thread with one narrow task
//! ([`crate::intercept::Porter`]). Must never be lifted again, and cannot be.
//! Design: docs/decisions/0044-least-privilege.md.

pub mod capabilities;
pub mod inspection;
mod memory;
mod starter;
mod syscalls;

use std::io;

pub use memory::{enclose_process, stay_private};
pub use starter::Starter;
pub use syscalls::REFUSED_CALLS;

/// What a thread is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everything but the following.
    Relay,
    /// Sends others into network namespaces, and as other users.
    Porter,
    /// Does one errand of the porter's as another user, and ends.
    Envoy,
}

/// Why a fence does not stand.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// Capabilities cannot be given up.
    #[error("cannot give up capabilities: {0}")]
    Capabilities(io::Error),
    /// System calls cannot be given up.
    #[error("cannot give up system calls: {0}; is seccomp switched off in this kernel?")]
    Syscalls(#[from] seccompiler::Error),
    /// The filter cannot be made.
    #[error("cannot make the filter of system calls: {0}")]
    Filter(#[from] seccompiler::BackendError),
    /// The process cannot be protected from being dumped.
    #[error("cannot switch core dumps off: {0}")]
    Dumps(io::Error),
}

/// Leaves the calling thread, and all that it starts from here on, with what its role needs.
///
/// # Errors
/// [`FenceError`]; the thread must not go on then.
pub fn enclose_thread(role: Role) -> Result<(), FenceError> {
    let kept = capabilities::kept(role);
    capabilities::give_up(kept).map_err(FenceError::Capabilities)?;
    syscalls::give_up(role)
}
