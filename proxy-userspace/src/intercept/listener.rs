//! The sockets redirected connects arrive at: in each network namespace one for each address family, and one for unix
//! sockets.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;

use proxy_ebpf::handover::ListenerPorts;
use proxy_ebpf::unix::{LISTENER_NAME_BYTES, ListenerName};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::unix::Guise;
use crate::socket;

/// The accept queue; the kernel cuts it to net.core.somaxconn.
const BACKLOG: i32 = 4096;
/// Any port does where nothing is sent.
const DISCARD_PORT: u16 = 9;
const LOOPBACK: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

/// An address one of our listeners is bound to; the router refuses to dial it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddress(pub SocketAddr);

/// A listener that does not block.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp {
        socket: TcpListener,
        address: SocketAddr,
    },
    /// For connects to servers' unix sockets.
    Unix {
        socket: UnixListener,
        name: ListenerName,
    },
}

impl Listener {
    /// Its address, if it has one.
    pub(super) fn address(&self) -> Option<ListenAddress> {
        match self {
            Self::Tcp { address, .. } => Some(ListenAddress(*address)),
            Self::Unix { .. } => None,
        }
    }

    /// Its name, if it is one for unix sockets.
    pub(super) fn name(&self) -> Option<ListenerName> {
        match self {
            Self::Tcp { .. } => None,
            Self::Unix { name, .. } => Some(*name),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp { socket, .. } => socket.as_fd(),
            Self::Unix { socket, .. } => socket.as_fd(),
        }
    }
}

/// The loopback addresses that a connect can be redirected to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Families {
    pub(super) v4: bool,
    pub(super) v6: bool,
}

impl Families {
    /// Those of the calling thread's namespace. With `lo` down there are none.
    ///
    /// # Errors
    /// The operating system's reason if it cannot be told.
    pub(super) fn here() -> io::Result<Self> {
        let [v4, v6] = LOOPBACK.map(is_local);
        Ok(Self { v4: v4?, v6: v6? })
    }

    /// Those that have a listener.
    pub(super) fn of(listeners: &[ListenAddress]) -> Self {
        Self {
            v4: listeners.iter().any(|listener| listener.0.is_ipv4()),
            v6: listeners.iter().any(|listener| listener.0.is_ipv6()),
        }
    }

    pub(super) fn is_none(self) -> bool {
        self == Self::default()
    }
}

/// Listens in the calling thread's namespace on 127.0.0.1 and ::1, as far as they are there. With port 0 each gets any
/// free one that is not `intercepted`: a server could be dialled there, and would be taken for us.
///
/// # Errors
/// The operating system's reason, with the address.
pub(super) fn listen_here(
    port: u16,
    intercepted: &[u16],
    families: Families,
) -> io::Result<Vec<Listener>> {
    let wanted = [families.v4, families.v6];
    LOOPBACK
        .into_iter()
        .zip(wanted)
        .filter(|(_, is_wanted)| *is_wanted)
        .map(|(ip, _)| {
            let bind = || {
                let (socket, address) = listen(SocketAddr::new(ip, port))?;
                Ok((address.port(), Listener::Tcp { socket, address }))
            };
            first_besides(intercepted, bind)
        })
        .collect()
}

/// What is bound to a port that is not `intercepted`. What is bound to one that is, is held until then: the kernel gives
/// each port once, so this ends.
fn first_besides<T>(
    intercepted: &[u16],
    mut bind: impl FnMut() -> io::Result<(u16, T)>,
) -> io::Result<T> {
    let mut held = Vec::new();
    loop {
        let (port, bound) = bind()?;
        if !intercepted.contains(&port) {
            return Ok(bound);
        }
        held.push(bound);
    }
}

/// Listens for a moment where the calling thread is; returns the addresses.
///
/// # Errors
/// The operating system's reason, or that there is no loopback address.
pub fn try_to_listen() -> io::Result<Vec<ListenAddress>> {
    let families = Families::here()?;
    if families.is_none() {
        return Err(io::Error::other(
            "there is no loopback address: is `lo` down?",
        ));
    }
    let listeners = listen_here(0, &[], families)?;
    Ok(listeners.iter().filter_map(Listener::address).collect())
}

