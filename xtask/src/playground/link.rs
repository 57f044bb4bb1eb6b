//! A server in another network namespace, behind a pair of virtual devices, as most servers are in another host.
//!
//! This process leaves the machine's namespace for one of its own, so that neither device nor address ever appears on the
//! machine. Both namespaces end with the processes in them.

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, unshare};

use crate::process;

/// Private addresses, which exist in the two namespaces only.
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const NETWORK_BITS: u8 = 24;
const READY: &str = "made";

/// Where servers run: beside their clients, or at the other end of a link.
pub(super) enum Site {
    /// The loopback address of this process's namespace
    Here,
    /// Another namespace
    Beyond(Link),
}

impl Site {
    /// Returns the address that servers listen on and clients dial.
    pub(super) fn address(&self) -> Ipv4Addr {
        match self {
            Self::Here => Ipv4Addr::LOCALHOST,
            Self::Beyond(_) => SERVER,
        }
    }

    /// Returns the command as it has to be started to run at that place.
    pub(super) fn place(&self, command: Command) -> Command {
        match self {
            Self::Here => command,
            Self::Beyond(link) => link.enter(&command),
        }
    }
}

/// The server's namespace, which lives as long as this does.
pub(super) struct Link {
    /// Reads a pipe that only this process holds.
    keeper: Child,
}

impl Link {
    /// Moves this process into a new namespace and joins it with another new one.
    ///
    /// # Errors
    ///
    /// Without root, or when the kernel has no virtual devices.
    pub(super) fn open() -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
        let mut keeper = Command::new("unshare")
            .args(["--net", "sh", "-c"])
            .arg(format!("echo {READY}; exec cat"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("cannot start unshare")?;
        let output = keeper.stdout.take().context("unshare has no output")?;
        let link = Self { keeper };
        let mut line = String::new();
        BufReader::new(output)
            .read_line(&mut line)
            .context("cannot read from unshare")?;
        ensure!(line.trim() == READY, "unshare made no network namespace");
        link.join()?;
        Ok(link)
    }

    fn join(&self) -> Result<()> {
        let pid = self.keeper.id();
        for step in [
            "link set lo up".to_owned(),
            format!("link add client0 type veth peer name server0 netns {pid}"),
            format!("addr add {CLIENT}/{NETWORK_BITS} dev client0"),
            "link set client0 up".to_owned(),
        ] {
            process::capture(&mut ip(&step))?;
        }
        for step in [
            "link set lo up".to_owned(),
            format!("addr add {SERVER}/{NETWORK_BITS} dev server0"),
            "link set server0 up".to_owned(),
        ] {
            process::capture(&mut self.enter(&ip(&step)))?;
        }
        Ok(())
    }

    /// Returns a command that runs the given one at the server's end.
    fn enter(&self, inner: &Command) -> Command {
        let namespace = PathBuf::from(format!("/proc/{}/ns/net", self.keeper.id()));
        let mut outer = Command::new("nsenter");
        outer
            .arg(format!("--net={}", namespace.display()))
            .arg("--")
            .arg(inner.get_program())
            .args(inner.get_args());
        if let Some(folder) = inner.get_current_dir() {
            outer.current_dir(folder);
        }
        outer
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // `cat` ends with its input.
        drop(self.keeper.stdin.take());
        if let Err(error) = self.keeper.wait() {
            eprintln!("warning: a network namespace may remain: {error}");
        }
    }
}

fn ip(arguments: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(arguments.split(' '));
    command
}
