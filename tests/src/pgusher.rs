//! The process under test: started inside the cgroup it intercepts, as it is in production, where that is the root.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::bpf_fs;
use crate::cgroup::TestCgroup;
use crate::condition::{Seen, wait_until};
use crate::kernel::Held;
use crate::process::{Finished, Running, run};

pub mod sockets;
pub mod trail;

use trail::Trail;

/// A running pgusher.
#[derive(Debug)]
pub struct Pgusher {
    process: Running,
    admin_socket: PathBuf,
    /// What it wrote to its audit file.
    pub trail: Trail,
}

impl Pgusher {
    /// Starts pgusher in `cgroup` on `ports` with files in `directory`, and waits until it answers.
    ///
    /// # Errors
    /// When it ends or does not answer; the message holds its log.
    pub fn start(
        cgroup: &TestCgroup,
        ports: &[u16],
        directory: &Path,
        more: &[String],
    ) -> Result<Self> {
        bpf_fs::ensure_mounted()?;
        let mut command = cgroup.command(binary()?)?;
        command.args(arguments(cgroup, ports, directory)).args(more);
        Self::start_command(&mut command, directory)
    }

    /// Takes pgusher's place: starts another that takes over from this one, and returns this one.
    ///
    /// # Errors
    /// As [`Pgusher::start`]; this one stays in its place then.
    pub fn replace_by(&mut self, command: &mut Command) -> Result<Self> {
        self.replace_by_after(command, "", || Ok(()))
    }

    /// [`Pgusher::replace_by`], with something that happens when the other has logged `line`.
    ///
    /// # Errors
    /// As [`Pgusher::replace_by`], and what happens.
    pub fn replace_by_after(
        &mut self,
        command: &mut Command,
        line: &str,
        happens: impl FnOnce() -> Result<()>,
    ) -> Result<Self> {
        let directory = self.admin_socket.parent().context("it has a directory")?;
        let mut successor = Self {
            process: Running::start(command)?,
            admin_socket: self.admin_socket.clone(),
            trail: Trail::at(directory.join("audit.jsonl")),
        };
        wait_until("the successor gets that far", || {
            let log = successor.process.stderr()?;
            Ok(Seen::when(log.contains(line), || log.clone()))
        })?;
        happens()?;
        successor.wait_until_ready()?;
        Ok(std::mem::replace(self, successor))
    }

    /// Starts pgusher as a host would whose whole hierarchy of cgroups is `cgroup`: for it, what lies directly below is
    /// at the root.
    ///
    /// # Errors
    /// As [`Pgusher::start`].
    pub fn start_at_root(
        cgroup: &TestCgroup,
        ports: &[u16],
        directory: &Path,
        more: &[String],
    ) -> Result<Self> {
        let root = directory.join("cgroup");
        fs::create_dir(&root)?;
        let script = r#"mount -t cgroup2 none "$0" && exec "$@" "--cgroup=$0""#;
        let mut command = cgroup.command("unshare")?;
        command.args(["--cgroup", "--mount", "sh", "-c", script]);
        command.arg(&root).arg(binary()?);
        let given = arguments(cgroup, ports, directory);
        command.args(
            given
                .iter()
                .filter(|argument| !argument.starts_with("--cgroup=")),
        );
        command.args(more);
        Self::start_command(&mut command, directory)
    }

