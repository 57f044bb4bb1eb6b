//! PostgreSQL servers: one cluster of each version for the whole run, gone when the test process is gone.
//!
//! Version 15 is installed on the machine. Version 18 lives in a tree of its own, named by `PGUSHER_PG18`:
//! its server and its clients run with that tree as their root directory.
//! A shell keeps the server: it reads a pipe that only the test process holds, and when that closes — normally, or
//! because the test process was killed — it stops the server and removes the data.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, anyhow, ensure};

use crate::certificates;
use crate::cgroup::TestCgroup;
use crate::condition::{DEADLINE, Seen, wait_until};
use crate::netns::NetNs;
use crate::process::run;

mod data;
mod keeper;
mod port;
mod settings;
mod version;

pub use data::ahead as make_data_ahead;
pub use port::free_port;
pub use settings::{LOGGED_ROLE, PASSWORD};
pub use version::{Tls, VERSIONS, Version};

/// A running PostgreSQL server.
#[derive(Debug)]
pub struct Cluster {
    /// The major version.
    pub version: Version,
    /// Whether it has TLS.
    pub tls: Tls,
    /// The TCP port, on 127.0.0.1 and ::1.
    pub port: u16,
    root: PathBuf,
    directory: PathBuf,
    next_scratch: AtomicU32,
    /// Where it is, if not in our own network namespace.
    namespace: Option<NetNs>,
    _keeper: Child,
}

/// A directory that programs of a version and the tests see under two names.
#[derive(Debug)]
pub struct Scratch {
    /// For the tests.
    pub outside: PathBuf,
    /// For the version's programs.
    pub inside: PathBuf,
}

