//! A throwaway PostgreSQL server with pgusher in front of chosen clients.
//!
//! What `demo` and `bench` share. Nothing here outlives the [`Playground`]: servers are stopped, cgroups and files removed
//! when it is dropped, whichever way that happens. Only clients in its own cgroup are intercepted, never
//! another program of the machine.

mod cgroup;
mod proxy;
mod server;
mod service;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use self::cgroup::Cgroup;
pub(crate) use self::proxy::Proxy;
pub(crate) use self::server::Server;
use crate::setup::{self, Purpose};
use crate::{build, interrupt, privilege};

/// Servers are reached by other users, who may be kept out of a private `TMPDIR`.
const TEMPORARY_FOLDER: &str = "/tmp";

/// Which way a client reaches the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// As if pgusher did not exist
    Direct,
    /// Intercepted and relayed
    Proxied,
}

/// Everything that runs, in the order in which it has to go.
pub(crate) struct Playground {
    pub(crate) proxy: Proxy,
    intercepted: Cgroup,
    /// Clients that go directly live in a cgroup too, so that both ways differ in nothing else.
    left_alone: Cgroup,
    pub(crate) server: Server,
    _folder: TempDir,
}

impl Playground {
    /// Starts a server, and pgusher for the clients of one new cgroup.
    ///
    /// # Errors
    ///
    /// When something does not start; what has started already is stopped again.
    pub(crate) fn open(pgusher: &Path) -> Result<Self> {
        interrupt::defer()?;
        let folder = tempfile::Builder::new()
            .prefix("pgusher-playground-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .tempdir_in(TEMPORARY_FOLDER)
            .with_context(|| format!("cannot make a folder in {TEMPORARY_FOLDER}"))?;
        let server = Server::start(folder.path())?;
        let left_alone = Cgroup::create("direct")?;
        let intercepted = Cgroup::create("proxied")?;
        let proxy = Proxy::start(pgusher, intercepted.path(), server.port(), folder.path())?;
        Ok(Self {
            proxy,
            intercepted,
            left_alone,
            server,
            _folder: folder,
        })
    }

    /// Returns the command as it has to be started so that it goes that way.
    pub(crate) fn send(&self, way: Way, client: &Command) -> Command {
        match way {
            Way::Direct => self.left_alone.wrap(client),
            Way::Proxied => self.intercepted.wrap(client),
        }
    }

    /// Returns the folder of the clients' cgroup.
    pub(crate) fn cgroup(&self) -> &Path {
        self.intercepted.path()
    }
}

/// Builds pgusher as the caller, then goes on as root with the binary's path.
///
/// Returns the path once this process is root. A caller who is not is replaced by `sudo xtask <arguments> --binary PATH`.
///
/// # Errors
///
/// When the build fails or root cannot be had.
pub(crate) fn build_then_become_root(
    arguments: &[&str],
    binary: Option<PathBuf>,
) -> Result<PathBuf> {
    if let Some(binary) = binary {
        ensure!(
            privilege::is_root(),
            "--binary is for the half of this command that is root"
        );
        return Ok(binary);
    }
    setup::prepare(Purpose::Demo)?;
    let binary = build::compile(true)?;
    if privilege::is_root() {
        return Ok(binary);
    }
    let this_program = std::env::current_exe().context("cannot find this program's file")?;
    let mut command = privilege::as_root(this_program)?;
    command.args(arguments).arg("--binary").arg(binary);
    match privilege::become_command(command)? {}
}
