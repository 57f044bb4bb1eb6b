//! Every listener of every namespace, behind one descriptor that the runtime waits for: nothing is accepted before
//! there is room for it, and waiting costs no task and no place for each namespace.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Handle;

use super::listener::Listener;
use super::namespace::Namespace;
use super::watched::watch;
use crate::stream::Stream;

/// A connection as it was accepted, before anything is known about it.
pub struct Accepted {
    /// The client's socket.
    pub stream: Stream,
    /// What its two ends are called.
    pub ends: Ends,
    /// Where both are.
    pub namespace: Arc<Namespace>,
}

/// The names of a connection's ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// Over TCP.
    Tcp {
        /// Where the client's socket says it is.
        client: SocketAddr,
        /// Which of our listeners it came to.
        listener: SocketAddr,
    },
    /// A client of a unix socket has no name.
    Unix,
}

impl Accepted {
    /// Where the client's socket says it is.
    pub fn client(&self) -> Option<SocketAddr> {
        match self.ends {
            Ends::Tcp { client, .. } => Some(client),
            Ends::Unix => None,
        }
    }
}

/// Why there is nothing to accept after all.
pub(super) enum NotAccepted {
    /// The client gave up, or somebody else was faster.
    Nobody,
    /// There is no descriptor or no memory for it, or whatever it is; the connection stays in its queue.
    NoRoom(io::Error),
    /// The listener has stopped listening: whoever may administer the namespace can close its sockets.
    Dead(Arc<Namespace>),
}

/// Listeners to be accepted from.
pub(super) struct Doors {
    poll: AsyncFd<OwnedFd>,
    doors: Mutex<Numbered>,
}

#[derive(Default)]
struct Numbered {
    doors: HashMap<u64, (Listener, Arc<Namespace>)>,
    /// Never used twice: an event may be about a door that has gone.
    next: u64,
}

impl Doors {
    /// # Errors
    /// The operating system's reason.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            poll: watch(epoll::create(CreateFlags::CLOEXEC)?)?,
            doors: Mutex::default(),
        })
    }

    /// Accepts from these listeners from now on.
    ///
    /// # Errors
    /// The operating system's reason; none of them is accepted from then.
    pub(super) fn open(
        &self,
        listeners: Vec<Listener>,
        namespace: &Arc<Namespace>,
    ) -> io::Result<()> {
        let mut numbered = self.lock();
        for listener in listeners {
            let number = numbered.next;
            numbered.next += 1;
            let event = EventData::new_u64(number);
            if let Err(error) = epoll::add(self.poll.get_ref(), &listener, event, EventFlags::IN) {
                drop(numbered);
                self.close(namespace);
                return Err(error.into());
            }
            numbered
                .doors
                .insert(number, (listener, Arc::clone(namespace)));
        }
        Ok(())
    }

    /// Closes the listeners of a namespace; whoever still waits behind one is reset.
    pub(super) fn close(&self, namespace: &Arc<Namespace>) {
        // A closed descriptor leaves the poll by itself.
        self.lock()
            .doors
            .retain(|_, (_, of)| !Arc::ptr_eq(of, namespace));
    }

    /// Waits until a listener has something for us; tells `on_nobody` if none has.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is accepted here.
    pub(super) async fn ready(&self, on_nobody: impl Fn()) -> io::Result<u64> {
        loop {
            let mut guard = self.poll.readable().await?;
            if let Ok(number) = guard.try_io(|poll| first_ready(poll.get_ref())) {
                return number;
            }
            on_nobody();
        }
    }

    /// Whether anybody waits to be accepted.
    pub(super) fn has_callers(&self) -> bool {
        first_ready(self.poll.get_ref()).is_ok()
    }

    /// Accepts from the listener with this number, for this runtime.
    pub(super) fn accept(&self, number: u64, runtime: &Handle) -> Result<Accepted, NotAccepted> {
        let numbered = self.lock();
        let Some((listener, namespace)) = numbered.doors.get(&number) else {
            return Err(NotAccepted::Nobody);
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (socket, client) =
            acceptfrom_with(listener, flags).map_err(|error| not_accepted(error, namespace))?;
        let _registering = runtime.enter();
        let (stream, ends) = match listener {
            Listener::Tcp { address, .. } => {
                let client = client.and_then(|client| SocketAddr::try_from(client).ok());
                let client = client.ok_or(NotAccepted::Nobody)?;
                let listener = *address;
                let stream = TcpStream::from_std(socket.into()).map(Stream::from);
                (stream, Ends::Tcp { client, listener })
            }
            Listener::Unix { .. } => {
                let stream = UnixStream::from_std(socket.into()).map(Stream::from);
                (stream, Ends::Unix)
            }
        };
        Ok(Accepted {
            stream: stream.map_err(NotAccepted::NoRoom)?,
            ends,
            namespace: Arc::clone(namespace),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Numbered> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The number of a door with somebody behind it. The kernel takes turns among them.
fn first_ready(poll: &OwnedFd) -> io::Result<u64> {
    let mut room = [MaybeUninit::uninit()];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let (events, _) = epoll::wait(poll, &mut room, Some(&now))?;
    let event = events.first().ok_or(io::ErrorKind::WouldBlock)?;
    Ok(event.data.u64())
}

fn not_accepted(error: Errno, namespace: &Arc<Namespace>) -> NotAccepted {
    match error {
        Errno::INVAL => NotAccepted::Dead(Arc::clone(namespace)),
        // The client gave up between SYN and accept; the queue is fine.
        Errno::AGAIN | Errno::INTR | Errno::CONNABORTED => NotAccepted::Nobody,
        _ => NotAccepted::NoRoom(error.into()),
    }
}
