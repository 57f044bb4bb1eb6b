//! A group of the memory controller: what processes use, and how much they may.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{TestCgroup, root};
use crate::condition::{Seen, wait_until};

/// A group of the memory controller, wherever that is: version 1 has a hierarchy of its own.
#[derive(Debug)]
pub struct MemoryGroup {
    path: PathBuf,
    is_version_1: bool,
}

impl MemoryGroup {
    /// Creates the group that belongs to a test's cgroup.
    ///
    /// # Errors
    /// When the controller can have no group of its own.
    pub fn create(cgroup: &TestCgroup) -> Result<Self> {
        let name = cgroup.name()?;
        let name = name.trim_start_matches('/');
        let version_1 = Path::new("/sys/fs/cgroup/memory");
        let is_version_1 = version_1.join("cgroup.procs").exists();
        let parent = if is_version_1 {
            version_1.to_path_buf()
        } else {
            root()?
        };
        if !is_version_1 {
            fs::write(parent.join("cgroup.subtree_control"), "+memory")
                .context("the memory controller cannot be used for a group of its own")?;
        }
        let path = parent.join(format!("{name}-memory"));
        fs::create_dir_all(&path)?;
        Ok(Self { path, is_version_1 })
    }

    /// A command that runs inside the group what it is given.
    #[must_use]
    pub fn wrapper(&self) -> [String; 4] {
        let procs = self.path.join("cgroup.procs");
        let script = r#"echo $$ > "$0" && exec "$@""#;
        ["sh", "-c", script, &procs.display().to_string()].map(str::to_owned)
    }

    /// Whether a process can be in it and in a cgroup of version 2 as well.
    #[must_use]
    pub fn is_apart(&self) -> bool {
        self.is_version_1
    }

    /// Sets how many bytes the processes may use; beyond it one of them is killed.
    ///
    /// # Errors
    /// When the kernel does not take it.
    pub fn limit(&self, to: u64) -> Result<()> {
        let file = if self.is_version_1 {
            "memory.limit_in_bytes"
        } else {
            "memory.max"
        };
        Ok(fs::write(self.path.join(file), to.to_string())?)
    }

    /// Sets how many bytes the sockets may use before they are slowed down; where that is not a number of its own,
    /// all of the processes' memory above what they use now is meant.
    ///
    /// # Errors
    /// When the kernel does not take it.
    pub fn squeeze_sockets(&self, to: u64) -> Result<()> {
        let (file, to) = if self.is_version_1 {
            ("memory.kmem.tcp.limit_in_bytes", to)
        } else {
            ("memory.high", self.used()? + to)
        };
        Ok(fs::write(self.path.join(file), to.to_string())?)
    }

    /// How many bytes the processes use.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn used(&self) -> Result<u64> {
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
        // pgusher may outlive the group, and goes on in the one above.
        let _ = wait_until("the memory group can be removed", || {
            let members = fs::read_to_string(self.path.join("cgroup.procs"))?;
            for member in members.lines() {
                // Who has ended meanwhile has left.
                let _ = fs::write(self.path.with_file_name("cgroup.procs"), member);
            }
            let removed = fs::remove_dir(&self.path);
            Ok(Seen::when(removed.is_ok(), || format!("{removed:?}")))
        });
    }
}
