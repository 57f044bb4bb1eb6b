//! A throwaway PostgreSQL server with pgusher, or another relay, in front of chosen clients.
//!
//! What `demo` and `bench` share. Nothing here outlives the [`Playground`] and its lanes: servers are stopped, cgroups and files
//! removed when they are dropped, whichever way that happens. Only clients in cgroups of its own are intercepted, never
//! another program of the machine.

mod cgroup;
pub(crate) mod descriptors;
mod lane;
mod link;
mod proxy;
mod relay;
mod server;
mod service;
pub(crate) mod stand_in;

use std::fs::Permissions;
use std::net::SocketAddrV4;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use self::cgroup::Cgroup;
use self::lane::Between;
pub(crate) use self::lane::Lane;
use self::link::{Link, Site};
use self::proxy::Proxy;
pub(crate) use self::relay::Product;
use self::relay::Relay;
pub(crate) use self::server::Server;
use self::stand_in::StandIn;
use crate::setup::{self, Purpose};
use crate::{build, interrupt, privilege};

/// Servers are reached by other users, who may be kept out of a private `TMPDIR`.
const TEMPORARY_FOLDER: &str = "/tmp";
/// What clients of the stand-in call themselves and their database.
pub(crate) const IDLE_NAME: &str = "idle";

/// Where the server is, seen from its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// On the same host, behind the loopback device
    SameHost,
    /// In another network namespace, behind a pair of virtual devices
    Remote,
}

/// Where clients find what they are after.
#[derive(Clone, Copy, Debug)]
struct Destinations {
    server: SocketAddrV4,
    /// Only where it was asked for ([`Playground::start_stand_in`]).
    stand_in: Option<SocketAddrV4>,
}

/// The servers, in the order in which they have to go; lanes are dropped before it.
pub(crate) struct Playground {
    pgusher: PathBuf,
    stand_in: Option<StandIn>,
    pub(crate) server: Server,
    folder: TempDir,
    /// Last: what runs in a namespace goes before it.
    site: Site,
}

impl Playground {
    /// Starts a server; a remote one moves this process into a network namespace of its own, for good.
    ///
    /// # Errors
    ///
    /// When something does not start; what has started already is stopped again.
    pub(crate) fn open(pgusher: PathBuf, place: Place) -> Result<Self> {
        interrupt::defer()?;
        let site = match place {
            Place::SameHost => Site::Here,
            Place::Remote => Site::Beyond(Link::open()?),
        };
        let folder = folder_in(Path::new(TEMPORARY_FOLDER), "pgusher-playground")?;
        let server = Server::start(&site, folder.path())?;
        Ok(Self {
            pgusher,
            stand_in: None,
            server,
            folder,
            site,
        })
    }

    /// Starts a server beside the other one that lets in everybody and answers nothing, for lanes made from then on.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub(crate) fn start_stand_in(&mut self) -> Result<()> {
        self.stand_in = Some(StandIn::start(&self.site, self.folder.path())?);
        Ok(())
    }

    /// Returns a lane with nothing on it. Its clients live in a cgroup too, so that lanes differ in nothing else.
    ///
    /// # Errors
    ///
    /// When there is no cgroup to be had.
    pub(crate) fn direct(&self, name: &str) -> Result<Lane> {
        let (cgroup, folder) = self.make_lane(name)?;
        Ok(Lane::new(
            Between::Nothing,
            cgroup,
            self.destinations(),
            folder,
        ))
    }

    /// Starts pgusher for the clients of a new lane.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub(crate) fn intercepted(&self, name: &str, arguments: &[String]) -> Result<Lane> {
        let (cgroup, folder) = self.make_lane(name)?;
        let destinations = self.destinations();
        let ports: Vec<u16> = [Some(destinations.server), destinations.stand_in]
            .into_iter()
            .flatten()
            .map(|address| address.port())
            .collect();
        let proxy = Proxy::start(
            &self.pgusher,
            cgroup.path(),
            &ports,
            folder.path(),
            arguments,
        )?;
        Ok(Lane::new(
            Between::Pgusher(proxy),
            cgroup,
            destinations,
            folder,
        ))
    }

    /// Starts another relay for the clients of a new lane, who dial it.
    ///
    /// # Errors
    ///
    /// When it is not there or does not start.
    pub(crate) fn relayed(&self, product: Product) -> Result<Lane> {
        let (cgroup, folder) = self.make_lane(product.name())?;
        let relay = Relay::start(product, folder.path(), self.destinations())?;
        let front = relay.front();
        Ok(Lane::new(Between::Relay(relay), cgroup, front, folder))
    }

    /// Returns the folder for files that live as long as the server.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the binary of pgusher.
    pub(crate) fn pgusher(&self) -> &Path {
        &self.pgusher
    }

    fn make_lane(&self, name: &str) -> Result<(Cgroup, TempDir)> {
        Ok((Cgroup::create(name)?, folder_in(self.folder.path(), name)?))
    }

    fn destinations(&self) -> Destinations {
        Destinations {
            server: self.server.address(),
            stand_in: self.stand_in.as_ref().map(StandIn::address),
        }
    }
}

/// Makes a folder that everybody may look into.
fn folder_in(parent: &Path, name: &str) -> Result<TempDir> {
    tempfile::Builder::new()
        .prefix(&format!("{name}-"))
        .permissions(Permissions::from_mode(0o755))
        .tempdir_in(parent)
        .with_context(|| format!("cannot make a folder in {}", parent.display()))
}

/// Builds pgusher as the caller, then goes on as root with the binary's path.
///
/// Returns the path once this process is root. A caller who is not is replaced by sudo and this program with the same
/// arguments and `--binary PATH`.
///
/// # Errors
///
/// When the build fails or root cannot be had.
pub(crate) fn build_then_become_root(binary: Option<PathBuf>) -> Result<PathBuf> {
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
    command.args(std::env::args_os().skip(1));
    command.arg("--binary").arg(binary);
    match privilege::become_command(command)? {}
}
