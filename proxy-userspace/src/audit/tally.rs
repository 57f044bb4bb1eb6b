//! How the recording of one session's statements went, for its closing record.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};

/// What was recorded of a session's statements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Coverage {
    /// None: nobody asked for it, or there was no session.
    #[default]
    None,
    /// All.
    Statements,
    /// None: encryption that ends at the server hides them.
    HiddenByEncryption,
    /// None: the client spoke a protocol that is not known.
    UnknownProtocol,
}

/// Counts of one session's records, shared by all who can add or lose one.
#[derive(Debug, Default)]
pub(super) struct Counts {
    made: AtomicU64,
    lost: AtomicU64,
    violated: AtomicBool,
}

impl Counts {
    /// Counts a record as made and returns its number, from 1.
    pub(super) fn make(&self) -> u64 {
        self.made.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Counts a record as lost.
    pub(super) fn lose(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that the session stopped being understood.
    pub(super) fn violate(&self) {
        self.violated.store(true, Ordering::Relaxed);
    }
}

/// What a closing record says about statements. It reads the counts when it is written: by then every record of the
/// session that comes before it is in the sink or lost.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    coverage: Coverage,
    counts: Arc<Counts>,
}

impl Tally {
    /// The tally of a session of which so much is recorded.
    pub(super) fn of(coverage: Coverage) -> Self {
        Self {
            coverage,
            counts: Arc::default(),
        }
    }

    pub(super) fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }
}

impl Serialize for Tally {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let made = self.counts.made.load(Ordering::Relaxed);
        let lost = self.counts.lost.load(Ordering::Relaxed);
        let mut tally = serializer.serialize_struct("Tally", 3)?;
        if self.counts.violated.load(Ordering::Relaxed) {
            tally.serialize_field("level", "stopped_at_violation")?;
        } else {
            tally.serialize_field("level", &self.coverage)?;
        }
        tally.serialize_field("recorded", &made.saturating_sub(lost))?;
        tally.serialize_field("lost", &lost)?;
        tally.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_tally_is_read_when_it_is_written() {
        let tally = Tally::of(Coverage::Statements);
        let copy = tally.clone();
        assert_eq!(tally.counts().make(), 1);
        assert_eq!(tally.counts().make(), 2);
        tally.counts().lose();
        let expected = json!({"level": "statements", "recorded": 1, "lost": 1});
        assert_eq!(serde_json::to_value(&copy).unwrap(), expected);
        tally.counts().violate();
        let expected = json!({"level": "stopped_at_violation", "recorded": 1, "lost": 1});
        assert_eq!(serde_json::to_value(&copy).unwrap(), expected);
    }
}
