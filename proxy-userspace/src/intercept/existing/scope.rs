//! What belongs to the cgroup that pgusher is attached to: cgroups and processes, at one moment.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::super::cgroup::Cgroup;

/// The number of the hierarchy's root (`cgroup_idr` in kernel/cgroup/cgroup.c): everything belongs to it, sockets whose
/// cgroup has been removed too.
const ROOT: u64 = 1;

/// A cgroup and all below it.
#[derive(Debug, Default)]
pub(super) struct Scope {
    is_everything: bool,
    cgroups: HashSet<u64>,
    processes: HashSet<u32>,
}

impl Scope {
    /// The scope of a cgroup.
    ///
    /// # Errors
    /// The operating system's reason if the cgroup itself cannot be read.
    pub(super) fn of(cgroup: &Cgroup) -> io::Result<Self> {
        let own = cgroup.directory().metadata()?.ino();
        if own == ROOT {
            return Ok(Self::everything());
        }
        let mut scope = Self::default();
        scope.take_in(cgroup.path())?;
        Ok(scope)
    }

    pub(super) fn everything() -> Self {
        Self {
            is_everything: true,
            ..Self::default()
        }
    }

    pub(super) fn has_cgroup(&self, id: Option<u64>) -> bool {
        self.is_everything || id.is_some_and(|id| self.cgroups.contains(&id))
    }

    pub(super) fn has_process(&self, pid: u32) -> bool {
        self.is_everything || self.processes.contains(&pid)
    }

    fn take_in(&mut self, top: &Path) -> io::Result<()> {
        let mut waiting = vec![top.to_path_buf()];
        while let Some(directory) = waiting.pop() {
            let listed = self.take_in_one(&directory);
            match listed {
                Ok(below) => waiting.extend(below),
                // One below may be removed while we look.
                Err(error) if directory == top => return Err(error),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Takes one cgroup in; returns those directly below.
    fn take_in_one(&mut self, directory: &Path) -> io::Result<Vec<std::path::PathBuf>> {
        self.cgroups.insert(fs::metadata(directory)?.ino());
        // A threaded cgroup lists no processes; they are in the one above.
        let processes = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        let processes = processes
            .lines()
            .filter_map(|line| line.parse::<u32>().ok());
        self.processes.extend(processes);
        let mut below = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                below.push(entry.path());
            }
        }
        Ok(below)
    }
}
