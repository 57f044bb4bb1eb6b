//! The way to a server's unix socket: which file the path that was dialled leads to, and a connection to that file, both
//! with the client's credentials and from where the client looks paths up.
//!
//! The file is found before the policies are asked, so that they are asked about the socket that is really there, by
//! whatever name it was dialled; and it is held open until the connect, so that nothing can take its place meanwhile.

mod file;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proxy_ebpf::origin::Origin;
use proxy_ebpf::unix::DialledPath;
use rustix::net::sockopt::socket_peercred;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixStream;

use self::file::{name_of, open_in, own_path};
use super::caller::{Caller, Errands};
use crate::destination::{Destination, SocketPath};
use crate::identify::{Identity, Whereabouts};
use crate::intercept::{Guise, Namespace, Porter, apart_and_wait};
use crate::socket::refuse_descriptors;

/// How a client's own unix socket would have gone to its server.
#[derive(Clone, Debug)]
pub struct UnixWay {
    /// The name that policies are asked about and records tell: that of the file, where there is one.
    name: SocketPath,
    target: Arc<Result<Target, io::Error>>,
    namespace: Arc<Namespace>,
}

/// What is connected to, and by whom.
#[derive(Debug)]
struct Target {
    caller: Caller,
    address: Address,
}

#[derive(Debug)]
enum Address {
    /// A socket's file, open without any rights to it.
    File(OwnedFd),
    /// A name in the client's network namespace.
    Abstract(Vec<u8>),
}

impl UnixWay {
    /// Where it leads.
    pub fn destination(&self) -> Destination {
        Destination::Unix(self.name.clone())
    }
}

/// Finds sockets and connects to them.
#[derive(Clone, Debug)]
pub(super) struct UnixRouter {
    timeout: Duration,
    guise: Guise,
    porter: Porter,
    errands: Errands,
}

impl UnixRouter {
    pub(super) fn new(timeout: Duration, guise: Guise, porter: Porter) -> Self {
        Self {
            timeout,
            guise,
            porter,
            errands: Errands::new(),
        }
    }

    /// Finds what the captured process dialled. Where it finds nothing the dial will say why, and the path is the one
    /// that was dialled. None for a path that is no server's.
    ///
    /// # Cancel safety
    /// Cancel safe; an errand that hangs is left behind and counts against its user's bound.
    pub(super) async fn find(
        &self,
        (origin, identity): (&Origin, &Identity),
        dialled: &DialledPath,
        namespace: Arc<Namespace>,
    ) -> Option<UnixWay> {
        let mut name = SocketPath::new(dialled.bytes())?;
        let target = match Caller::of(origin, identity) {
            None => Err(io::Error::other("whose connection it is was not captured")),
            Some(caller) if dialled.bytes().starts_with(b"\0") => Ok(Target {
                caller,
                address: Address::Abstract(dialled.bytes().to_vec()),
            }),
            Some(caller) => {
                let path = Path::new(std::ffi::OsStr::from_bytes(dialled.bytes()));
                let opened = self.open((*origin, caller), path, name.port()).await;
                opened.map(|(found, target)| {
                    name = found;
                    target
                })
            }
        };
        Some(UnixWay {
            name,
            target: Arc::new(target),
            namespace,
        })
    }

    /// Opens the file that the path leads to for this caller, and tells what it is called.
    async fn open(
        &self,
        (origin, caller): (Origin, Caller),
        path: &Path,
        port: u16,
    ) -> io::Result<(SocketPath, Target)> {
        let (path, errand) = (path.to_owned(), caller.clone());
        let opening = async {
            let place = self.errands.begin(&caller).await?;
            let sent = self.porter.send_envoy(None, move || {
                let _place = place;
                let whereabouts = Whereabouts::of(&origin)?;
                // Both look at file systems that may be the client's own; the name is looked at from our own root.
                let file = apart_and_wait(|| {
                    errand.impersonate()?;
                    open_in(&whereabouts, &path)
                })?;
                let name = name_of(&file, &whereabouts.mounts, port)?;
                Ok((file, name))
            });
            sent.await
        };
        let (file, name) = tokio::time::timeout(self.timeout, opening)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let address = Address::File(file);
        Ok((name, Target { caller, address }))
    }

    /// Connects. The server sees the client's effective user and group.
    ///
    /// # Errors
    /// The operating system's reason, as connect() would have given it to the client.
    ///
    /// # Cancel safety
    /// As [`UnixRouter::find`].
    pub(super) async fn connect(&self, way: &UnixWay) -> io::Result<UnixStream> {
        let target = match &*way.target {
            Ok(target) => target,
            Err(error) => return Err(same(error)),
        };
        // Whoever dials has a limit for this too.
        let place = self.errands.begin(&target.caller).await?;
        let (shared, timeout, guise) = (Arc::clone(&way.target), self.timeout, self.guise);
        let connecting = self.porter.send_envoy(Some(&way.namespace), move || {
            let _place = place;
            match &*shared {
                Ok(target) => target.connect(timeout, guise),
                Err(_) => Err(io::ErrorKind::NotFound.into()),
            }
        });
        UnixStream::from_std(connecting.await?)
    }
}

/// The error once more: each attempt has its own.
fn same(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(number) => io::Error::from_raw_os_error(number),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

impl Target {
    fn connect(
        &self,
        timeout: Duration,
        guise: Guise,
    ) -> io::Result<std::os::unix::net::UnixStream> {
        self.caller.impersonate()?;
        let address = match &self.address {
            // The file itself, whatever its path leads to by now, and however long that is.
            Address::File(file) => SockAddr::unix(own_path(file))?,
            Address::Abstract(name) => SockAddr::unix(std::ffi::OsStr::from_bytes(name))?,
        };
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        refuse_descriptors(&socket)?;
        // Where the server's queue is full, connect() waits for as long as sending may.
        socket.set_write_timeout(Some(timeout))?;
        socket
            .connect(&address)
            .map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
                _ => error,
            })?;
        guise.check(socket_peercred(&socket)?.uid.as_raw())?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    }
}
