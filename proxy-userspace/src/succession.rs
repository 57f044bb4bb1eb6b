//! One instance takes over from another: the new one serves what comes, the old one what it has begun.
//!
//! Design: docs/decisions/0041-crash-and-upgrade.md. In the order of events: the [`Predecessor`] is found at the admin
//! socket and offers itself; its [`Successor`] attaches its own hooks and says so; the predecessor hands over the claim to
//! the cgroup; the successor says that it serves, and only then does the predecessor let go. Whichever of the two ends
//! or fails before that, the other goes on. Until the predecessor ends, each tells the other what it has to know.

mod candidates;
mod channel;
mod draining;
mod predecessor;
mod predecessors;
mod successor;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use candidates::{Candidate, Candidates, NoPlace, candidates};
pub use channel::{Channel, ChannelError};
pub use draining::{Note, noted};
pub use predecessor::{Predecessor, Search, TakeoverError, forget_when_ended};
pub use predecessors::Predecessors;
pub use successor::{Incumbent, Successor, await_successor};

use crate::identify::ProcessId;
use crate::session::CancelChange;

/// The version of what is said here; it changes with the meaning or the form of a message.
const PROTOCOL: u32 = 1;
/// How long each waits for the other's next word while the takeover is under way: long enough for a busy host.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// What the running instance says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Offer {
    /// The version of what will be said.
    protocol: u32,
    /// Its version.
    pub version: String,
    /// The number of the cgroup that its hooks are attached to.
    pub cgroup: u64,
    /// Itself.
    pub process: ProcessId,
    /// Its own predecessors that still serve.
    pub predecessors: Vec<ProcessId>,
    /// Those of them that nobody hears from.
    #[serde(default)]
    pub silent: Vec<ProcessId>,
}

impl Offer {
    /// Every process that has sessions to finish.
    fn processes(&self) -> impl Iterator<Item = ProcessId> {
        std::iter::once(self.process).chain(self.predecessors.iter().copied())
    }
}

/// What the successor says when its hooks are attached.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Attached {
    version: String,
    process: ProcessId,
}

/// What the successor says when it serves: the predecessor may let go.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Serving {}

/// What the predecessor says when it has let go.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Retired {}

/// What the predecessor tells from then on.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum News {
    /// A session of its can be cancelled, or not any more.
    Cancel(CancelChange),
    /// How many it serves, those of its own predecessors included.
    Sessions(u64),
}

/// What the successor asks from then on.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Order {
    /// Policies and certificates are to be read again.
    Reload,
}
