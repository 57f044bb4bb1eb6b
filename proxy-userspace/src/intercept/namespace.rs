//! One network namespace: making sockets in it, whichever namespace pgusher itself is in.
//!
//! Whoever has to be inside is sent there by the [`super::porter`].

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use proxy_ebpf::handover::ListenerPorts;
use proxy_ebpf::unix::ListenerName;

use super::listener::{self, ListenAddress};
use super::porter::{Porter, visit_with_all};
use crate::fences::Role;

/// A network namespace in which we have listeners, kept alive by this.
#[derive(Clone, Debug)]
pub struct Namespace {
    cookie: u64,
    /// Its number in /proc; nobody else gets it while the namespace lives.
    inode: u64,
    /// The way in; none for the one we are in.
    entrance: Option<Entrance>,
    listeners: Vec<ListenAddress>,
    /// The name of our listener for unix sockets in it, if there is one.
    unix: Option<ListenerName>,
}

/// The way into a namespace, and who is sent.
#[derive(Clone, Debug)]
pub(super) struct Entrance {
    pub(super) descriptor: Arc<OwnedFd>,
    pub(super) porter: Porter,
}

impl Entrance {
    /// Does `work` inside and waits for it. Blocks.
    pub(super) fn visit<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        self.porter.visit(&self.descriptor, Role::Relay, work)
    }

    /// The same on a thread that may become somebody else. Blocks.
    pub(super) fn visit_as_envoy<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        self.porter.visit(&self.descriptor, Role::Envoy, work)
    }
}

impl Namespace {
    pub(super) fn new(
        cookie: u64,
        inode: u64,
        entrance: Option<Entrance>,
        listeners: Vec<ListenAddress>,
    ) -> Self {
        Self {
            cookie,
            inode,
            entrance,
            listeners,
            unix: None,
        }
    }

    /// The same, with a listener for unix sockets.
    #[must_use]
    pub(super) fn with_unix(self, unix: Option<ListenerName>) -> Self {
        Self { unix, ..self }
    }

    /// The namespace of the calling thread, with these listeners of ours in it.
    ///
    /// # Errors
    /// The operating system's reason.
    pub fn own(listeners: Vec<ListenAddress>) -> io::Result<Self> {
        let inode = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata("/proc/self/ns/net")?);
        Ok(Self::new(listener::cookie_here()?, inode, None, listeners))
    }

    /// What `SO_NETNS_COOKIE` says of the sockets in it.
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    /// Whether it is the one that pgusher is in.
    pub(super) fn is_own(&self) -> bool {
        self.entrance.is_none()
    }

    pub(super) fn inode(&self) -> u64 {
        self.inode
    }

    /// Our listeners in it.
    pub fn listeners(&self) -> &[ListenAddress] {
        &self.listeners
    }

    /// Where the hooks send connects in it.
    pub(super) fn ports(&self) -> ListenerPorts {
        let ports = listener::ports(&self.listeners);
        self.unix.map_or(ports, |name| ports.with_unix(name))
    }

    /// Whether the address is that of a listener of ours in it.
    pub fn has_listener(&self, address: SocketAddr) -> bool {
        self.listeners.contains(&ListenAddress(address))
    }

    /// Makes a socket inside. `make` must not block for long: where the namespace is our own, it is called right here.
    ///
    /// # Errors
    /// The operating system's reason.
    ///
    /// # Cancel safety
    /// Cancel safe: the socket is closed.
    pub async fn make<T: Send + 'static>(
        &self,
        make: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        match &self.entrance {
            Some(Entrance { descriptor, porter }) => porter.make(descriptor, make).await,
            None => make(),
        }
    }

    /// The way in; none where it is our own.
    pub(super) fn entrance(&self) -> Option<Arc<OwnedFd>> {
        let entrance = self.entrance.as_ref();
        entrance.map(|entrance| Arc::clone(&entrance.descriptor))
    }

    /// Does `work` inside and waits for it. Blocks.
    pub(super) fn visit<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        match &self.entrance {
            Some(entrance) => entrance.visit(work),
            None => work(),
        }
    }

    /// Does `work` inside with every privilege of the calling thread, and waits for it. Blocks.
    pub(super) fn visit_with_all<T: Send>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send,
    ) -> io::Result<T> {
        match &self.entrance {
            Some(entrance) => visit_with_all(&entrance.descriptor, work),
            None => work(),
        }
    }
}
