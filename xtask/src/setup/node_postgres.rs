//! node-postgres for the tests, unpacked below `target`.
//!
//! Debian's packages of it can only be installed beside Debian's own Node, which machines that have a newer Node do not
//! want. They hold nothing but JavaScript, so any Node runs them from a folder.

use anyhow::Result;

use super::unpacked;
use crate::workspace;

/// The driver, and the two libraries it loads that are packages of their own.
const PACKAGES: [&str; 3] = ["node-pg", "node-split2", "node-xtend"];

/// Makes the folder unless it is there.
///
/// # Errors
///
/// As [`unpacked::prepare`].
pub(super) fn prepare() -> Result<()> {
    unpacked::prepare(
        &workspace::node_postgres(),
        &PACKAGES,
        "node-postgres (below 1 MB)",
    )
}
