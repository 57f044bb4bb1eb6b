//! A cgroup for one test: what pgusher intercepts, and where the clients of the test run.

pub mod memory;

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::bpf_fs;
use crate::condition::{Seen, wait_until};

/// Makes the names of this process's cgroups different.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A child of the cgroup-v2 root; its processes are killed and it is removed when dropped.
#[derive(Debug)]
pub struct TestCgroup {
    path: PathBuf,
}

impl TestCgroup {
    /// Creates an empty cgroup with a name of its own.
    ///
    /// # Errors
    /// When no cgroup-v2 file system is mounted, or without root.
    pub fn create() -> Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = root()?.join(format!("pgusher-tests-{}-{number}", process::id()));
        fs::create_dir(&path)
            .with_context(|| format!("cannot create {}: the tests need root", path.display()))?;
        Ok(Self { path })
    }

    /// The directory of the cgroup.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The name of the cgroup as `/proc/<pid>/cgroup` shows it.
    ///
    /// # Errors
    /// When the path does not lie below the mount point.
    pub fn name(&self) -> Result<String> {
        Ok(format!("/{}", self.path.strip_prefix(root()?)?.display()))
    }

    /// Prepares a command that runs inside the cgroup and dies with the thread that starts it.
    ///
    /// # Errors
    /// When the cgroup cannot be opened.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        self.command_below("", program)
    }

    /// [`TestCgroup::command`] in a cgroup somewhere below, which is made if it is not there.
    ///
    /// # Errors
    /// When the cgroup cannot be made or opened.
    pub fn command_below(&self, below: &str, program: impl AsRef<OsStr>) -> Result<Command> {
        let procs = self.procs(below)?;
        let mut command = Command::new(program);
        enter_before_exec(&mut command, procs);
        Ok(command)
    }

    /// Moves a process into a cgroup somewhere below, which is made if it is not there.
    ///
    /// # Errors
    /// When the cgroup cannot be made or the process cannot be moved.
    pub fn take_in(&self, below: &str, pid: u32) -> Result<()> {
        Ok(self.procs(below)?.write_all(pid.to_string().as_bytes())?)
    }

    fn procs(&self, below: &str) -> Result<File> {
        let directory = self.path.join(below);
        fs::create_dir_all(&directory)?;
        let procs = directory.join("cgroup.procs");
        Ok(OpenOptions::new().write(true).open(procs)?)
    }
}

impl Drop for TestCgroup {
    fn drop(&mut self) {
        // Failing here leaves an empty directory; the test's own verdict matters more.
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
        // Of a test that failed before it could detach.
        for generation in bpf_fs::generations(&self.path).unwrap_or_default() {
            let _ = fs::remove_dir_all(generation);
        }
        let _ = bpf_fs::pins_of(&self.path).map(fs::remove_dir);
        let _ = wait_until("the test's cgroup can be removed", || {
            let removed = remove(&self.path);
            Ok(Seen::when(removed.is_ok(), || format!("{removed:?}")))
        });
    }
}

/// Removes a cgroup and those below it; their files go with them.
fn remove(cgroup: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}

/// The mount point of the cgroup-v2 hierarchy: not `/sys/fs/cgroup` on a hybrid machine.
///
/// # Errors
/// When the mount table shows none.
pub fn root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    mounts
        .lines()
        .find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let directory = fields.next()?;
            (fields.next()? == "cgroup2").then(|| PathBuf::from(directory))
        })
        .context("no cgroup2 file system is mounted: mount -t cgroup2 none /sys/fs/cgroup")
}

#[expect(
    unsafe_code,
    reason = "only code that runs between fork and exec can move the child before it is anybody"
)]
fn enter_before_exec(command: &mut Command, procs: File) {
    let enter = move || {
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
        (&procs).write_all(b"0")
    };
    // SAFETY: the closure only makes the system calls prctl and write: async-signal-safe, no allocation, no lock.
    unsafe {
        command.pre_exec(enter);
    }
}
