//! The BPF file system, where hooks are pinned: mounted on every host that systemd runs, and here by the tests.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result, anyhow};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

const MOUNT_POINT: &str = "/sys/fs/bpf";
/// What pgusher pins is below.
/// Where pgusher pins; its unit makes the folder, and it stays.
pub const PINS: &str = "/sys/fs/bpf/pgusher";

/// Mounts it, unless it is there.
///
/// # Errors
/// When it cannot be mounted: the tests need root.
pub fn ensure_mounted() -> Result<()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME
        .lock()
        .map_err(|_| anyhow!("an earlier mount panicked"))?;
    if statfs(MOUNT_POINT)?.filesystem_type() == BPF_FS_MAGIC {
        return Ok(());
    }
    let kind = Some("bpf");
    mount(kind, MOUNT_POINT, kind, MsFlags::empty(), None::<&str>)
        .with_context(|| format!("cannot mount the BPF file system at {MOUNT_POINT}"))
}

/// The folder with what is pinned for a cgroup.
///
/// # Errors
/// When the cgroup is gone.
pub fn pins_of(cgroup: &Path) -> Result<PathBuf> {
    let number = fs::metadata(cgroup)?.ino();
    Ok(Path::new(PINS).join(format!("cgroup-{number}")))
}

/// The folders of the generations that are pinned for a cgroup.
///
/// # Errors
/// When they cannot be listed.
pub fn generations(cgroup: &Path) -> Result<Vec<PathBuf>> {
    let folder = pins_of(cgroup)?;
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
    entries.collect()
}
