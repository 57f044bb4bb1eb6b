//! A pgusher that the kernel kills because its memory has run out.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use pgusher_tests::cluster::Version;
use pgusher_tests::condition::{Seen, wait_until};
use pgusher_tests::process::ended_by;
use pgusher_tests::stage::{Setup, Stage};

use super::{goes_direct, is_closed, is_intercepted};

/// What it may use above what it used when the limit was set.
const LEFT: u64 = 4 << 20;

/// A group of the memory controller, wherever that is: version 1 has a hierarchy of its own.
struct MemoryGroup {
    path: PathBuf,
    is_version_1: bool,
}

impl MemoryGroup {
    fn create(stage: &Stage) -> Result<Self> {
        let name = stage.cgroup.name()?;
        let name = name.trim_start_matches('/');
        let version_1 = Path::new("/sys/fs/cgroup/memory");
        let is_version_1 = version_1.join("cgroup.procs").exists();
        let parent = if is_version_1 {
            version_1.to_path_buf()
        } else {
            pgusher_tests::cgroup::root()?
        };
        if !is_version_1 {
            fs::write(parent.join("cgroup.subtree_control"), "+memory")
                .context("the memory controller cannot be used for a group of its own")?;
        }
        let path = parent.join(format!("{name}-memory"));
        fs::create_dir(&path)?;
        Ok(Self { path, is_version_1 })
    }

    fn limit(&self, to: u64) -> Result<()> {
        let file = if self.is_version_1 {
            "memory.limit_in_bytes"
        } else {
            "memory.max"
        };
        Ok(fs::write(self.path.join(file), to.to_string())?)
    }

    fn used(&self) -> Result<u64> {
        let file = if self.is_version_1 {
            "memory.usage_in_bytes"
        } else {
            "memory.current"
        };
        let text = fs::read_to_string(self.path.join(file))?;
        Ok(text.trim().parse()?)
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // An empty group that stays does no harm.
        let _ = fs::remove_dir(&self.path);
    }
}

/// Opens connections, which need memory, until the kernel has killed pgusher.
fn run_out_of_memory(stage: &mut Stage) -> Result<()> {
    let group = MemoryGroup::create(stage)?;
    stage.kill()?;
    let procs = group.path.join("cgroup.procs");
    let script = r#"echo $$ > "$0" && exec "$@""#;
    stage.restart_below(&["sh", "-c", script, &procs.display().to_string()])?;
    is_intercepted(stage)?;
    group.limit(group.used()? + LEFT)?;
    let mut open = Vec::new();
    wait_until("the kernel kills pgusher", || {
        if stage.pgusher.is_running()? {
            // It may be killed in the midst of it.
            open.extend(stage.dial());
        }
        let is_running = stage.pgusher.is_running()?;
        Ok(Seen::when(!is_running, || {
            format!("{} connections", open.len())
        }))
    })?;
    let finished = stage.pgusher.wait_for_end()?;
    ensure!(ended_by(&finished, Signal::SIGKILL), "{finished:?}");
    Ok(())
}

#[test]
fn closed_refuses_what_comes_then() -> Result<()> {
    Setup::with(Version::V15)
        .argument("--when-down=closed")
        .play(|stage| {
            run_out_of_memory(stage)?;
            is_closed(stage)?;
            stage.restart()?;
            is_intercepted(stage)?;
            stage.forget_trail()
        })
}

#[test]
fn open_lets_it_go_direct() -> Result<()> {
    Setup::with(Version::V15)
        .argument("--when-down=open")
        .play(|stage| {
            run_out_of_memory(stage)?;
            goes_direct(stage)
        })
}
