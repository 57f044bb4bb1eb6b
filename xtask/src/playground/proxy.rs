//! A pgusher that intercepts one cgroup and writes its audit trail into a file of ours.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::service::{Service, die_with_parent};
use crate::process;

/// A running pgusher; dropping it detaches and stops it.
pub(super) struct Proxy {
    service: Service,
    binary: PathBuf,
    admin_socket: PathBuf,
    audit_trail: PathBuf,
}

impl Proxy {
    /// Starts pgusher for some ports and one cgroup with its files in `folder`, and waits until it has attached.
    ///
    /// # Errors
    ///
    /// When it does not start; the text has the end of its log.
    pub(super) fn start(
        binary: &Path,
        cgroup: &Path,
        ports: &[u16],
        folder: &Path,
        arguments: &[String],
    ) -> Result<Self> {
        let admin_socket = folder.join("admin.sock");
        let audit_trail = folder.join("audit.jsonl");
        let mut command = die_with_parent("TERM");
        command
            .arg(binary)
            .arg("run")
            .args(ports.iter().map(|port| format!("--port={port}")))
            .arg("--cgroup")
            .arg(cgroup)
            .arg("--admin-socket")
            .arg(&admin_socket)
            .arg("--audit-sink")
            .arg(format!("file:{}", audit_trail.display()))
            .args(arguments);
        let log = folder.join("pgusher.log");
        let mut proxy = Self {
            service: Service::start("pgusher", command, log, Signal::SIGTERM)?,
            binary: binary.to_owned(),
            admin_socket,
            audit_trail,
        };
        let mut question = proxy.status_command();
        proxy
            .service
            .wait_until(|| process::capture(&mut question).is_ok())?;
        Ok(proxy)
    }

    /// Returns how many connects the kernel has redirected to this pgusher.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub(super) fn redirected(&self) -> Result<u64> {
        let text = process::capture(&mut self.status_command())?;
        serde_json::from_str::<Value>(&text)
            .context("`pgusher status --json` is no JSON")?
            .pointer("/kernel/redirected")
            .and_then(Value::as_u64)
            .context("`pgusher status --json` has no /kernel/redirected")
    }

    /// Returns the process.
    pub(super) fn service(&self) -> &Service {
        &self.service
    }

    /// Stops pgusher, which completes its audit trail, and returns the trail's records.
    ///
    /// # Errors
    ///
    /// When it does not end well or a record is no JSON.
    pub(super) fn finish(&mut self) -> Result<Vec<Value>> {
        self.service.stop()?;
        let trail = fs::read_to_string(&self.audit_trail)
            .with_context(|| format!("cannot read {}", self.audit_trail.display()))?;
        trail
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("no JSON: {line}")))
            .collect()
    }

    fn status_command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(["status", "--json", "--admin-socket"])
            .arg(&self.admin_socket);
        command
    }
}
