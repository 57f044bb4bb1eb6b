//! The prepared statements and portals the server has, as its answers confirmed them, in the order of its answers.
//!
//! Whoever is not sure says so: a statement or portal that may have been replaced behind our back (by SQL's own
//! PREPARE, DEALLOCATE, DECLARE, CLOSE) is forgotten rather than named for what it may not be.

mod portals;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::event::Prepared;
use super::request::kept_in;
use crate::wire::collect::forget;

pub(super) use portals::{Portal, Portals};

/// Named statements remembered of a session.
pub(in crate::wire) const MAX_STATEMENTS: usize = 4096;
/// Bytes of their texts and types remembered; beyond that, statements keep length and hash of their text alone.
pub(in crate::wire) const MAX_STATEMENT_BYTES: usize = 4 * 1024 * 1024;

/// What a name stands for.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) prepared: Option<Arc<Prepared>>,
    /// It may have stood for something that is no longer remembered.
    pub(super) forgotten: bool,
}

#[derive(Clone, Debug)]
struct Named {
    prepared: Arc<Prepared>,
    /// SQL's DEALLOCATE may have dropped it: the command tag does not say which.
    doubtful: bool,
}

/// The server's prepared statements.
#[derive(Clone, Debug, Default)]
pub(super) struct Statements {
    unnamed: Option<Arc<Prepared>>,
    named: HashMap<Bytes, Named>,
    kept_bytes: usize,
    forgot: bool,
}

impl Statements {
    /// What a name stands for.
    pub(super) fn find(&self, name: &[u8]) -> Known {
        let prepared = if name.is_empty() {
            self.unnamed.as_ref()
        } else {
            self.named.get(name).map(|named| &named.prepared)
        };
        Known {
            prepared: prepared.map(Arc::clone),
            forgotten: prepared.is_none() && self.forgot && !name.is_empty(),
        }
    }

    /// ParseComplete: the name stands for this from now on.
    pub(super) fn insert(&mut self, prepared: &Arc<Prepared>) {
        if prepared.name.is_empty() {
            self.unnamed = Some(Arc::clone(prepared));
            return;
        }
        self.remove(&prepared.name);
        if self.named.len() >= MAX_STATEMENTS {
            self.forgot = true;
            return;
        }
        let has_room = self.kept_bytes + kept_in(prepared) <= MAX_STATEMENT_BYTES;
        let prepared = if has_room {
            Arc::clone(prepared)
        } else {
            Arc::new(Prepared {
                number: prepared.number,
                name: prepared.name.clone(),
                text: forget(&prepared.text),
                parameter_types: Vec::new(),
            })
        };
        self.kept_bytes += kept_in(&prepared);
        let named = Named {
            doubtful: false,
            prepared,
        };
        self.named.insert(named.prepared.name.clone(), named);
    }

    /// The name stands for nothing any more.
    pub(super) fn remove(&mut self, name: &[u8]) {
        if name.is_empty() {
            self.unnamed = None;
        } else if let Some(named) = self.named.remove(name) {
            self.kept_bytes -= kept_in(&named.prepared);
        }
    }

    /// `DEALLOCATE ALL`, `DISCARD ALL`: the unnamed statement is not in the server's table and stays
    /// (DropAllPreparedStatements).
    pub(super) fn clear_named(&mut self) {
        self.named.clear();
        self.kept_bytes = 0;
        self.forgot = false;
    }

    /// `DEALLOCATE name`: one of them is gone.
    pub(super) fn one_was_deallocated(&mut self) {
        self.named
            .values_mut()
            .for_each(|named| named.doubtful = true);
    }

    /// `PREPARE name`: a name that was free stands for a text that is not known.
    pub(super) fn one_was_prepared_by_sql(&mut self) {
        let kept_bytes = &mut self.kept_bytes;
        self.named.retain(|_, named| {
            if named.doubtful {
                *kept_bytes -= kept_in(&named.prepared);
            }
            !named.doubtful
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::session::event::Text;

    fn prepared(name: &str, text: &str) -> Arc<Prepared> {
        Arc::new(Prepared {
            number: 1,
            name: Bytes::copy_from_slice(name.as_bytes()),
            text: Text {
                kept: Bytes::copy_from_slice(text.as_bytes()),
                length: text.len() as u64,
                sha256: None,
            },
            parameter_types: Vec::new(),
        })
    }

    #[test]
    fn beyond_the_most_statements_a_name_is_said_to_be_forgotten() {
        let mut statements = Statements::default();
        for number in 0..MAX_STATEMENTS {
            statements.insert(&prepared(&format!("s{number}"), "select"));
        }
        assert!(!statements.find(b"unseen").forgotten);
        statements.insert(&prepared("one more", "select"));
        let known = statements.find(b"one more");
        assert!(known.prepared.is_none() && known.forgotten);
        assert!(statements.find(b"s0").prepared.is_some());
        statements.insert(&prepared("s0", "replaced"));
        assert_eq!(
            statements.find(b"s0").prepared.unwrap().text.kept,
            "replaced"
        );
    }

    #[test]
    fn beyond_the_most_bytes_a_text_leaves_its_length_and_hash() {
        let mut statements = Statements::default();
        let half = "x".repeat(MAX_STATEMENT_BYTES / 2);
        statements.insert(&prepared("a", &half));
        statements.insert(&prepared("b", &half));
        statements.insert(&prepared("c", "y"));
        assert!(statements.find(b"b").prepared.unwrap().text.is_whole());
        let text = statements.find(b"c").prepared.unwrap().text.clone();
        assert_eq!((text.kept.len(), text.length), (0, 1));
        assert!(text.sha256.is_some());
        statements.remove(b"a");
        statements.insert(&prepared("c", "y"));
        assert!(statements.find(b"c").prepared.unwrap().text.is_whole());
        statements.clear_named();
        assert_eq!(statements.kept_bytes, 0);
    }

    #[test]
    fn a_name_that_sql_may_have_taken_over_is_not_named_for_the_old_text() {
        let mut statements = Statements::default();
        statements.insert(&prepared("old", "select 1"));
        statements.one_was_prepared_by_sql();
        assert!(statements.find(b"old").prepared.is_some());
        statements.one_was_deallocated();
        assert!(statements.find(b"old").prepared.is_some());
        statements.insert(&prepared("new", "select 2"));
        statements.one_was_prepared_by_sql();
        assert!(statements.find(b"old").prepared.is_none());
        assert!(statements.find(b"new").prepared.is_some());
    }
}
