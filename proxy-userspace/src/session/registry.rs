//! Who is there: the limit on concurrent sessions, and their counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::wire::opening::Opening;

/// Connections allowed beyond the limit on sessions: enough for cancel requests, refusals in progress and clients
/// that have not sent their startup packet yet.
const EXTRA_CONNECTIONS: usize = 256;

/// A session's place under the limit, given back when dropped.
pub type Slot = OwnedSemaphorePermit;

/// A connection being served; it counts as active, and takes up its room, until dropped.
#[derive(Debug)]
pub struct Connection {
    active: Arc<AtomicUsize>,
    _room: Slot,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// No place is left.
#[derive(Debug)]
pub struct LimitReached;

/// The live connections.
#[derive(Debug)]
pub struct Sessions {
    slots: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    active: Arc<AtomicUsize>,
    total: AtomicU64,
    refused: AtomicU64,
}

/// A reading of the counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionCounts {
    /// Connections being served now, whatever their stage.
    pub active: usize,
    /// Connections accepted since the start.
    pub total: u64,
    /// Connections that got no session.
    pub refused: u64,
}

impl Sessions {
    /// Allows `limit` sessions at one time.
    pub fn new(limit: usize) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(limit)),
            connections: Arc::new(Semaphore::new(Self::max_connections(limit))),
            active: Arc::new(AtomicUsize::new(0)),
            total: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// The most connections served at one time under a limit of so many sessions.
    pub const fn max_connections(limit: usize) -> usize {
        limit.saturating_add(EXTRA_CONNECTIONS)
    }

    /// Waits for room for one more connection; until then it stays in the accept queue.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn room(&self) -> Slot {
        match Arc::clone(&self.connections).acquire_owned().await {
            Ok(permit) => permit,
            // Nobody closes the semaphore.
            Err(_) => std::future::pending().await,
        }
    }

    /// Counts a connection that was accepted into the room made for it.
    pub fn accepted(&self, room: Slot) -> Connection {
        self.total.fetch_add(1, Ordering::Relaxed);
        self.active.fetch_add(1, Ordering::Relaxed);
        Connection {
            active: Arc::clone(&self.active),
            _room: room,
        }
    }

    /// Counts a connection that got no session.
    pub fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes a place for what the client wants. A cancel request is no session and needs none: it must work when
    /// everything is full.
    ///
    /// # Errors
    /// [`LimitReached`]
    pub fn admit(&self, opening: &Opening) -> Result<Option<Slot>, LimitReached> {
        if matches!(opening, Opening::Cancel { .. }) {
            return Ok(None);
        }
        Arc::clone(&self.slots)
            .try_acquire_owned()
            .map(Some)
            .map_err(|_| LimitReached)
    }

    /// The counts as they stand.
    pub fn counts(&self) -> SessionCounts {
        SessionCounts {
            active: self.active.load(Ordering::Relaxed),
            total: self.total.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_holds_on_both_sides_and_spares_cancel_requests() {
        let sessions = Sessions::new(1);
        let first = sessions.admit(&Opening::SslRequest).unwrap();
        assert!(first.is_some());
        assert!(sessions.admit(&Opening::SslRequest).is_err());
        assert!(
            sessions
                .admit(&Opening::Cancel { backend_pid: 1 })
                .unwrap()
                .is_none()
        );
        drop(first);
        assert!(sessions.admit(&Opening::SslRequest).is_ok());
    }

    #[tokio::test]
    async fn active_counts_connections_from_accept_to_end() {
        let sessions = Sessions::new(1);
        let room = sessions.room().await;
        assert_eq!(sessions.counts().active, 0);
        let connection = sessions.accepted(room);
        assert_eq!(sessions.counts().active, 1);
        drop(connection);
        assert_eq!(sessions.counts().active, 0);
    }
}
