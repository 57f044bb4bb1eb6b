//! A server that lets everybody in and answers every query with nothing: `cargo xtask stand-in`, hidden.
//!
//! What a proxy needs for ten thousand sessions cannot be seen behind ten thousand backends, which take a machine's memory,
//! nor how fast it takes new ones behind a server that forks for each. One thread; it never fails because of one client.

mod conversation;

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::Signal;

use self::conversation::{Conversation, Next};
use super::link::Site;
use super::server::free_port;
use super::service::{Service, die_with_parent};
use crate::interrupt;

/// Events taken from the kernel at a time.
const EVENTS: usize = 256;
/// A query of ours with room to spare; longer ones are read in parts.
const READ_BYTES: usize = 4096;

/// A running stand-in; dropping it stops it.
pub(super) struct StandIn {
    address: SocketAddrV4,
    _service: Service,
}

impl StandIn {
    /// Starts this program's hidden command at the site of the servers and waits until it listens.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub(super) fn start(site: &Site, folder: &Path) -> Result<Self> {
        let address = SocketAddrV4::new(site.address(), free_port()?);
        let mut command = die_with_parent("TERM");
        command
            .arg(std::env::current_exe().context("cannot find this program's file")?)
            .arg("stand-in")
            .arg(address.to_string());
        let mut service = Service::start(
            "the stand-in",
            site.place(command),
            folder.join("stand-in.log"),
            Signal::SIGTERM,
        )?;
        service.wait_until(|| TcpStream::connect(address).is_ok())?;
        Ok(Self {
            address,
            _service: service,
        })
    }

    /// Returns where it listens.
    pub(super) fn address(&self) -> SocketAddrV4 {
        self.address
    }
}

/// Serves until the process is told to stop.
///
/// # Errors
///
/// When it cannot listen, or the kernel refuses to wait.
pub(crate) fn serve(address: SocketAddrV4) -> Result<()> {
    interrupt::defer()?;
    let listener =
        TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    listener
        .set_nonblocking(true)
        .context("cannot make the listener non-blocking")?;
    let mut crowd = Crowd {
        epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("cannot make an epoll")?,
        peers: HashMap::new(),
    };
    let listening = listener.as_raw_fd();
    crowd.watch(&listener)?;
    let mut events = [EpollEvent::empty(); EVENTS];
    loop {
        let ready = match crowd.epoll.wait(&mut events, EpollTimeout::NONE) {
            Ok(ready) => ready,
            Err(Errno::EINTR) if interrupt::check().is_err() => return Ok(()),
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error).context("cannot wait for clients"),
        };
        for event in events.iter().take(ready) {
            let Ok(descriptor) = RawFd::try_from(event.data()) else {
                continue;
            };
            if descriptor == listening {
                crowd.admit(&listener)?;
            } else {
                crowd.hear(descriptor);
            }
        }
    }
}

struct Peer {
    stream: TcpStream,
    conversation: Conversation,
}

/// Everybody who is connected.
struct Crowd {
    epoll: Epoll,
    peers: HashMap<RawFd, Peer>,
}

impl Crowd {
    fn watch(&self, socket: &(impl AsRawFd + AsFd)) -> Result<()> {
        let name = u64::try_from(socket.as_raw_fd()).context("no descriptor")?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, name);
        self.epoll
            .add(socket, event)
            .context("cannot watch a socket")
    }

    fn admit(&mut self, listener: &TcpListener) -> Result<()> {
        loop {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                // A client that left in the queue.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error).context("cannot accept a client"),
            };
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            self.watch(&stream)?;
            let peer = Peer {
                stream,
                conversation: Conversation::default(),
            };
            self.peers.insert(peer.stream.as_raw_fd(), peer);
        }
    }

    /// Answers one peer; whoever fails or says goodbye is dropped, which closes its socket and ends the watch.
    fn hear(&mut self, descriptor: RawFd) {
        let goes_on = self
            .peers
            .get_mut(&descriptor)
            .is_some_and(|peer| peer.answer().is_some());
        if !goes_on {
            self.peers.remove(&descriptor);
        }
    }
}

impl Peer {
    fn answer(&mut self) -> Option<()> {
        let mut bytes = [0; READ_BYTES];
        let length = match self.stream.read(&mut bytes) {
            Ok(0) => return None,
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Some(()),
            Err(_) => return None,
        };
        let (answer, next) = self.conversation.hear(bytes.get(..length)?);
        // An answer is a few hundred bytes: a peer whose socket has no room for it has not read for long.
        self.stream.write_all(&answer).ok()?;
        (next == Next::Listen).then_some(())
    }
}
