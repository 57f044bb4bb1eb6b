//! What joining means for a session's relay.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use proxy_ebpf::fast_path::MESSAGE_BYTES;

use super::FastPath;

/// What was joined of a session.
#[derive(Debug, Default)]
pub struct Joined {
    /// Our socket with the client.
    pub client: JoinedSocket,
    /// Our socket with the server.
    pub server: JoinedSocket,
    /// The session's number, if client and server were joined with each other: bytes between them pass us by.
    pub direct: Option<u64>,
}

/// What joining means for a socket of ours; nothing, by default.
#[derive(Debug, Default)]
pub struct JoinedSocket {
    /// Whether bytes reach it both ways.
    pub has_two_queues: bool,
    /// What stands before writing to it.
    pub gate: Option<Gate>,
}

/// Stands before what we write to an application that receives redirected bytes: it keeps them from becoming too many,
/// and from mixing with what goes through the stack.
#[derive(Debug)]
pub struct Gate {
    fast_path: Arc<FastPath>,
    /// The application's socket.
    key: u64,
    /// The most that may have been written since its queue was known to be read.
    limit: usize,
    written: usize,
}

impl Gate {
    /// Before the application's socket with this key, for so much at a time.
    pub(super) fn new(fast_path: Arc<FastPath>, key: u64, limit: usize) -> Self {
        Self {
            fast_path,
            key,
            limit,
            written: 0,
        }
    }

    /// Whether so many bytes may be written now. If not, there is no event for when they may.
    pub fn admits(&mut self, bytes: usize) -> bool {
        if self.written.saturating_add(Self::taken(bytes)) > self.limit {
            if !self.fast_path.is_queue_read(self.key) {
                self.fast_path.delayed.fetch_add(1, Ordering::Relaxed);
                return false;
            }
            self.written = 0;
        }
        true
    }

    /// So many were written.
    pub fn wrote(&mut self, bytes: usize) {
        self.written = self.written.saturating_add(Self::taken(bytes));
    }

    /// What a message of so many bytes takes.
    fn taken(bytes: usize) -> usize {
        bytes.saturating_add(MESSAGE_BYTES as usize)
    }
}
