//! Takes the record of an accepted connection from the kernel, once, and sweeps what nobody accepted.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aya::maps::{HashMap, MapData, MapError};
use proxy_ebpf::endpoint::Endpoint;
use proxy_ebpf::handover::HandoverKey;
use proxy_ebpf::interception::Interception;
use proxy_ebpf::origin::Origin;
use proxy_ebpf::unix::UnixInterception;
use tracing::{debug, warn};

use super::clock::boot_time_ns;
use super::doors::{Accepted, Ends};
use super::intake::Intake;
use super::unix::UnixRecords;
use crate::stream::Stream;

/// How old an entry may get: far longer than a SYN waits in an accept queue that is served ([`Intake`] knows when it was not),
/// far shorter than it takes to fill the table with connects that died on the way.
pub const MAX_ENTRY_AGE: Duration = Duration::from_secs(120);
const SWEEP_EVERY: Duration = Duration::from_secs(30);

/// Why an accepted connection has no record.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The kernel has no entry: the connection did not come through the connect hooks.
    #[error(
        "no original destination is known for this connection: it was made to pgusher's own listener"
    )]
    Unknown,
    /// Another connect of the same unix socket has put its record in the place of this connection's.
    #[error(
        "who made this connection is not known: another process called connect() on its socket at the same time"
    )]
    Another,
    /// The client reset it before it was accepted.
    #[error("the connection was reset before it was accepted")]
    Reset,
    /// The table could not be read.
    #[error("the hand-over table cannot be read: {0}")]
    Table(MapError),
}

impl Accepted {
    /// Checks that the connection is up, in one direction at least; the kernel names no peer of one that was reset.
    fn check_is_up(&self) -> Result<(), HandoverError> {
        match &self.stream {
            Stream::Tcp(stream) if stream.peer_addr().is_err() => Err(HandoverError::Reset),
            _ => Ok(()),
        }
    }
}

/// The hand-over table of redirected connects between their SYN and our accept.
pub struct Handover {
    /// Locked for two system calls at a time.
    entries: Mutex<HashMap<MapData, HandoverKey, Interception>>,
    unix: UnixRecords,
}

/// The record of an accepted connection.
#[derive(Clone, Copy, Debug)]
pub enum Taken {
    /// Of one over TCP.
    Tcp(Interception),
    /// Of one to a unix socket.
    Unix(UnixInterception),
}

impl Taken {
    /// Who asked.
    pub fn origin(&self) -> &Origin {
        match self {
            Self::Tcp(interception) => interception.origin(),
            Self::Unix(interception) => interception.origin(),
        }
    }
}

impl Handover {
    pub(super) fn new(
        entries: HashMap<MapData, HandoverKey, Interception>,
        unix: UnixRecords,
    ) -> Self {
        Self {
            entries: Mutex::new(entries),
            unix,
        }
    }

    /// Takes an accepted connection's record; a second take finds nothing.
    ///
    /// A connection that was reset while it waited to be accepted is still accepted, with what its client had sent. Its
    /// client's port may be another connection's by then, and the record under this key that one's: so it gets none.
    /// As long as a connection is up nobody else has its addresses.
    ///
    /// # Errors
    /// [`HandoverError`]; there is no default destination.
    pub fn take(&self, accepted: &Accepted) -> Result<Taken, HandoverError> {
        let Ends::Tcp { client, listener } = accepted.ends else {
            return self.unix.take(&accepted.stream).map(Taken::Unix);
        };
        // Before, so that the other connection finds its record; and after, because a reset may come in between.
        accepted.check_is_up()?;
        let taken = self.remove(&HandoverKey::new(
            accepted.namespace.cookie(),
            Endpoint::from(client),
            Endpoint::from(listener),
        ));
        accepted.check_is_up()?;
        taken.map(Taken::Tcp)
    }

    fn remove(&self, key: &HandoverKey) -> Result<Interception, HandoverError> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let interception = entries.get(key, 0).map_err(|error| match error {
            MapError::KeyNotFound => HandoverError::Unknown,
            error => HandoverError::Table(error),
        })?;
        entries.remove(key).map_err(HandoverError::Table)?;
        Ok(interception)
    }

    /// Removes entries that were older than [`MAX_ENTRY_AGE`] then; returns how many.
    fn sweep(&self, then_ns: u64) -> usize {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let is_old = |interception: &Interception| {
            let age = then_ns.saturating_sub(interception.connected_at_ns());
            u128::from(age) > MAX_ENTRY_AGE.as_nanos()
        };
        let old: Vec<HandoverKey> = entries
            .iter()
            .filter_map(Result::ok)
            .filter(|(_, interception)| is_old(interception))
            .map(|(key, _)| key)
            .collect();
        old.iter().filter(|key| entries.remove(key).is_ok()).count()
    }
}

/// Sweeps the table for as long as the task lives.
pub async fn sweep_forever(handover: Arc<Handover>, intake: Arc<Intake>) {
    let mut last = boot_time_ns();
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        let now = boot_time_ns();
        if u128::from(now.saturating_sub(last)) > (2 * SWEEP_EVERY).as_nanos() {
            // The process was stopped, or the host: nobody was accepted either.
            intake.paused(last, now);
        }
        last = now;
        match handover.sweep(intake.settled_at(now)) {
            0 => debug!("hand-over table swept, nothing was left behind"),
            swept => warn!(
                swept,
                "redirected connects were never accepted; their entries were removed"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::namespace::Namespace;
    use super::*;
    use crate::socket::socket_pair;

    #[tokio::test]
    async fn a_connection_is_up_until_it_is_reset() {
        let (client, stream) = socket_pair().await;
        let accepted = Accepted {
            ends: Ends::Tcp {
                client: client.local_addr().unwrap(),
                listener: client.peer_addr().unwrap(),
            },
            namespace: Arc::new(Namespace::own(Vec::new()).unwrap()),
            stream: stream.into(),
        };
        assert!(accepted.check_is_up().is_ok());
        let client = client.into_std().unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(accepted.check_is_up().is_ok());
        socket2::SockRef::from(&client)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(client);
        assert!(matches!(accepted.check_is_up(), Err(HandoverError::Reset)));
    }
}
