//! A cgroup of our own, for the clients that pgusher is to intercept.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::mounts;

/// How long killed processes may take until the kernel lets go of their cgroup.
const REMOVAL_LIMIT: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// The shell moves itself, then becomes the client: no moment of the client's life is spent outside.
const ENTER: &str = r#"echo $$ > "$0/cgroup.procs" && exec "$@""#;

/// A child of the cgroup-v2 root; dropping it kills what is in it and removes it.
pub(super) struct Cgroup {
    folder: PathBuf,
}

impl Cgroup {
    /// Makes an empty cgroup whose name has this process's id in it.
    ///
    /// # Errors
    ///
    /// When there is no cgroup v2, or it cannot be written to.
    pub(super) fn create(name: &str) -> Result<Self> {
        let root = mounts::cgroup_root()?;
        let folder = root.join(format!("pgusher-{name}-{}", process::id()));
        fs::create_dir(&folder).with_context(|| {
            format!(
                "cannot make {}: in a container, cgroups have to be mounted writable (a privileged container has them so)",
                folder.display()
            )
        })?;
        Ok(Self { folder })
    }

    /// Returns the folder of the cgroup.
    pub(super) fn path(&self) -> &Path {
        &self.folder
    }

    /// Returns a command that runs the given one inside, with its arguments and environment.
    pub(super) fn wrap(&self, inner: &Command) -> Command {
        let mut outer = Command::new("sh");
        outer.args(["-c", ENTER]).arg(&self.folder);
        outer.arg(inner.get_program()).args(inner.get_args());
        for (name, value) in inner.get_envs() {
            outer.env(name, value.unwrap_or(OsStr::new("")));
        }
        outer
    }

    fn remove(&self) -> Result<()> {
        let deadline = Instant::now() + REMOVAL_LIMIT;
        loop {
            let members = fs::read_to_string(self.folder.join("cgroup.procs")).unwrap_or_default();
            for member in members.lines().filter_map(|line| line.parse().ok()) {
                // It may have ended since; then there is nothing left to kill.
                kill(Pid::from_raw(member), Signal::SIGKILL).ok();
            }
            match fs::remove_dir(&self.folder) {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    bail!("cannot remove {}: {error}", self.folder.display())
                }
                Err(_) => thread::sleep(POLL_INTERVAL),
            }
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            eprintln!("warning: {error:#}");
        }
    }
}