    /// Starts a command that ends up as pgusher, with the files of [`arguments`] in `directory`.
    ///
    /// # Errors
    /// As [`Pgusher::start`].
    pub fn start_command(command: &mut Command, directory: &Path) -> Result<Self> {
        let process = Running::start(command)?;
        let trail = Trail::at(directory.join("audit.jsonl"));
        let mut pgusher = Self {
            process,
            admin_socket: directory.join("admin.sock"),
            trail,
        };
        pgusher.wait_until_ready()?;
        Ok(pgusher)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        wait_until("pgusher is ready", || {
            let running = self.process.is_running()?;
            ensure!(
                running,
                "pgusher ended at start: {}",
                self.process.stderr()?
            );
            let log = self.process.stderr()?;
            // While it takes over, its predecessor answers at the same place.
            let is_ready = log.contains("interception attached") && {
                let status = status_of(&self.admin_socket)?;
                let status: Value = serde_json::from_str(&status.stdout).unwrap_or_default();
                status.get("pid") == Some(&self.pid().into())
            };
            Ok(Seen::when(is_ready, || log.clone()))
        })
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What `pgusher status --json` says.
    ///
    /// # Errors
    /// When the instance does not answer.
    pub fn status(&self) -> Result<Value> {
        let finished = status_of(&self.admin_socket)?;
        Ok(serde_json::from_str(finished.success()?)?)
    }

    /// One number of the status, addressed by a JSON pointer such as `/kernel/redirected`.
    ///
    /// # Errors
    /// When the instance does not answer or has no such number.
    pub fn counter(&self, pointer: &str) -> Result<u64> {
        let status = self.status()?;
        let number = status.pointer(pointer).and_then(Value::as_u64);
        number.with_context(|| format!("no number at {pointer} in {status}"))
    }

    /// Waits until the number at `pointer` satisfies `wanted`.
    ///
    /// # Errors
    /// When it never does.
    pub fn wait_for_counter(&self, pointer: &str, wanted: impl Fn(u64) -> bool) -> Result<u64> {
        wait_until(&format!("{pointer} is as wanted"), || {
            let found = self.counter(pointer)?;
            Ok(Seen::some_or(wanted(found).then_some(found), || {
                found.to_string()
            }))
        })
    }

    /// Waits until every session has ended and is on record.
    ///
    /// # Errors
    /// When one goes on.
    pub fn settle(&self) -> Result<()> {
        for pointer in ["/sessions/active", "/audit/queued"] {
            self.wait_for_counter(pointer, |count| count == 0)?;
        }
        Ok(())
    }

    /// The addresses of the listeners.
    ///
    /// # Errors
    /// When the instance does not answer.
    pub fn listeners(&self) -> Result<Vec<std::net::SocketAddr>> {
        let status = self.status()?;
        let listeners = status
            .get("listen")
            .and_then(Value::as_array)
            .context("status names no listeners")?;
        listeners
            .iter()
            .map(|address| Ok(address.as_str().context("an address is text")?.parse()?))
            .collect()
    }

    /// Resident memory in KiB.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn resident_kib(&self) -> Result<u64> {
        self.process_status("VmRSS:")
    }

    /// Number of threads.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn threads(&self) -> Result<u64> {
        self.process_status("Threads:")
    }

    fn process_status(&self, key: &str) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        let number = line.and_then(|rest| rest.split_whitespace().next());
        Ok(number
            .with_context(|| format!("no {key} in {text}"))?
            .parse()?)
    }

    /// Number of open descriptors.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn descriptors(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.pid()))?.count())
    }

    /// The eBPF objects it holds.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn held(&self) -> Result<Held> {
        Held::by(self.pid())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Waits for the end of the process.
    ///
    /// # Errors
    /// When it does not end.
    pub fn wait_for_end(&mut self) -> Result<Finished> {
        self.process.end()
    }

    /// Whether the process still runs.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn is_running(&mut self) -> Result<bool> {
        self.process.is_running()
    }

    /// The log so far.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn log(&self) -> Result<String> {
        self.process.stderr()
    }

    /// The path of the admin socket.
    #[must_use]
    pub fn admin_socket(&self) -> &Path {
        &self.admin_socket
    }
}

/// The binary under test.
///
/// # Errors
/// When `PGUSHER_BIN` does not name one.
pub fn binary() -> Result<PathBuf> {
    let path = env::var_os("PGUSHER_BIN").map(PathBuf::from);
    let path = path.context(
        "PGUSHER_BIN must name the binary under test: run the tests with `cargo xtask test`",
    )?;
    ensure!(
        path.is_file(),
        "PGUSHER_BIN names {}, which is no file",
        path.display()
    );
    Ok(path)
}

/// The arguments of a run on `ports` in `cgroup` with the audit file and the admin socket in `directory`.
#[must_use]
pub fn arguments(cgroup: &TestCgroup, ports: &[u16], directory: &Path) -> Vec<String> {
    let mut arguments = vec![
        "run".to_owned(),
        format!("--cgroup={}", cgroup.path().display()),
        format!(
            "--audit-sink=file:{}",
            directory.join("audit.jsonl").display()
        ),
        format!("--admin-socket={}", directory.join("admin.sock").display()),
    ];
    arguments.extend(ports.iter().map(|port| format!("--port={port}")));
    arguments
}

/// Runs `pgusher detach` for a cgroup.
///
/// # Errors
/// When the program cannot be run; a running instance is a failing exit status.
pub fn detach(cgroup: &Path) -> Result<Finished> {
    run(Command::new(binary()?)
        .args(["detach", "--cgroup"])
        .arg(cgroup))
}

/// Runs `pgusher status --json` against the instance behind `admin_socket`.
///
/// # Errors
/// When the program cannot be run; no instance there is a failing exit status.
pub fn status_of(admin_socket: &Path) -> Result<Finished> {
    run(Command::new(binary()?)
        .args(["status", "--json", "--admin-socket"])
        .arg(admin_socket))
}
