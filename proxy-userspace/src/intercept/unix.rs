//! Servers' unix sockets: their hooks, and the record of a connection that was accepted.
//!
//! Design: docs/decisions/0042-unix-sockets.md.

mod guise;
mod kernel;
mod programs;
mod records;

pub use guise::Guise;
pub use programs::UnixHookError;
pub(super) use programs::{UnixAttached, UnixPrograms};
pub(super) use records::UnixRecords;