impl Cluster {
    /// The cluster of `version` with TLS, started on first use.
    ///
    /// # Errors
    /// When the version is not installed or the server does not start.
    pub fn shared(version: Version) -> Result<&'static Self> {
        Self::shared_with(version, Tls::On)
    }

    /// The cluster of `version` with or without TLS, started on first use.
    ///
    /// # Errors
    /// As [`Cluster::shared`].
    pub fn shared_with(version: Version, tls: Tls) -> Result<&'static Self> {
        static STARTED: Mutex<Vec<&'static Cluster>> = Mutex::new(Vec::new());
        let mut started = STARTED
            .lock()
            .map_err(|_| anyhow!("an earlier start of a cluster panicked"))?;
        let is_same = |cluster: &&&Self| cluster.version == version && cluster.tls == tls;
        if let Some(cluster) = started.iter().find(is_same) {
            return Ok(cluster);
        }
        let name = format!("{}-ssl-{}", version.number(), tls.setting());
        let cluster = Self::start((version, tls), &name, None)?;
        let cluster: &'static Self = Box::leak(Box::new(cluster));
        started.push(cluster);
        Ok(cluster)
    }

    /// A cluster of version 15 in a network namespace of its own, where it listens on every address; started on first
    /// use.
    ///
    /// # Errors
    /// As [`Cluster::shared`].
    pub fn shared_elsewhere() -> Result<&'static Self> {
        static STARTED: Mutex<Option<&'static Cluster>> = Mutex::new(None);
        let mut started = STARTED
            .lock()
            .map_err(|_| anyhow!("an earlier start of the cluster panicked"))?;
        if let Some(cluster) = *started {
            return Ok(cluster);
        }
        let kind = (Version::V15, Tls::On);
        let cluster = Self::start(kind, "elsewhere", Some(NetNs::create()?))?;
        Ok(started.insert(Box::leak(Box::new(cluster))))
    }

    fn start((version, tls): (Version, Tls), name: &str, namespace: Option<NetNs>) -> Result<Self> {
        let root = version.root()?;
        let initdb = root.join(version.program("initdb").trim_start_matches('/'));
        ensure!(
            initdb.exists(),
            "{} is missing: install PostgreSQL {}",
            initdb.display(),
            version.number()
        );
        let directory = PathBuf::from(format!("/tmp/pgusher-tests-{}-{name}", process::id()));
        let outside = outside_of(&root, &directory);
        fs::create_dir(&outside)?;
        fs::set_permissions(&outside, fs::Permissions::from_mode(0o755))?;
        certificates::make(&outside)?;
        let port = free_port()?;
        let mut configuration = settings::configuration(&directory, port, tls.setting());
        if namespace.is_some() {
            configuration.push_str("listen_addresses = '*'\n");
        }
        let keeper = Self::keep(version, &directory, &configuration, namespace.as_ref())?;
        let cluster = Self {
            version,
            tls,
            port,
            root,
            directory,
            next_scratch: AtomicU32::new(0),
            namespace,
            _keeper: keeper,
        };
        cluster.wait_until_ready()?;
        cluster.sql(&settings::roles())?;
        Ok(cluster)
    }

    fn keep(
        version: Version,
        directory: &Path,
        configuration: &str,
        namespace: Option<&NetNs>,
    ) -> Result<Child> {
        let root = &version.root()?;
        let outside = outside_of(root, directory);
        let data = directory.join("data");
        for name in ["data", "tablespace"] {
            fs::create_dir(outside.join(name))?;
        }
        give_to_postgres(root, directory)?;
        data::fill(version, root, &data)?;
        fs::write(outside.join("data/postgresql.auto.conf"), configuration)?;
        fs::write(
            outside.join("data/pg_hba.conf"),
            settings::HOST_BASED_AUTHENTICATION,
        )?;
        let mut server = data::as_postgres(version, root, "postgres");
        keeper::start(&outside, server.arg("-D").arg(&data), namespace)
    }

    fn wait_until_ready(&self) -> Result<()> {
        wait_until("the server accepts connections", || {
            let answer = run(self.outsider("psql")?.args(["-c", "select 1"]))?;
            let state = || {
                let log =
                    fs::read_to_string(outside_of(&self.root, &self.directory).join("server.log"));
                format!("{answer:?} {}", log.unwrap_or_default())
            };
            Ok(Seen::when(answer.status.success(), state))
        })
    }

    /// Runs SQL as superuser past pgusher (from outside any intercepted cgroup) and returns the unaligned rows.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn sql(&self, sql: &str) -> Result<String> {
        let finished =
            run(self
                .outsider("psql")?
                .args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-c", sql]))?;
        Ok(finished.success()?.to_owned())
    }

    /// Whether a connection from this address has reached the server itself, whatever it has said.
    ///
    /// # Errors
    /// When the table of connections cannot be read.
    pub fn sees(&self, client: SocketAddr) -> Result<bool> {
        let finished = run(Command::new("ss").args(["-Htn", "state", "established"]))?;
        let (own, client) = (format!(":{}", self.port), client.to_string());
        let is_it = |line: &str| {
            let mut ends = line.split_whitespace().rev();
            let (peer, local) = (ends.next(), ends.next());
            peer == Some(client.as_str()) && local.is_some_and(|local| local.ends_with(&own))
        };
        Ok(finished.success()?.lines().any(is_it))
    }

    /// Waits until `sql`, run as in [`Cluster::sql`], returns exactly `rows`.
    ///
    /// # Errors
    /// When it never does.
    pub fn wait_for_rows(&self, sql: &str, rows: &str) -> Result<()> {
        wait_until(&format!("`{sql}` returns {rows:?}"), || {
            let found = self.sql(sql)?;
            Ok(Seen::when(found == rows, || found.clone()))
        })
    }

    /// A raw connection past pgusher; reads on it time out like those of a dialled one.
    ///
    /// # Errors
    /// When connect fails.
    pub fn connect(&self) -> Result<TcpStream> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        Ok(stream)
    }

    /// One of this version's client programs outside any intercepted cgroup, set up to log in as superuser.
    ///
    /// # Errors
    /// Never so far; alike with [`Cluster::client`].
    pub fn outsider(&self, program: &str) -> Result<Command> {
        let mut command = Command::new("chroot");
        self.set_up(&mut command, program);
        Ok(command)
    }

    /// One of this version's client programs inside `cgroup`, set up by environment to log in as superuser over IPv4.
    ///
    /// # Errors
    /// When the cgroup cannot be entered.
    pub fn client(&self, cgroup: &TestCgroup, program: &str) -> Result<Command> {
        let mut command = cgroup.command("chroot")?;
        self.set_up(&mut command, program);
        Ok(command)
    }

    fn set_up(&self, command: &mut Command, program: &str) {
        self.enter_root(command, Path::new(&self.version.program(program)));
    }

    /// Makes a `chroot` run `program`, a path inside this version's root, set up as in [`Cluster::client`].
    pub fn enter_root(&self, command: &mut Command, program: &Path) {
        command
            .arg("--userspec=postgres:postgres")
            .arg(&self.root)
            .arg(program);
        self.point_at(command);
        // libpq looks for certificates and passwords at home: there are none.
        command.env("HOME", &self.directory);
    }

    /// The network namespace it is in, if that is not our own.
    ///
    /// # Errors
    /// When it is our own.
    pub fn namespace(&self) -> Result<&NetNs> {
        self.namespace
            .as_ref()
            .context("the server is in our own network namespace")
    }

    /// Sets the libpq environment of any client so that it logs in here as superuser over IPv4; where the server is in
    /// another network namespace, over its Unix socket.
    pub fn point_at(&self, command: &mut Command) {
        match self.namespace {
            Some(_) => command.env("PGHOST", &self.directory),
            None => command.env("PGHOST", "127.0.0.1"),
        };
        command
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", "postgres")
            .env("PGDATABASE", "postgres")
            .env("PGGSSENCMODE", "disable")
            .env("PGSSLMODE", "disable")
            .env("PGAPPNAME", "pgusher-tests");
    }

    /// The path of a file made by [`certificates::make`], as this version's programs see it.
    #[must_use]
    pub fn certificate(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    /// The directory of the server's Unix socket, as the tests see it.
    #[must_use]
    pub fn socket_directory(&self) -> PathBuf {
        outside_of(&self.root, &self.directory)
    }

    /// The directory of the server's Unix socket, as this version's programs see it: what libpq takes for a host.
    #[must_use]
    pub fn socket_host(&self) -> &Path {
        &self.directory
    }

    /// The server's log of statements, as the tests see it; see [`crate::statement_log`].
    #[must_use]
    pub fn statement_log(&self) -> PathBuf {
        let name = format!("{}.json", settings::LOG_NAME);
        self.socket_directory().join(name)
    }

    /// The path of this version's program `name` inside its root.
    #[must_use]
    pub fn version_program(&self, name: &str) -> PathBuf {
        PathBuf::from(self.version.program(name))
    }

    /// The path at which this version's program `name` appears to a process outside its root.
    #[must_use]
    pub fn program_path(&self, name: &str) -> PathBuf {
        outside_of(&self.root, Path::new(&self.version.program(name)))
    }

    /// The client library of this version, as the tests see it.
    ///
    /// # Errors
    /// When it is not where Debian puts it.
    pub fn libpq(&self) -> Result<PathBuf> {
        for entry in fs::read_dir(outside_of(&self.root, Path::new("/usr/lib")))? {
            let library = entry?.path().join("libpq.so.5");
            if library.exists() {
                return Ok(library);
            }
        }
        Err(anyhow!("no libpq.so.5 below {}", self.root.display()))
    }

    /// A program at a path that this version's programs see, inside `cgroup`, with the environment of
    /// [`Cluster::client`].
    ///
    /// # Errors
    /// When the cgroup cannot be entered.
    pub fn client_at(&self, cgroup: &TestCgroup, path: &Path) -> Result<Command> {
        let mut command = cgroup.command("chroot")?;
        self.enter_root(&mut command, path);
        Ok(command)
    }

    /// Creates an empty directory that this version's programs may write to; it goes with the cluster.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn scratch(&self) -> Result<Scratch> {
        let number = self.next_scratch.fetch_add(1, Ordering::Relaxed);
        let inside = self.directory.join(format!("scratch-{number}"));
        let outside = outside_of(&self.root, &inside);
        fs::create_dir(&outside)?;
        give_to_postgres(&self.root, &inside)?;
        Ok(Scratch { outside, inside })
    }
}

fn outside_of(root: &Path, inside: &Path) -> PathBuf {
    root.join(inside.strip_prefix("/").unwrap_or(inside))
}

/// Gives a directory and what is in it to the user `postgres` of `root`: the two trees number users on their own.
fn give_to_postgres(root: &Path, inside: &Path) -> Result<()> {
    run(Command::new("chroot")
        .arg(root)
        .args(["chown", "-R", "postgres:postgres"])
        .arg(inside))?
    .success()?;
    Ok(())
}
