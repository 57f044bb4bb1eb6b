//! Puts a session on the fast path.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::intercept::{Connections, FastPath, Namespace};
use crate::leg::Port;
use crate::stream::Stream;

/// How often the client must have been read: one that connects, asks once and leaves is not worth the trouble.
const READS: u64 = 8;

/// The way onto the fast path.
pub struct Shortcut {
    fast_path: Arc<FastPath>,
    /// Where the session's sockets are.
    namespace: Arc<Namespace>,
    was_taken: bool,
    /// The session's number, if client and server were joined with each other.
    direct: Option<u64>,
}

impl Shortcut {
    /// For a session whose sockets are in this namespace.
    pub fn new(fast_path: Arc<FastPath>, namespace: Arc<Namespace>) -> Self {
        Self {
            fast_path,
            namespace,
            was_taken: false,
            direct: None,
        }
    }

    /// Whether it is to be taken now that the client was read so often.
    pub(super) fn is_due(&self, reads: u64) -> bool {
        !self.was_taken && reads >= READS
    }

    /// Takes it; the client with the server directly if nobody needs to see what they say. Tried once.
    pub(super) fn take(
        &mut self,
        client: &mut Port<'_>,
        upstream: &mut Port<'_>,
        is_direct_wished: bool,
    ) {
        let connections = || {
            let client = addresses(client)?;
            let server = addresses(upstream)?;
            Some(Connections { client, server })
        };
        let joined = connections().map(|connections| {
            self.fast_path
                .join(&self.namespace, connections, is_direct_wished)
        });
        let joined = joined.unwrap_or_default();
        client.set_joined(joined.client);
        upstream.set_joined(joined.server);
        self.direct = joined.direct;
        self.was_taken = true;
    }

    /// Bytes that have passed us by up to now.
    pub(super) fn passed_by_so_far(&self) -> u64 {
        self.direct
            .map_or(0, |session| self.fast_path.passed_by_so_far(session))
    }

    /// Bytes that passed us by, to the server and to the client. Asked once, at the end.
    pub(super) fn passed_by(&self) -> (u64, u64) {
        self.direct
            .map_or((0, 0), |session| self.fast_path.passed_by(session))
    }
}

/// Our address and the peer's, where plain bytes are on a TCP socket.
fn addresses(port: &Port<'_>) -> Option<(SocketAddr, SocketAddr)> {
    match port.stream() {
        Stream::Tcp(stream) if port.is_plain() => {
            Some((stream.local_addr().ok()?, stream.peer_addr().ok()?))
        }
        Stream::Tcp(_) | Stream::Unix(_) => None,
    }
}
