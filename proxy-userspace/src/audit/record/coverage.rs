//! What interception does not reach, as it is recorded once, at start-up.

use serde::Serialize;

use super::Address;
use crate::config::Adopt;
use crate::intercept::{Coverage, Existing, Holder, Outcome};

/// The numbers, and the connections themselves.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CoverageReport {
    adopt: Adopt,
    #[serde(flatten)]
    counts: Coverage,
    connections: Vec<Connection>,
    /// How many more there are than are listed.
    unlisted: usize,
}

/// A connection that is older than the hooks.
#[derive(Clone, Debug, Serialize)]
struct Connection {
    client: Address,
    destination: Address,
    netns: u64,
    processes: Vec<Holder>,
    #[serde(skip_serializing_if = "is_zero")]
    more_processes: usize,
    outcome: Outcome,
}

impl CoverageReport {
    /// Reports these counts with the connections that are to be listed.
    pub fn new(adopt: Adopt, counts: Coverage, listed: Vec<Existing>) -> Self {
        let found = counts.established.unwrap_or_default();
        Self {
            adopt,
            counts,
            unlisted: found.saturating_sub(listed.len()),
            connections: listed.into_iter().map(Connection::from).collect(),
        }
    }
}

impl From<Existing> for Connection {
    fn from(existing: Existing) -> Self {
        Self {
            client: existing.local.into(),
            destination: existing.remote.into(),
            netns: existing.netns,
            more_processes: existing.holders.saturating_sub(existing.processes.len()),
            processes: existing.processes,
            outcome: existing.outcome,
        }
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands out a reference"
)]
fn is_zero(count: &usize) -> bool {
    *count == 0
}
