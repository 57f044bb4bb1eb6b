//! Network namespaces of the tests' own, joined by pairs of virtual devices.
//!
//! A namespace lives as long as a process in it, which reads a pipe that only the test process holds: nothing is
//! mounted, and nothing is left when the tests are killed. Addresses are private ones, and exist only inside.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::cgroup::TestCgroup;
use crate::process::{Running, run};

/// Makes the addresses of links different. Servers let in whoever comes from 10.77.0.0/16 and fd77::/16.
/// From one on: with zero an IPv6 address would be written in another way than it is shown.
static NEXT_LINK: AtomicU32 = AtomicU32::new(1);

/// A network namespace.
#[derive(Debug)]
pub struct NetNs {
    keeper: Running,
}

impl NetNs {
    /// Creates a namespace whose loopback device is up.
    ///
    /// # Errors
    /// Without root.
    pub fn create() -> Result<Self> {
        let namespace = Self::create_down()?;
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Creates a namespace as the kernel does: its loopback device is down.
    ///
    /// # Errors
    /// Without root.
    pub fn create_down() -> Result<Self> {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "echo made=yes; exec cat"]);
        let mut keeper = Running::start(&mut command)?;
        keeper.wait_for_value("made")?;
        Ok(Self { keeper })
    }

    /// A path by which it can be entered.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.keeper.pid()))
    }

    /// Makes `command` run a program inside; arguments of the program's follow.
    pub fn enter(&self, command: &mut Command) {
        command.arg(format!("--net={}", self.path().display()));
    }

    /// A program inside the namespace and inside `cgroup`: intercepted, if anybody does.
    ///
    /// # Errors
    /// When the cgroup cannot be entered.
    pub fn command(
        &self,
        cgroup: &TestCgroup,
        program: impl AsRef<std::ffi::OsStr>,
    ) -> Result<Command> {
        let mut command = cgroup.command("nsenter")?;
        self.enter(&mut command);
        command.arg("--").arg(program);
        Ok(command)
    }

    /// Runs `ip` inside.
    ///
    /// # Errors
    /// When it fails; the message has what it said.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        self.run("ip", &arguments.split(' ').collect::<Vec<_>>())
    }

    /// Runs a program inside, and outside any intercepted cgroup.
    ///
    /// # Errors
    /// When it fails; the message has what it said.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("nsenter");
        self.enter(&mut command);
        let finished = run(command.arg("--").arg(program).args(arguments))?;
        let output = finished
            .success()
            .with_context(|| format!("{program} {arguments:?}"))?;
        Ok(output.to_owned())
    }
}

/// A pair of devices between a client's namespace and a server's, up and with addresses.
#[derive(Debug)]
pub struct Link {
    /// The server's end.
    pub server: [String; 2],
    /// The client's end.
    pub client: [String; 2],
}

/// The client's device.
pub const CLIENT_DEVICE: &str = "client0";

impl Link {
    /// Joins the two namespaces; each end has an IPv4 and an IPv6 address.
    ///
    /// # Errors
    /// When the kernel has no virtual devices.
    pub fn between(client: &NetNs, server: &NetNs) -> Result<Self> {
        let number = NEXT_LINK.fetch_add(1, Ordering::Relaxed);
        let device = format!("server{number}");
        let peer = client.keeper.pid();
        server.ip(&format!(
            "link add {device} type veth peer name {CLIENT_DEVICE} netns {peer}"
        ))?;
        let end = |host: u8| {
            [
                format!("10.77.{number}.{host}"),
                format!("fd77:{number}::{host}"),
            ]
        };
        let link = Self {
            server: end(1),
            client: end(2),
        };
        for (namespace, device, [v4, v6]) in [
            (server, device.as_str(), &link.server),
            (client, CLIENT_DEVICE, &link.client),
        ] {
            namespace.ip(&format!("addr add {v4}/24 dev {device}"))?;
            // Without a look whether somebody else has it, which takes seconds.
            namespace.ip(&format!("addr add {v6}/64 dev {device} nodad"))?;
            namespace.ip(&format!("link set {device} up"))?;
        }
        Ok(link)
    }
}
