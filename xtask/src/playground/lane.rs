//! A lane: clients in a cgroup of their own, and what stands between them and the server.

use std::net::SocketAddrV4;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

use super::Destinations;
use super::cgroup::Cgroup;
use super::proxy::Proxy;
use super::relay::Relay;
use super::server;
use super::service::Service;

/// What stands between clients and server.
pub(super) enum Between {
    /// As if there were no proxy
    Nothing,
    /// Clients dial the server and are intercepted
    Pgusher(Proxy),
    /// Clients dial the relay
    Relay(Relay),
}

/// Clients on their way to the server.
pub(crate) struct Lane {
    // Dropped in this order: the hooks go before the cgroup they are attached to.
    between: Between,
    cgroup: Cgroup,
    destinations: Destinations,
    _folder: TempDir,
}

impl Lane {
    /// Puts together what has been started.
    pub(super) fn new(
        between: Between,
        cgroup: Cgroup,
        destinations: Destinations,
        folder: TempDir,
    ) -> Self {
        Self {
            between,
            cgroup,
            destinations,
            _folder: folder,
        }
    }

    /// Returns a client program that dials the server on this lane; it has to be [sent](Self::send) along it.
    pub(crate) fn client(&self, name: &str) -> Command {
        server::client(name, self.destinations.server)
    }

    /// Returns the address at which clients of this lane find the stand-in.
    ///
    /// # Errors
    ///
    /// When none was started.
    pub(crate) fn stand_in(&self) -> Result<SocketAddrV4> {
        self.destinations
            .stand_in
            .context("no stand-in was started")
    }

    /// Returns the command as it has to be started to go along this lane.
    pub(crate) fn send(&self, client: &Command) -> Command {
        self.cgroup.wrap(client)
    }

    /// Returns the folder of the clients' cgroup.
    pub(crate) fn cgroup(&self) -> &Path {
        self.cgroup.path()
    }

    /// Returns how many connects pgusher has redirected; none where there is no pgusher.
    ///
    /// # Errors
    ///
    /// When pgusher does not answer.
    pub(crate) fn redirected(&self) -> Result<Option<u64>> {
        match &self.between {
            Between::Pgusher(proxy) => proxy.redirected().map(Some),
            Between::Nothing | Between::Relay(_) => Ok(None),
        }
    }

    /// Returns the processor time that the proxy has used, in seconds; none where there is no proxy.
    ///
    /// # Errors
    ///
    /// When it is gone.
    pub(crate) fn cpu_seconds(&self) -> Result<Option<f64>> {
        self.service().map(Service::cpu_seconds).transpose()
    }

    /// Returns the memory that the proxy has in use, in KiB; none where there is no proxy.
    ///
    /// # Errors
    ///
    /// When it is gone.
    pub(crate) fn resident_kib(&self) -> Result<Option<u32>> {
        self.service().map(Service::resident_kib).transpose()
    }

    /// Says what failed on this lane, with the last lines of the proxy's log.
    pub(crate) fn failure(&self, what: &str) -> String {
        let log = self.service().map(Service::last_words).unwrap_or_default();
        if log.is_empty() {
            what.to_owned()
        } else {
            format!("{what}, where the proxy's log ends with\n{log}\n")
        }
    }

    fn service(&self) -> Option<&Service> {
        match &self.between {
            Between::Nothing => None,
            Between::Pgusher(proxy) => Some(proxy.service()),
            Between::Relay(relay) => Some(relay.service()),
        }
    }

    /// Stops the pgusher of this lane and returns its records.
    ///
    /// # Errors
    ///
    /// As [`Proxy::finish`], or when there is none.
    pub(crate) fn finish(&mut self) -> Result<Vec<Value>> {
        match &mut self.between {
            Between::Pgusher(proxy) => proxy.finish(),
            Between::Nothing | Between::Relay(_) => bail!("no pgusher is on this lane"),
        }
    }
}
