//! What names stand for in a session: the prepared statements and portals the server has, as its answers confirmed
//! them, in the order of its answers.
//!
//! Whoever is not sure says so: what may have been replaced behind our back (by SQL's own PREPARE, DEALLOCATE, DECLARE,
//! CLOSE) is forgotten rather than named for what it may not be.

mod portal;
mod skipped;
mod statement;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::event::Prepared;

pub(super) use portal::{Portal, Unmade};
pub(super) use skipped::Skipped;

/// The server's prepared statements.
pub(super) type Statements = Named<Arc<Prepared>>;
/// The server's portals made by Bind.
pub(super) type Portals = Named<Portal>;

/// Something that can have a name, and how much of its kind is remembered.
pub(super) trait Nameable {
    /// Named ones of a session.
    const MOST: usize;
    /// Bytes of the client's in all of them; beyond that, they are remembered without.
    const MOST_BYTES: usize;

    /// Bytes of the client's that are kept in it.
    fn kept_bytes(&self) -> usize;

    /// The same without them.
    fn without_bytes(self) -> Self;

    /// The same if there is room for its bytes; without them otherwise.
    fn within(self, room: usize) -> Self
    where
        Self: Sized,
    {
        if self.kept_bytes() <= room {
            self
        } else {
            self.without_bytes()
        }
    }
}

#[derive(Clone, Debug)]
struct Entry<T> {
    thing: T,
    /// SQL may have dropped it, or its transaction have ended: the command tag does not say which.
    doubtful: bool,
}

/// Names and what they stand for; the empty name is a place of its own.
#[derive(Clone, Debug)]
pub(super) struct Named<T> {
    unnamed: Option<T>,
    named: HashMap<Bytes, Entry<T>>,
    kept_bytes: usize,
    /// A name was too many to be remembered.
    forgot: bool,
}

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self {
            unnamed: None,
            named: HashMap::new(),
            kept_bytes: 0,
            forgot: false,
        }
    }
}

impl<T: Nameable> Named<T> {
    /// What a name stands for.
    pub(super) fn find(&self, name: &[u8]) -> Option<&T> {
        if name.is_empty() {
            self.unnamed.as_ref()
        } else {
            self.named.get(name).map(|entry| &entry.thing)
        }
    }

    /// Whether a name that stands for nothing may be one of those that are not remembered.
    pub(super) fn may_have_forgotten(&self, name: &[u8]) -> bool {
        self.forgot && !name.is_empty()
    }

    /// The server has confirmed that the name stands for this from now on.
    pub(super) fn insert(&mut self, name: &Bytes, thing: T) {
        if name.is_empty() {
            self.unnamed = Some(thing);
            return;
        }
        self.remove(name);
        if self.named.len() >= T::MOST {
            self.forgot = true;
            return;
        }
        let thing = thing.within(T::MOST_BYTES - self.kept_bytes);
        self.kept_bytes += thing.kept_bytes();
        let entry = Entry {
            thing,
            doubtful: false,
        };
        self.named.insert(name.clone(), entry);
    }

    /// The name stands for nothing any more.
    pub(super) fn remove(&mut self, name: &[u8]) {
        if name.is_empty() {
            self.unnamed = None;
        } else if let Some(entry) = self.named.remove(name) {
            self.kept_bytes -= entry.thing.kept_bytes();
        }
    }

    /// No name stands for anything any more.
    #[inline]
    pub(super) fn clear(&mut self) {
        self.unnamed = None;
        self.clear_named();
    }

    /// The same, but for the unnamed one.
    #[inline]
    pub(super) fn clear_named(&mut self) {
        if !self.named.is_empty() {
            self.named.clear();
            self.kept_bytes = 0;
        }
        self.forgot = false;
    }

    /// Some of them may be gone, and nobody knows which.
    pub(super) fn some_may_be_gone(&mut self) {
        let entries = self.named.values_mut();
        entries.for_each(|entry| entry.doubtful = true);
    }

    /// SQL gave something unknown a name that was free: it may be that of one that is gone.
    pub(super) fn one_was_made_by_sql(&mut self) {
        let kept_bytes = &mut self.kept_bytes;
        self.named.retain(|_, entry| {
            if entry.doubtful {
                *kept_bytes -= entry.thing.kept_bytes();
            }
            !entry.doubtful
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many bytes.
    #[derive(Debug, PartialEq)]
    struct Bag(usize);

    impl Nameable for Bag {
        const MOST: usize = 3;
        const MOST_BYTES: usize = 10;

        fn kept_bytes(&self) -> usize {
            self.0
        }

        fn without_bytes(self) -> Self {
            Self(0)
        }
    }

    fn named(names: &[(&'static str, usize)]) -> Named<Bag> {
        let mut named = Named::default();
        for (name, bytes) in names {
            named.insert(&Bytes::from_static(name.as_bytes()), Bag(*bytes));
        }
        named
    }

    #[test]
    fn beyond_the_most_names_one_is_said_to_be_forgotten() {
        let mut bags = named(&[("a", 1), ("b", 1), ("c", 1)]);
        assert!(!bags.may_have_forgotten(b"unseen"));
        bags.insert(&Bytes::from_static(b"d"), Bag(1));
        assert!(bags.find(b"d").is_none() && bags.may_have_forgotten(b"d"));
        assert!(!bags.may_have_forgotten(b""));
        bags.insert(&Bytes::from_static(b"a"), Bag(2));
        assert_eq!(bags.find(b"a"), Some(&Bag(2)));
        bags.clear_named();
        assert!(!bags.may_have_forgotten(b"d"));
        assert_eq!(bags.kept_bytes, 0);
    }

    #[test]
    fn beyond_the_most_bytes_one_is_remembered_without() {
        let mut bags = named(&[("a", 5), ("b", 5), ("c", 1)]);
        assert_eq!(bags.find(b"b"), Some(&Bag(5)));
        assert_eq!(bags.find(b"c"), Some(&Bag(0)));
        bags.remove(b"a");
        bags.insert(&Bytes::from_static(b"c"), Bag(1));
        assert_eq!(bags.find(b"c"), Some(&Bag(1)));
        assert_eq!(bags.kept_bytes, 6);
    }

    #[test]
    fn a_name_that_sql_may_have_taken_over_is_not_named_for_the_old() {
        let mut bags = named(&[("old", 1)]);
        bags.one_was_made_by_sql();
        assert!(bags.find(b"old").is_some());
        bags.some_may_be_gone();
        assert!(bags.find(b"old").is_some());
        bags.insert(&Bytes::from_static(b"new"), Bag(2));
        bags.one_was_made_by_sql();
        assert!(bags.find(b"old").is_none() && bags.find(b"new").is_some());
        assert_eq!(bags.kept_bytes, 2);
    }

    #[test]
    fn the_unnamed_one_is_replaced_and_goes_only_where_all_do() {
        let mut bags = named(&[("", 1), ("", 20)]);
        assert_eq!(bags.find(b""), Some(&Bag(20)));
        bags.clear_named();
        assert!(bags.find(b"").is_some());
        bags.clear();
        assert!(bags.find(b"").is_none());
    }
}
