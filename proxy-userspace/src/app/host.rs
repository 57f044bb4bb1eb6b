//! What the proxy needs of its host process: namespaces, limits, the service manager.

use std::os::unix::fs::MetadataExt as _;

use anyhow::{Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use procfs::sys::kernel::Version;
use proxy_ebpf::offsets::KernelOffsets;
use tracing::{debug, warn};

use crate::{identify, intercept};

/// The inode of the initial pid namespace (`PROC_PID_INIT_INO`, include/linux/proc_ns.h).
const INIT_PID_NAMESPACE: u64 = 0xEFFF_FFFC;
/// The first with SO_NETNS_COOKIE, by which userspace knows a network namespace as the hooks do: docs/kernels.md.
const OLDEST_KERNEL: (u8, u8) = (5, 14);
/// That of the initial time namespace (`PROC_TIME_INIT_INO`).
const INIT_TIME_NAMESPACE: u64 = 0xEFFF_FFFA;
/// Each has three listeners and is held open itself.
const DESCRIPTORS_PER_NAMESPACE: usize = 4;
/// Descriptors besides: maps, links, our own listeners, the sink, /proc while it is read.
const OTHER_DESCRIPTORS: usize = 256;

/// Says which kernel this is, if pgusher can do its work on it.
///
/// # Errors
/// When it is too old, or does not tell.
pub(crate) fn check_kernel() -> Result<Version> {
    let version = Version::current()?;
    check_version(&version)?;
    Ok(version)
}

fn check_version(version: &Version) -> Result<()> {
    let (major, minor) = OLDEST_KERNEL;
    ensure!(
        (version.major, version.minor) >= OLDEST_KERNEL,
        "Linux {}.{}.{} is too old: pgusher needs Linux {major}.{minor} or newer (SO_NETNS_COOKIE); see docs/kernels.md",
        version.major,
        version.minor,
        version.patch
    );
    Ok(())
}

/// The hooks number processes as the initial pid namespace does, and so must we.
///
/// # Errors
/// When we run in another one.
pub(crate) fn check_pid_namespace() -> Result<()> {
    let inode = std::fs::metadata("/proc/self/ns/pid")?.ino();
    // Kernels before 5.6 have none.
    if let Ok(time) = std::fs::metadata("/proc/self/ns/time") {
        ensure!(
            time.ino() == INIT_TIME_NAMESPACE,
            "pgusher must run in the host's time namespace: the hooks read the host's clock"
        );
    }
    ensure!(
        inode == INIT_PID_NAMESPACE,
        "pgusher must run in the host's pid namespace, or it would intercept itself; in a container use hostPID / --pid=host"
    );
    Ok(())
}

/// Raises the limit on open descriptors to what so many connections and other namespaces need, or as far as we may.
pub(super) fn raise_descriptor_limit(connections: usize, namespaces: usize) {
    let needed = connections
        .saturating_mul(2)
        .saturating_add(namespaces.saturating_mul(DESCRIPTORS_PER_NAMESPACE))
        .saturating_add(identify::MAX_DESCRIPTORS)
        .saturating_add(OTHER_DESCRIPTORS);
    let needed = u64::try_from(needed).unwrap_or(u64::MAX);
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        let wanted = needed.max(soft);
        setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted.max(hard))
            .map(|()| wanted)
            .or_else(|_| {
                setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard)
                    .map(|()| wanted.min(hard))
            })
    });
    match raised {
        Ok(limit) if limit < needed => {
            warn!(
                limit,
                needed,
                "not enough file descriptors for max_sessions and max_namespaces; raise LimitNOFILE"
            );
        }
        Ok(limit) => debug!(limit, "file descriptor limit"),
        Err(error) => warn!(%error, "cannot read the file descriptor limit"),
    }
}

/// The offsets of the running kernel; without BTF, none, and what depends on them is absent from records.
pub(super) fn kernel_offsets() -> KernelOffsets {
    intercept::kernel_offsets().unwrap_or_else(|error| {
        warn!(%error, "start time, executable and login uid cannot be captured; see `pgusher doctor`");
        KernelOffsets::ABSENT
    })
}

/// Tells a service manager, where there is one, that connects are being intercepted.
pub(super) fn notify_ready() {
    notify(&[sd_notify::NotifyState::Ready]);
}

/// Tells it that we are draining.
pub(super) fn notify_stopping() {
    notify(&[sd_notify::NotifyState::Stopping]);
}

fn notify(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, state) {
        warn!(%error, "cannot tell the service manager");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_kernel_is_new_enough_and_the_one_before_is_told_so() {
        check_version(&Version::new(5, 14, 0)).unwrap();
        check_version(&Version::new(6, 1, 0)).unwrap();
        let error = check_version(&Version::new(5, 13, 19)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Linux 5.13.19 is too old: pgusher needs Linux 5.14 or newer (SO_NETNS_COOKIE); see docs/kernels.md"
        );
    }
}
