//! pgbouncer and haproxy, which the benchmark compares pgusher with, unpacked below `target`.
//!
//! Installed, both would run as services of the machine from then on. Their libraries start nothing and are installed.

use anyhow::Result;

use super::packages::{self, Package};
use super::unpacked;
use crate::workspace;

const PACKAGES: [&str; 2] = ["haproxy", "pgbouncer"];
const LIBRARIES: [Package; 4] = [
    ("libc-ares2", "pgbouncer looks up names with it"),
    ("libevent-2.1-7", "pgbouncer waits with it"),
    ("liblua5.3-0", "haproxy is linked with it"),
    ("libopentracing-c-wrapper0", "haproxy is linked with it"),
];

/// Makes both programs ready to be started from their folder.
///
/// # Errors
///
/// When the libraries cannot be installed; else as [`unpacked::prepare`].
pub(super) fn prepare() -> Result<()> {
    packages::install_missing(&LIBRARIES)?;
    unpacked::prepare(
        &workspace::relays(),
        &PACKAGES,
        "haproxy and pgbouncer (3 MB)",
    )
}
