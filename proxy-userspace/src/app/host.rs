//! What the proxy needs of its host process: namespaces, limits, the service manager.

use std::os::unix::fs::MetadataExt as _;

use anyhow::{Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use proxy_ebpf::offsets::KernelOffsets;
use tracing::{debug, warn};

use crate::intercept;

/// The inode of the initial pid namespace (`PROC_PID_INIT_INO`, include/linux/proc_ns.h).
const INIT_PID_NAMESPACE: u64 = 0xEFFF_FFFC;
/// That of the initial time namespace (`PROC_TIME_INIT_INO`).
const INIT_TIME_NAMESPACE: u64 = 0xEFFF_FFFA;
/// Each has three listeners and is held open itself.
const DESCRIPTORS_PER_NAMESPACE: usize = 4;
/// Descriptors besides: maps, links, our own listeners, the sink, /proc while it is read.
const OTHER_DESCRIPTORS: usize = 256;

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
