//! How many sessions a proxy has room for: every program started here inherits this process's limit on descriptors.

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Enough for the most sessions that are wanted, and more than some containers allow.
const WANTED: u64 = 65_536;
/// A session has one for the client and one for the server.
const EACH: u64 = 2;
/// For everything else: logs, pools of other workloads, listeners in other namespaces.
const ASIDE: u64 = 1_000;
/// No workload needs more.
const MOST_SESSIONS: u64 = 20_000;

/// Raises the limit as far as this process may, and as far as it is of use.
///
/// # Errors
///
/// When the kernel does not tell or set the limit.
pub(crate) fn raise() -> Result<()> {
    let (soft, hard) = limits()?;
    if soft >= WANTED {
        return Ok(());
    }
    // Beyond the hard limit leads a capability that a container's root may lack.
    setrlimit(Resource::RLIMIT_NOFILE, WANTED, hard.max(WANTED))
        .or_else(|_| setrlimit(Resource::RLIMIT_NOFILE, hard, hard))
        .context("cannot raise the limit on descriptors")
}

/// Returns how many sessions a proxy has room for.
///
/// # Errors
///
/// When the kernel does not tell.
pub(crate) fn sessions() -> Result<u32> {
    let (soft, _) = limits()?;
    u32::try_from(sessions_within(soft)).context("more sessions than expected")
}

fn sessions_within(descriptors: u64) -> u64 {
    (descriptors.saturating_sub(ASIDE) / EACH).min(MOST_SESSIONS)
}

fn limits() -> Result<(u64, u64)> {
    getrlimit(Resource::RLIMIT_NOFILE).context("cannot read the limit on descriptors")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_session_has_two_descriptors_and_something_is_left() {
        for (descriptors, sessions) in [(65_536, 20_000), (20_000, 9_500), (1_024, 12), (0, 0)] {
            assert_eq!(sessions_within(descriptors), sessions, "{descriptors}");
        }
    }
}
