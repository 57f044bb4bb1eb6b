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
use serde_json::Value;
use tempfile::TempDir;

use self::cgroup::Cgroup;
use self::proxy::Proxy;
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
    /// Intercepted and relayed, sessions on record
    Proxied,
    /// The same with every statement on record
    Audited,
    /// The same as [`Way::Proxied`] with policies enforced
    Policed,
    /// As if pgusher did not exist, with TLS
    DirectTls,
    /// Intercepted and relayed, TLS between client and server
    PassedThrough,
    /// Intercepted and relayed, TLS between client and pgusher and between pgusher and server
    Terminated,
}

impl Way {
    /// What the client is told to want.
    fn sslmode(self) -> &'static str {
        match self {
            Self::Direct | Self::Proxied | Self::Audited | Self::Policed => "disable",
            Self::DirectTls | Self::PassedThrough | Self::Terminated => "require",
        }
    }
}

/// A cgroup, and the pgusher that intercepts it.
struct Interceptor {
    // Dropped in this order: the hooks go before the cgroup they are attached to.
    proxy: Proxy,
    cgroup: Cgroup,
}

impl Interceptor {
    fn start(
        pgusher: &Path,
        name: &str,
        server: &Server,
        folder: &Path,
        arguments: &[&str],
    ) -> Result<Self> {
        let cgroup = Cgroup::create(name)?;
        let folder = folder.join(name);
        std::fs::create_dir(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        let proxy = Proxy::start(pgusher, cgroup.path(), server.port(), &folder, arguments)?;
        Ok(Self { proxy, cgroup })
    }
}

/// Everything that runs, in the order in which it has to go.
pub(crate) struct Playground {
    proxied: Interceptor,
    /// Only where it was asked for ([`Playground::audit_statements`]).
    audited: Option<Interceptor>,
    /// Only where it was asked for ([`Playground::enforce_policies`]).
    policed: Option<Interceptor>,
    /// Only where it was asked for ([`Playground::terminate_tls`]).
    terminated: Option<Interceptor>,
    /// Clients that go directly live in a cgroup too, so that both ways differ in nothing else.
    left_alone: Cgroup,
    pub(crate) server: Server,
    folder: TempDir,
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
        let proxied = Interceptor::start(pgusher, "proxied", &server, folder.path(), &[])?;
        Ok(Self {
            proxied,
            audited: None,
            policed: None,
            terminated: None,
            left_alone,
            server,
            folder,
        })
    }

    /// Starts another pgusher, which records every statement of the clients that go [`Way::Audited`].
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub(crate) fn audit_statements(&mut self, pgusher: &Path) -> Result<()> {
        self.audited = Some(Interceptor::start(
            pgusher,
            "audited",
            &self.server,
            self.folder.path(),
            &["--audit", "statements"],
        )?);
        Ok(())
    }

    /// Starts another pgusher, which enforces so many policies about others and one that permits the clients that go
    /// [`Way::Policed`].
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub(crate) fn enforce_policies(&mut self, pgusher: &Path, others: u32) -> Result<()> {
        let mut policies = String::from("permit (principal, action, resource is Database);\n");
        for number in 0..others {
            policies.push_str(&format!(
                "permit (principal in Unit::\"unit-{number}.service\", action == Action::\"connect\", resource)\n\
                 when {{ context has startup && context.startup has user && context.startup.user == \"user-{number}\" }};\n"
            ));
        }
        let file = self.folder.path().join("policies.cedar");
        std::fs::write(&file, policies).context("cannot write policies")?;
        self.policed = Some(Interceptor::start(
            pgusher,
            "policed",
            &self.server,
            self.folder.path(),
            &["--policy-mode=enforce", "--policy", &file.to_string_lossy()],
        )?);
        Ok(())
    }

    /// Starts another pgusher, at which the TLS of the clients that go [`Way::Terminated`] ends.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub(crate) fn terminate_tls(&mut self, pgusher: &Path) -> Result<()> {
        let settings = proxy::termination(pgusher, self.folder.path())?;
        self.terminated = Some(Interceptor::start(
            pgusher,
            "terminated",
            &self.server,
            self.folder.path(),
            &["--config", &settings.to_string_lossy()],
        )?);
        Ok(())
    }

    /// Returns the command as it has to be started so that it goes that way.
    ///
    /// # Errors
    ///
    /// When nothing was started for that way.
    pub(crate) fn send(&self, way: Way, client: &Command) -> Result<Command> {
        let cgroup = match self.interceptor(way)? {
            Some(interceptor) => &interceptor.cgroup,
            None => &self.left_alone,
        };
        let mut command = cgroup.wrap(client);
        command.env("PGSSLMODE", way.sslmode());
        Ok(command)
    }

    /// Returns how many connects were redirected on that way; none are on the direct one.
    ///
    /// # Errors
    ///
    /// When nothing was started for that way, or pgusher does not answer.
    pub(crate) fn redirected(&self, way: Way) -> Result<u64> {
        self.interceptor(way)?
            .map_or(Ok(0), |interceptor| interceptor.proxy.redirected())
    }

    /// Returns the processor time that the pgusher on that way has used, in seconds; 0 on a direct one.
    ///
    /// # Errors
    ///
    /// When nothing was started for that way, or it is gone.
    pub(crate) fn cpu_seconds(&self, way: Way) -> Result<f64> {
        self.interceptor(way)?
            .map_or(Ok(0.0), |interceptor| interceptor.proxy.cpu_seconds())
    }

    /// Stops the pgusher of [`Way::Proxied`] and returns its records.
    ///
    /// # Errors
    ///
    /// As [`Proxy::finish`].
    pub(crate) fn finish(&mut self) -> Result<Vec<Value>> {
        self.proxied.proxy.finish()
    }

    fn interceptor(&self, way: Way) -> Result<Option<&Interceptor>> {
        let started = match way {
            Way::Direct | Way::DirectTls => return Ok(None),
            Way::Proxied | Way::PassedThrough => Some(&self.proxied),
            Way::Audited => self.audited.as_ref(),
            Way::Policed => self.policed.as_ref(),
            Way::Terminated => self.terminated.as_ref(),
        };
        started
            .map(Some)
            .with_context(|| format!("no pgusher was started for {way:?}"))
    }

    /// Returns the folder of the clients' cgroup.
    pub(crate) fn cgroup(&self) -> &Path {
        self.proxied.cgroup.path()
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
