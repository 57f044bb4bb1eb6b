//! What Bind makes, and how much of it is remembered.

use std::sync::Arc;

use bytes::Bytes;

use super::Nameable;
use crate::wire::session::event::{Parameters, Prepared};

/// What Bind made.
#[derive(Clone, Debug)]
pub(in crate::wire::session) struct Portal {
    pub(in crate::wire::session) statement: Bytes,
    pub(in crate::wire::session) prepared: Option<Arc<Prepared>>,
    pub(in crate::wire::session) forgotten: bool,
    pub(in crate::wire::session) parameters: Parameters,
}

/// One that a failed or skipped Bind would have made: nothing else may keep its statement.
#[derive(Clone, Debug)]
pub(in crate::wire::session) struct Unmade(pub(in crate::wire::session) Portal);

impl Nameable for Unmade {
    const MOST: usize = Portal::MOST;
    const MOST_BYTES: usize = Portal::MOST_BYTES;

    fn kept_bytes(&self) -> usize {
        let statement = self.0.prepared.as_ref();
        self.0.kept_bytes() + statement.map_or(0, Nameable::kept_bytes)
    }

    fn without_bytes(self) -> Self {
        let mut portal = self.0.without_bytes();
        portal.prepared = portal.prepared.map(Nameable::without_bytes);
        Self(portal)
    }
}

impl Nameable for Portal {
    const MOST: usize = 1024;
    /// Of values.
    const MOST_BYTES: usize = 1024 * 1024;

    fn kept_bytes(&self) -> usize {
        self.parameters.kept_bytes()
    }

    fn without_bytes(mut self) -> Self {
        self.parameters = self.parameters.without_values();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::session::event::Text;

    #[test]
    fn one_that_was_not_made_counts_its_statement_too() {
        let text = Text {
            kept: Bytes::from_static(b"select 1"),
            length: 8,
            sha256: None,
        };
        let prepared = Prepared {
            number: 1,
            name: Bytes::new(),
            text,
            parameter_types: vec![23],
        };
        let unmade = Unmade(Portal {
            statement: Bytes::new(),
            prepared: Some(Arc::new(prepared)),
            forgotten: false,
            parameters: Parameters::default(),
        });
        assert_eq!(unmade.kept_bytes(), 8 + 4);
        assert_eq!(unmade.without_bytes().kept_bytes(), 0);
    }
}
