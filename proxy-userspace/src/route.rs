//! Stage 5, route: from leave to dial to a connected server socket.
//!
//! The upstream socket is made in the client's network namespace, and leaves as the client's own would: from the source
//! address, interface and firewall mark the application chose.
//! Previous stage: [`crate::policy`]; next: [`crate::relay`].

mod caller;
mod unix;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nix::net::if_::if_indextoname;
use nix::sys::socket::{setsockopt, sockopt};
use proxy_ebpf::interception::Route;
use proxy_ebpf::origin::Origin;
use proxy_ebpf::unix::DialledPath;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpSocket;

use crate::destination::Destination;
use crate::identify::Identity;
use crate::intercept::{Guise, Namespace, Porter, is_lack_of_ours};
use crate::policy::Clearance;
use crate::stream::Stream;

use unix::UnixRouter;
pub use unix::UnixWay;

/// Why there is no connection to the server.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The destination is one of our own listeners.
    #[error("{0} is pgusher's own listener")]
    OwnListener(SocketAddr),
    /// The server did not answer in time.
    #[error("cannot connect to {destination}: no answer within {timeout:?}")]
    TimedOut {
        /// The server.
        destination: Destination,
        /// The limit that passed.
        timeout: Duration,
    },
    /// There is no socket to connect with: a lack of ours, not the server's.
    #[error("pgusher has no socket for the connection to {destination}: {source}")]
    NoSocket {
        /// The server.
        destination: Destination,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The operating system's refusal.
    #[error("cannot connect to {destination}: {source}")]
    Refused {
        /// The server.
        destination: Destination,
        /// The reason, as connect() would have given it to the client.
        source: io::Error,
    },
}

/// How a client's own socket would have gone to its server.
#[derive(Clone, Debug)]
pub enum Way {
    /// Over TCP.
    Tcp {
        /// With which options.
        route: Route,
        /// From where.
        namespace: Arc<Namespace>,
    },
    /// To a unix socket.
    Unix(UnixWay),
}

impl Way {
    /// Where it leads.
    pub fn destination(&self) -> Destination {
        match self {
            Self::Tcp { route, .. } => route.original().socket_addr().into(),
            Self::Unix(way) => way.destination(),
        }
    }
}

/// Dials servers.
#[derive(Clone, Debug)]
pub struct Router {
    timeout: Duration,
    unix: UnixRouter,
}

impl Router {
    /// Makes a router that gives up after `timeout`; to clients of unix sockets we have this guise, and the porter sends
    /// whoever connects as they would.
    pub fn new(timeout: Duration, guise: Guise, porter: Porter) -> Self {
        Self {
            timeout,
            unix: UnixRouter::new(timeout, guise, porter),
        }
    }

    /// The way to a unix socket that the captured process dialled; none if its path is no server's.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn find(
        &self,
        client: (&Origin, &Identity),
        dialled: &DialledPath,
        namespace: Arc<Namespace>,
    ) -> Option<Way> {
        let way = self.unix.find(client, dialled, namespace).await?;
        Some(Way::Unix(way))
    }

    /// Connects to where the clearance allows, the way the client's socket would have.
    ///
    /// # Errors
    /// [`DialError`]; its text is fit for the client.
    ///
    /// # Cancel safety
    /// Cancel safe: an unfinished connection is closed.
    pub async fn dial(&self, clearance: &Clearance, way: &Way) -> Result<Stream, DialError> {
        let destination = clearance.destination();
        let dialled = async {
            match (destination, way) {
                (Destination::Tcp(address), Way::Tcp { route, namespace }) => {
                    connect_tcp(*address, *route, namespace).await
                }
                (Destination::Unix(_), Way::Unix(way)) if *destination == way.destination() => {
                    let connected = self.unix.connect(way).await;
                    connected.map(Into::into).map_err(|source| {
                        if is_lack_of_ours(&source) {
                            let destination = destination.clone();
                            return DialError::NoSocket {
                                destination,
                                source,
                            };
                        }
                        refused(destination, source)
                    })
                }
                // Leave to go somewhere else is none.
                _ => Err(refused(destination, io::ErrorKind::PermissionDenied.into())),
            }
        };
        let timed_out = |_| DialError::TimedOut {
            destination: destination.clone(),
            timeout: self.timeout,
        };
        tokio::time::timeout(self.timeout, dialled)
            .await
            .map_err(timed_out)?
    }
}

