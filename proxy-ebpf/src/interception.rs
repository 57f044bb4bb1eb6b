//! The record of one redirected connect: who asked, for what, and where it was sent instead.

use crate::endpoint::Endpoint;
use crate::origin::Origin;

/// Where a connect wanted to go, where it was sent, and the socket options that shaped its route.
///
/// Size: 64 bytes, alignment 4.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    original: Endpoint,
    redirect: Endpoint,
    source: Endpoint,
    reserved: [u8; 2],
    bound_ifindex: u32,
    mark: u32,
}

impl Route {
    /// Makes a route from the destination the application asked for to the listener it gets.
    #[inline(always)]
    pub const fn new(original: Endpoint, redirect: Endpoint) -> Self {
        Self {
            original,
            redirect,
            source: Endpoint::UNSPECIFIED,
            reserved: [0; 2],
            bound_ifindex: 0,
            mark: 0,
        }
    }

    /// Adds what the application had set on its socket: bound source address, bound interface and firewall mark.
    #[inline(always)]
    pub const fn with_socket(mut self, source: Endpoint, bound_ifindex: u32, mark: u32) -> Self {
        self.source = source;
        self.bound_ifindex = bound_ifindex;
        self.mark = mark;
        self
    }

    /// The destination the application asked for.
    #[inline(always)]
    pub const fn original(&self) -> Endpoint {
        self.original
    }

    /// The listener the connect was sent to.
    #[inline(always)]
    pub const fn redirect(&self) -> Endpoint {
        self.redirect
    }

    /// The source address the application had bound, if it had.
    pub const fn source(&self) -> Option<Endpoint> {
        if self.source.is_unspecified() {
            None
        } else {
            Some(self.source)
        }
    }

    /// The interface the application had bound its socket to (`SO_BINDTODEVICE`), if it had.
    pub const fn bound_ifindex(&self) -> Option<u32> {
        match self.bound_ifindex {
            0 => None,
            index => Some(index),
        }
    }

    /// The socket's firewall mark (`SO_MARK`); 0 when unset.
    pub const fn mark(&self) -> u32 {
        self.mark
    }
}

/// The interface index of `lo` in every network namespace (`LOOPBACK_IFINDEX`, include/net/flow.h).
pub const LOOPBACK_IFINDEX: u32 = 1;

/// One redirected connect, kept in the socket's own storage and handed over when the SYN leaves.
///
/// Size: 352 bytes, alignment 8.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interception {
    origin: Origin,
    connected_at_ns: u64,
    route: Route,
}

impl Interception {
    /// Starts the record anew, in place, and gives out the origin to be filled in. (A record built on the stack and
    /// copied would take up most of a BPF program's 512 bytes.)
    #[inline(always)]
    pub const fn restart(&mut self, route: Route, connected_at_ns: u64) -> &mut Origin {
        self.route = route;
        self.connected_at_ns = connected_at_ns;
        &mut self.origin
    }

    /// The interface that the application has bound the socket to, where the socket is bound to `current`: to `lo` we bind it
    /// ourselves, for the connect that this is still the record of.
    #[inline(always)]
    pub const fn asked_interface(&self, current: u32) -> u32 {
        if current == LOOPBACK_IFINDEX && self.route.bound_ifindex != 0 {
            self.route.bound_ifindex
        } else {
            current
        }
    }

    /// Who asked.
    pub const fn origin(&self) -> &Origin {
        &self.origin
    }

    /// For what, and where it was sent.
    #[inline(always)]
    pub const fn route(&self) -> &Route {
        &self.route
    }

    /// When, in nanoseconds since boot.
    pub const fn connected_at_ns(&self) -> u64 {
        self.connected_at_ns
    }
}
