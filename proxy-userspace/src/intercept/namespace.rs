//! One network namespace: making sockets in it, whichever namespace pgusher itself is in; and threads that end with
//! their errand.
//!
//! **Invariant:** only threads that end with their errand enter a namespace. One that lived on could serve somebody
//! else from the wrong place.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread;

use nix::sched::{CloneFlags, setns};
use proxy_ebpf::handover::ListenerPorts;
use proxy_ebpf::unix::ListenerName;
use tokio::sync::oneshot;

use super::listener::{self, ListenAddress};

/// The stack of a thread that makes a socket and ends, in bytes.
const STACK_BYTES: usize = 128 * 1024;
const THREAD_NAME: &str = "netns";

/// A network namespace in which we have listeners, kept alive by this.
#[derive(Clone, Debug)]
pub struct Namespace {
    cookie: u64,
    /// Its number in /proc; nobody else gets it while the namespace lives.
    inode: u64,
    /// The way in; none for the one we are in.
    entrance: Option<Arc<OwnedFd>>,
    listeners: Vec<ListenAddress>,
    /// The name of our listener for unix sockets in it, if there is one.
    unix: Option<ListenerName>,
}

impl Namespace {
    pub(super) fn new(
        cookie: u64,
        inode: u64,
        entrance: Option<OwnedFd>,
        listeners: Vec<ListenAddress>,
    ) -> Self {
        Self {
            cookie,
            inode,
            entrance: entrance.map(Arc::new),
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
        match self.entrance {
            Some(_) => Self::apart(Some(self), make).await,
            None => make(),
        }
    }

    /// Does `work` on a thread of its own, in this namespace if one is given. The thread ends with it, so it may do with
    /// itself what it likes.
    ///
    /// # Errors
    /// The operating system's reason.
    ///
    /// # Cancel safety
    /// Cancel safe; the thread goes on until its work is done.
    pub async fn apart<T: Send + 'static>(
        inside: Option<&Self>,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let entrance = inside.and_then(|namespace| namespace.entrance.clone());
        let (answer, answered) = oneshot::channel();
        builder().spawn(move || {
            let entered = entrance.map_or(Ok(()), |entrance| enter(entrance.as_fd()));
            // Nobody waits any more for what was cancelled.
            let _ = answer.send(entered.and_then(|()| work()));
        })?;
        answered.await.map_err(|_| ended_early())?
    }

    /// Does `work` on a thread of its own and waits for it. Blocks.
    ///
    /// # Errors
    /// The operating system's reason.
    pub fn apart_and_wait<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        thread::scope(|scope| {
            builder()
                .spawn_scoped(scope, work)?
                .join()
                .unwrap_or_else(|_| Err(ended_early()))
        })
    }

    /// Does `work` inside and waits for it. Blocks.
    pub(super) fn visit<T: Send>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send,
    ) -> io::Result<T> {
        match &self.entrance {
            Some(entrance) => visit(entrance.as_fd(), work),
            None => work(),
        }
    }
}

/// Does `work` inside the namespace of a descriptor and waits for it. Blocks.
pub(super) fn visit<T: Send>(
    entrance: BorrowedFd<'_>,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    Namespace::apart_and_wait(|| enter(entrance).and_then(|()| work()))
}

fn builder() -> thread::Builder {
    thread::Builder::new()
        .name(THREAD_NAME.to_owned())
        .stack_size(STACK_BYTES)
}

/// Moves the calling thread into the namespace, for good.
fn enter(entrance: BorrowedFd<'_>) -> io::Result<()> {
    Ok(setns(entrance, CloneFlags::CLONE_NEWNET)?)
}

fn ended_early() -> io::Error {
    io::Error::other("the thread in the network namespace ended before its time")
}