fn refused(destination: &Destination, source: io::Error) -> DialError {
    DialError::Refused {
        destination: destination.clone(),
        source,
    }
}

/// Connects from the client's namespace with its socket's options.
async fn connect_tcp(
    destination: SocketAddr,
    route: Route,
    namespace: &Namespace,
) -> Result<Stream, DialError> {
    if namespace.has_listener(destination) {
        return Err(DialError::OwnListener(destination));
    }
    let made = namespace.make(move || upstream_socket(destination, &route));
    let socket = made.await.map_err(|source| DialError::NoSocket {
        destination: destination.into(),
        source,
    })?;
    let connecting = async {
        let stream = Stream::from(socket.connect(destination).await?);
        stream.prepare()?;
        Ok(stream)
    };
    connecting
        .await
        .map_err(|source| refused(&destination.into(), source))
}

/// A socket with the route options of the client's own.
fn upstream_socket(destination: SocketAddr, route: &Route) -> io::Result<TcpSocket> {
    let socket = Socket::new(
        Domain::for_address(destination),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    if route.mark() != 0 {
        socket.set_mark(route.mark())?;
    }
    if let Some(index) = route.bound_ifindex() {
        let name = if_indextoname(index)?;
        // nix 0.31 takes a failed lookup for an empty name, and an empty name would mean "any interface".
        if name.is_empty() {
            return Err(nix::errno::Errno::ENXIO.into());
        }
        socket.bind_device(Some(name.to_bytes()))?;
    }
    if let Some(source) = route.source() {
        // Only the address: the client's own socket holds its port.
        let source = SocketAddr::new(source.socket_addr().ip(), 0);
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        socket.bind(&source.into())?;
    }
    Ok(TcpSocket::from_std_stream(socket.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intercept::ListenAddress;
    use proxy_ebpf::endpoint::Endpoint;

    fn permit(destination: SocketAddr) -> Clearance {
        crate::policy::tests_clearance(destination)
    }

    fn router(seconds: u64) -> Router {
        let porter = Porter::start().unwrap();
        Router::new(Duration::from_secs(seconds), Guise::default(), porter)
    }

    fn route_to(destination: SocketAddr) -> Route {
        Route::new(destination.into(), Endpoint::UNSPECIFIED)
    }

    fn way(route: Route, own: Vec<ListenAddress>) -> Way {
        Way::Tcp {
            route,
            namespace: Arc::new(Namespace::own(own).unwrap()),
        }
    }

    #[tokio::test]
    async fn our_own_listener_is_never_dialled() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap();
        let router = router(1);
        let error = router
            .dial(&permit(own), &way(route_to(own), vec![ListenAddress(own)]))
            .await
            .unwrap_err();
        assert!(matches!(error, DialError::OwnListener(_)), "{error}");
    }

    #[tokio::test]
    async fn a_bound_source_address_is_the_servers_view_of_the_client() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        let source: SocketAddr = "127.0.0.7:40000".parse().unwrap();
        let route = route_to(server).with_socket(source.into(), 0, 0);
        let router = router(5);
        let _stream = router
            .dial(&permit(server), &way(route, Vec::new()))
            .await
            .unwrap();
        let (_, seen) = listener.accept().await.unwrap();
        assert_eq!(seen.ip(), source.ip());
    }

    #[tokio::test]
    async fn a_lack_of_ours_is_not_the_servers_refusal() {
        let server: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let no_such_interface = route_to(server).with_socket(Endpoint::UNSPECIFIED, u32::MAX, 0);
        let router = router(5);
        let error = router
            .dial(&permit(server), &way(no_such_interface, Vec::new()))
            .await
            .unwrap_err();
        assert!(matches!(error, DialError::NoSocket { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_refusal_names_the_server_and_the_reason() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let router = router(5);
        let error = router
            .dial(&permit(closed), &way(route_to(closed), Vec::new()))
            .await
            .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(&closed.to_string()) && text.contains("refused"),
            "{text}"
        );
    }
}
