//! The sockets redirected connects arrive at, one for each address family, and the accept loop.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use proxy_ebpf::handover::ListenerPorts;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tracing::{error, warn};

use crate::socket;

/// The accept queue; the kernel cuts it to net.core.somaxconn.
const BACKLOG: i32 = 4096;
const FIRST_BACKOFF: Duration = Duration::from_millis(5);
const LAST_BACKOFF: Duration = Duration::from_secs(1);

/// An address one of our listeners is bound to; the router refuses to dial it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddress(pub SocketAddr);

/// A connection as it was accepted, before anything is known about it.
pub struct Accepted {
    /// The client's socket.
    pub stream: TcpStream,
    /// Where the client's socket says it is.
    pub client: SocketAddr,
    /// Which of our listeners it came to.
    pub listener: SocketAddr,
}

/// Our listeners in one network namespace.
pub struct Listeners {
    v4: TcpListener,
    v6: Option<TcpListener>,
    netns_cookie: u64,
}

impl Listeners {
    /// Binds 127.0.0.1 and, where the host has IPv6, ::1. With port 0 each gets any free one.
    ///
    /// # Errors
    /// The operating system's reason, with the address.
    pub fn bind(port: u16) -> io::Result<Self> {
        let v4 = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
        let v6 = match listen(SocketAddr::from((Ipv6Addr::LOCALHOST, port))) {
            Ok(listener) => Some(listener),
            Err(error) if is_without_ipv6(&error) => {
                warn!(%error, "no IPv6 loopback here; connects over IPv6 are not intercepted");
                None
            }
            Err(error) => return Err(error),
        };
        let netns_cookie = socket::netns_cookie(&v4)?;
        Ok(Self {
            v4,
            v6,
            netns_cookie,
        })
    }

    /// The cookie of the network namespace they are in.
    pub fn netns_cookie(&self) -> u64 {
        self.netns_cookie
    }

    /// Their ports, as the hooks want them.
    ///
    /// # Errors
    /// The operating system's reason when a bound address cannot be read.
    pub fn ports(&self) -> io::Result<ListenerPorts> {
        let v4 = self.v4.local_addr()?.port();
        let v6 = self.v6.as_ref().map(TcpListener::local_addr).transpose()?;
        Ok(ListenerPorts::new(
            Some(v4),
            v6.map(|address| address.port()),
        ))
    }

    /// Their addresses, which the router refuses to dial.
    ///
    /// # Errors
    /// The operating system's reason when a bound address cannot be read.
    pub fn addresses(&self) -> io::Result<Vec<ListenAddress>> {
        let all = [Some(&self.v4), self.v6.as_ref()];
        all.into_iter()
            .flatten()
            .map(|listener| listener.local_addr().map(ListenAddress))
            .collect()
    }

    /// Waits for the next connection. When the process is out of descriptors or memory it backs off and tries
    /// again: the connection stays in the accept queue meanwhile.
    ///
    /// # Cancel safety
    /// Cancel safe: a connection is either returned or still in the queue.
    pub async fn accept(&self) -> Accepted {
        let mut backoff = FIRST_BACKOFF;
        loop {
            let (accepted, listener) = tokio::select! {
                accepted = self.v4.accept() => (accepted, &self.v4),
                accepted = accept_from(self.v6.as_ref()) => (accepted, self.v6.as_ref().unwrap_or(&self.v4)),
            };
            match accepted.and_then(|(stream, client)| Ok((stream, client, listener.local_addr()?)))
            {
                Ok((stream, client, listener)) => {
                    return Accepted {
                        stream,
                        client,
                        listener,
                    };
                }
                // The client gave up between SYN and accept; the queue is fine.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    error!(%error, ?backoff, "cannot accept a connection; raise LimitNOFILE if descriptors ran out");
                    tokio::time::sleep(backoff).await;
                    backoff = (backoff * 2).min(LAST_BACKOFF);
                }
            }
        }
    }
}

async fn accept_from(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let bound = || -> io::Result<TcpListener> {
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
        TcpListener::from_std(socket.into())
    };
    bound().map_err(|error| {
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
    })
}

/// Whether the host has no IPv6 at all, or no ::1.
fn is_without_ipv6(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported
    )
}
