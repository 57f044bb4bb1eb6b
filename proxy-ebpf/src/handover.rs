//! The key under which the kernel hands a redirected connect to the process that accepts it.

use crate::endpoint::Endpoint;
use crate::unix::{LISTENER_NAME_BYTES, ListenerName};

/// A TCP connection as both its ends can name it: network namespace, client endpoint, listener endpoint.
///
/// Ports alone collide across source addresses and namespaces; all three together are unique while the connection
/// lives. Size: 48 bytes, alignment 8.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HandoverKey {
    netns_cookie: u64,
    client: Endpoint,
    listener: Endpoint,
    reserved: [u8; 4],
}

impl HandoverKey {
    /// Makes the key of the connection from `client` to `listener` inside the namespace with `netns_cookie`.
    #[inline(always)]
    pub const fn new(netns_cookie: u64, client: Endpoint, listener: Endpoint) -> Self {
        Self {
            netns_cookie,
            client,
            listener,
            reserved: [0; 4],
        }
    }
}

/// The listeners of one network namespace: the ports of those on 127.0.0.1 and ::1, and the name of the one for unix
/// sockets.
///
/// Size: 10 bytes, alignment 1.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenerPorts {
    v4: [u8; 2],
    v6: [u8; 2],
    /// All zero where there is none: the digits of a name are none.
    unix: [u8; LISTENER_NAME_BYTES],
}

impl ListenerPorts {
    /// Makes the pair; `None` where the namespace has no listener of that family.
    pub const fn new(v4: Option<u16>, v6: Option<u16>) -> Self {
        const fn bytes(port: Option<u16>) -> [u8; 2] {
            match port {
                Some(port) => port.to_be_bytes(),
                None => [0; 2],
            }
        }
        Self {
            v4: bytes(v4),
            v6: bytes(v6),
            unix: [0; LISTENER_NAME_BYTES],
        }
    }

    /// Whether there is a listener for TCP at all: none where loopback is down.
    #[inline(always)]
    pub const fn has_tcp(&self) -> bool {
        u16::from_be_bytes(self.v4) != 0 || u16::from_be_bytes(self.v6) != 0
    }

    /// A listener for TCP, if there is one at all: none where loopback is down.
    #[inline(always)]
    pub const fn any_tcp(&self) -> Option<Endpoint> {
        match self.for_destination(&Endpoint::v4([127, 0, 0, 1], 0)) {
            None => self.for_destination(&Endpoint::v6([0; 16], 0)),
            found => found,
        }
    }

    /// Adds the listener for unix sockets.
    #[must_use]
    pub const fn with_unix(self, name: ListenerName) -> Self {
        Self {
            unix: name.bytes(),
            ..self
        }
    }

    /// The name of the listener for unix sockets, if there is one.
    #[inline(always)]
    pub const fn unix(&self) -> Option<ListenerName> {
        let [_, first, ..] = self.unix;
        if first == 0 {
            None
        } else {
            Some(ListenerName::new(self.unix))
        }
    }

    /// The listener that serves connects to `destination`: the one of the same address family.
    #[inline(always)]
    pub const fn for_destination(&self, destination: &Endpoint) -> Option<Endpoint> {
        let port = if destination.is_v4() {
            self.v4
        } else {
            self.v6
        };
        match u16::from_be_bytes(port) {
            0 => None,
            port if destination.is_v4() => Some(Endpoint::v4([127, 0, 0, 1], port)),
            port => Some(Endpoint::v6(
                [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
                port,
            )),
        }
    }
}
