//! What following a session's messages costs beside a memcpy of the same bytes: runs `proxy-userspace/benches/scan`.

use anyhow::Result;

use crate::setup::{self, Purpose};
use crate::{interrupt, process, workspace};

/// Builds the benchmark as the caller and prints its ratios.
///
/// # Errors
///
/// When it cannot be built or fails.
pub(super) fn measure() -> Result<()> {
    setup::prepare(Purpose::Demo)?;
    println!(
        "\nFollowing a session beside a memcpy of its bytes; medians, with the tenths at either end"
    );
    process::run(
        workspace::cargo()
            .args([
                "bench",
                "--quiet",
                "--locked",
                "--package",
                "proxy-userspace",
            ])
            .args(["--bench", "scan", "--", "--ratios"]),
    )?;
    interrupt::check()
}