/// The cookie of the calling thread's network namespace.
///
/// # Errors
/// The operating system's reason.
pub(super) fn cookie_here() -> io::Result<u64> {
    socket::netns_cookie(&Socket::new(Domain::IPV4, Type::DGRAM, None)?)
}

/// The listeners' ports, as the hooks want them.
pub(super) fn ports(listeners: &[ListenAddress]) -> ListenerPorts {
    let port = |is_wanted: fn(&SocketAddr) -> bool| {
        let mut addresses = listeners.iter().map(|listener| listener.0);
        addresses.find(is_wanted).map(|address| address.port())
    };
    ListenerPorts::new(port(SocketAddr::is_ipv4), port(SocketAddr::is_ipv6))
}

/// Listens in the calling thread's namespace for connects to servers' unix sockets, under a name that the kernel chooses:
/// one that nobody else has bound. The calling thread takes on the guise, and is to end.
///
/// # Errors
/// The operating system's reason.
pub(super) fn listen_for_unix_here(guise: Guise) -> io::Result<Listener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix("")?)?;
    // Before it listens: what is accepted has it from the first byte.
    socket::refuse_descriptors(&socket)?;
    guise.put_on()?;
    socket.listen(BACKLOG)?;
    let address = socket.local_addr()?;
    let digits = address.as_abstract_namespace().unwrap_or_default();
    let name = [&[0], digits].concat();
    let name = <[u8; LISTENER_NAME_BYTES]>::try_from(name.as_slice());
    Ok(Listener::Unix {
        socket: OwnedFd::from(socket).into(),
        name: ListenerName::new(name.map_err(io::Error::other)?),
    })
}

fn listen(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let bound = || {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let socket = TcpListener::from(socket);
        let address = socket.local_addr()?;
        Ok((socket, address))
    };
    bound().map_err(|error: io::Error| {
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
    })
}

/// Whether what is sent to this address stays here. Being able to bind it proves nothing where `ip_nonlocal_bind` is
/// set, nor does a route, which may lead outside; nothing is sent to find out.
fn is_local(ip: IpAddr) -> io::Result<bool> {
    let unspecified = match ip {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let source = || -> io::Result<IpAddr> {
        let socket = UdpSocket::bind((unspecified, 0))?;
        socket.connect((ip, DISCARD_PORT))?;
        Ok(socket.local_addr()?.ip())
    };
    match source() {
        Ok(source) => Ok(source == ip),
        Err(error) if is_lack_of_ours(&error) => Err(error),
        Err(_) => Ok(false),
    }
}

/// Whether the error is a lack of ours, and says nothing about a namespace or a server.
pub(crate) fn is_lack_of_ours(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_intercepted_is_held_until_another_is_found() {
        let mut given = [5432, 6432, 40_000].into_iter();
        let bound = first_besides(&[5432, 6432], || {
            let port = given.next().unwrap();
            Ok((port, port))
        });
        assert_eq!(bound.unwrap(), 40_000);
        let failed = first_besides::<()>(&[], || Err(io::ErrorKind::AddrInUse.into()));
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn only_loopback_that_is_there_counts_and_gets_a_listener() {
        let families = Families::here().unwrap();
        assert!(families.v4);
        assert!(!is_local("192.0.2.1".parse().unwrap()).unwrap());
        let only_v4 = Families {
            v4: true,
            v6: false,
        };
        for wanted in [families, only_v4, Families::default()] {
            let listeners = listen_here(0, &[], wanted).unwrap();
            let addresses: Vec<_> = listeners.iter().filter_map(Listener::address).collect();
            assert_eq!(Families::of(&addresses), wanted);
        }
    }

    #[test]
    fn the_hooks_get_the_port_of_each_family() {
        let listener = |text: &str| ListenAddress(text.parse().unwrap());
        let (four, six) = (listener("127.0.0.1:40"), listener("[::1]:60"));
        assert_eq!(ports(&[six, four]), ListenerPorts::new(Some(40), Some(60)));
        assert_eq!(ports(&[six]), ListenerPorts::new(None, Some(60)));
    }
}
