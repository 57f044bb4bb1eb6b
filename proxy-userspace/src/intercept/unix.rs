//! Servers' unix sockets: their hooks, and the record of a connection that was accepted.
//!
//! Design: docs/decisions/0042-unix-sockets.md.

mod guise;
mod kernel;
mod programs;
mod records;

pub use guise::Guise;
pub(super) use kernel::pin;
pub use programs::UnixHookError;
pub(super) use programs::UnixPrograms;
pub(super) use records::UnixRecords;
