//! One test's stage: a cgroup, a server, a pgusher between them; and what must hold whenever a test ends.

mod ending;

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::cgroup::TestCgroup;
use crate::cluster::{Cluster, Tls, Version};
use crate::dialer::Dialer;
use crate::pgusher::{self, Pgusher, binary, trail};
use crate::process::{Finished, ended_by, run};
use crate::wire;

/// What a test wants on its stage.
#[derive(Clone, Debug)]
pub struct Setup {
    version: Version,
    tls: Tls,
    more_ports: Vec<u16>,
    arguments: Vec<String>,
    file: Option<String>,
    policy: Option<(&'static str, String)>,
    is_host: bool,
    is_elsewhere: bool,
}

impl Setup {
    /// A server of `version` and a pgusher with default settings on its port.
    #[must_use]
    pub fn with(version: Version) -> Self {
        Self {
            version,
            tls: Tls::On,
            more_ports: Vec::new(),
            arguments: Vec::new(),
            file: None,
            policy: None,
            is_host: false,
            is_elsewhere: false,
        }
    }

    /// Gives pgusher a policy in a mode, `observe` or `enforce`; `{server}` in it stands for the server's address.
    #[must_use]
    pub fn policy(mut self, mode: &'static str, text: impl Into<String>) -> Self {
        self.policy = Some((mode, text.into()));
        self
    }

    /// A server in a network namespace of its own, and a pgusher with default settings on its port.
    #[must_use]
    pub fn elsewhere() -> Self {
        Self {
            is_elsewhere: true,
            ..Self::with(Version::V15)
        }
    }

    /// Makes the test's cgroup the root of the hierarchy that pgusher sees: what lies directly below has the names that
    /// it would have on a host.
    #[must_use]
    pub fn host(mut self) -> Self {
        self.is_host = true;
        self
    }

    /// Gives pgusher a settings file with this text.
    #[must_use]
    pub fn file(mut self, text: impl Into<String>) -> Self {
        self.file = Some(text.into());
        self
    }

    /// Takes the server of this version that has TLS, or the one that has none.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = tls;
        self
    }

    /// Intercepts another port as well.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.more_ports.push(port);
        self
    }

    /// Adds an argument of `pgusher run`.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds several.
    #[must_use]
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned());
        self.arguments.extend(arguments);
        self
    }

    /// Sets the stage, lets `test` play, and checks what must hold at the end.
    ///
    /// # Errors
    /// Whatever `test` returns, together with pgusher's log and audit trail; and what [`Stage::close`] finds.
    pub fn play(&self, test: impl FnOnce(&mut Stage) -> Result<()>) -> Result<()> {
        let mut stage = Stage::set(self)?;
        let result = test(&mut stage).and_then(|()| stage.close());
        result.with_context(|| stage.evidence())
    }
}

/// The policy's file in the test's directory.
const POLICY: &str = "policy.cedar";

/// A policy's text about this server.
fn located(text: &str, cluster: &Cluster) -> String {
    text.replace("{server}", &format!("127.0.0.1:{}", cluster.port))
}

/// A set stage.
#[derive(Debug)]
pub struct Stage {
    // Dropped in this order: clients and pgusher before the cgroup they live in.
    dialer: OnceLock<Dialer>,
    /// The process under test.
    pub pgusher: Pgusher,
    /// Where clients run.
    pub cgroup: TestCgroup,
    /// The server behind the intercepted port.
    pub cluster: &'static Cluster,
    /// The arguments that pgusher is started with.
    pub arguments: Vec<String>,
    directory: TempDir,
}

impl Stage {
    fn set(setup: &Setup) -> Result<Self> {
        let cluster = if setup.is_elsewhere {
            Cluster::shared_elsewhere()?
        } else {
            Cluster::shared_with(setup.version, setup.tls)?
        };
        let cgroup = TestCgroup::create()?;
        let directory = TempDir::new()?;
        let mut ports = vec![cluster.port];
        ports.extend(&setup.more_ports);
        let mut arguments = setup.arguments.clone();
        if let Some(text) = &setup.file {
            let path = directory.path().join("pgusher.toml");
            fs::write(&path, text)?;
            arguments.push(format!("--config={}", path.display()));
        }
        if let Some((mode, text)) = &setup.policy {
            let path = directory.path().join(POLICY);
            fs::write(&path, located(text, cluster))?;
            arguments.push(format!("--policy={}", path.display()));
            arguments.push(format!("--policy-mode={mode}"));
        }
        let start = if setup.is_host {
            Pgusher::start_at_root
        } else {
            Pgusher::start
        };
        let pgusher = start(&cgroup, &ports, directory.path(), &arguments)?;
        let mut all = pgusher::arguments(&cgroup, &ports, directory.path());
        all.extend(arguments);
        Ok(Self {
            dialer: OnceLock::new(),
            pgusher,
            cgroup,
            cluster,
            arguments: all,
            directory,
        })
    }

    /// `pgusher` as it was started, in the test's cgroup.
    ///
    /// # Errors
    /// When the cgroup cannot be entered.
    pub fn run_again(&self) -> Result<Command> {
        let mut command = self.cgroup.command(binary()?)?;
        command.args(&self.arguments);
        Ok(command)
    }

    /// Starts pgusher again where one was that has ended.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart(&mut self) -> Result<()> {
        let mut command = self.run_again()?;
        self.pgusher = Pgusher::start_command(&mut command, self.directory.path())?;
        Ok(())
    }

    /// [`Stage::restart`] by a command that runs what it is given behind its own arguments.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart_below(&mut self, wrapper: &[&str]) -> Result<()> {
        let (program, arguments) = wrapper.split_first().context("a command has a name")?;
        let mut command = self.cgroup.command(program)?;
        command.args(arguments).arg(binary()?).args(&self.arguments);
        self.pgusher = Pgusher::start_command(&mut command, self.directory.path())?;
        Ok(())
    }

    /// Waits until every session has ended and is on record.
    ///
    /// # Errors
    /// When one goes on.
    pub fn settle(&self) -> Result<()> {
        self.pgusher.settle()
    }

    /// Has another trail begin: of sessions that died with a pgusher there is no end on record.
    ///
    /// # Errors
    /// When the file cannot be cut.
    pub fn forget_trail(&self) -> Result<()> {
        self.settle()?;
        Ok(fs::write(self.pgusher.trail.path(), "")?)
    }

    /// Has another pgusher with the same settings take over; returns the one that was there.
    ///
    /// # Errors
    /// When it does not start.
    pub fn take_over(&mut self) -> Result<Pgusher> {
        let mut command = self.run_again()?;
        self.pgusher.replace_by(command.arg("--takeover"))
    }

    /// Kills pgusher, and waits until it has ended.
    ///
    /// # Errors
    /// When it ends otherwise.
    pub fn kill(&mut self) -> Result<()> {
        self.pgusher.signal(Signal::SIGKILL)?;
        let finished = self.pgusher.wait_for_end()?;
        ensure!(ended_by(&finished, Signal::SIGKILL), "{finished:?}");
        Ok(())
    }

    /// A directory of the test's own.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The policy's file.
    #[must_use]
    pub fn policy_path(&self) -> PathBuf {
        self.directory.path().join(POLICY)
    }

    /// Writes another policy, which pgusher does not know of yet; `{server}` in it stands for the server's address.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_policy(&self, text: &str) -> Result<()> {
        Ok(fs::write(self.policy_path(), located(text, self.cluster))?)
    }

    /// Writes another policy and runs `pgusher policy reload`.
    ///
    /// # Errors
    /// When the command cannot be run; a policy that is refused is a failing exit status.
    pub fn reload_policy(&self, text: &str) -> Result<Finished> {
        self.write_policy(text)?;
        run(Command::new(binary()?)
            .args(["policy", "reload", "--json", "--admin-socket"])
            .arg(self.pgusher.admin_socket()))
    }

    /// One of the server version's client programs, intercepted.
    ///
    /// # Errors
    /// When the cgroup cannot be entered.
    pub fn client(&self, program: &str) -> Result<Command> {
        self.cluster.client(&self.cgroup, program)
    }

    /// `psql`, intercepted, with unaligned output and one command.
    ///
    /// # Errors
    /// As [`Stage::client`].
    pub fn psql(&self, sql: &str) -> Result<Command> {
        let mut command = self.client("psql")?;
        command.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-c", sql]);
        Ok(command)
    }

    /// `psql`, intercepted, with a connection string and one command.
    ///
    /// # Errors
    /// As [`Stage::client`].
    pub fn psql_to(&self, connection: &str, sql: &str) -> Result<Command> {
        let mut command = self.client("psql")?;
        command.args([
            "-XqAt",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            connection,
            "-c",
            sql,
        ]);
        Ok(command)
    }

    /// A libpq connection string to the server for a client that is not of the server's version.
    #[must_use]
    pub fn conninfo(&self, user: &str) -> String {
        let port = self.cluster.port;
        format!(
            "host=127.0.0.1 port={port} user={user} dbname=postgres sslmode=disable gssencmode=disable"
        )
    }

    /// The process that dials for this test.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn dialer(&self) -> Result<&Dialer> {
        if self.dialer.get().is_none() {
            // Another thread of the test may have been faster: its dialer is as good.
            let _ = self.dialer.set(Dialer::start(&self.cgroup)?);
        }
        self.dialer.get().context("the dialer is there")
    }

    /// A raw connection to the server, intercepted.
    ///
    /// # Errors
    /// When connect fails.
    pub fn dial(&self) -> Result<TcpStream> {
        self.dialer()?.dial(self.cluster.port)
    }

    /// An open, logged-in session, intercepted.
    ///
    /// # Errors
    /// When connect or the login fails.
    pub fn session(&self) -> Result<TcpStream> {
        let mut stream = self.dial()?;
        wire::log_in(&mut stream, "app_trust")?;
        Ok(stream)
    }

    /// Connections redirected so far.
    ///
    /// # Errors
    /// When pgusher does not answer.
    pub fn redirected(&self) -> Result<u64> {
        self.pgusher.counter("/kernel/redirected")
    }

    /// What a failing test shows.
    fn evidence(&self) -> String {
        let log = self.pgusher.log().unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let begin = lines.len().saturating_sub(30);
        let records = self.pgusher.trail.records().unwrap_or_default();
        let status = match self.pgusher.status() {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        format!(
            "on a stage with PostgreSQL {:?}\nstatus: {status}\nlog:\n{}\naudit: {}\n",
            self.cluster.version,
            lines.get(begin..).unwrap_or_default().join("\n"),
            trail::tail(&records)
        )
    }
}
