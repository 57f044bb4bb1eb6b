//! What a batch's failed and skipped messages would have made.

use std::collections::HashMap;

use bytes::Bytes;

use super::Nameable;

/// Names that are remembered.
pub(in crate::wire) const MAX_SKIPPED: usize = 256;
/// Bytes of the client's in all of them; beyond that, they are remembered without.
pub(in crate::wire) const MAX_SKIPPED_BYTES: usize = 256 * 1024;

/// Names and what they would stand for.
#[derive(Clone, Debug)]
pub(in crate::wire::session) struct Skipped<T> {
    things: HashMap<Bytes, T>,
    kept_bytes: usize,
}

impl<T> Default for Skipped<T> {
    fn default() -> Self {
        Self {
            things: HashMap::new(),
            kept_bytes: 0,
        }
    }
}

impl<T: Nameable> Skipped<T> {
    /// What a name would stand for.
    pub(in crate::wire::session) fn find(&self, name: &[u8]) -> Option<&T> {
        self.things.get(name)
    }

    /// The name would stand for this from now on.
    pub(in crate::wire::session) fn insert(&mut self, name: &Bytes, thing: T) {
        if let Some(before) = self.things.remove(name) {
            self.kept_bytes -= before.kept_bytes();
        }
        if self.things.len() >= MAX_SKIPPED {
            return;
        }
        let thing = thing.within(MAX_SKIPPED_BYTES - self.kept_bytes);
        self.kept_bytes += thing.kept_bytes();
        self.things.insert(name.clone(), thing);
    }

    /// The batch is over: nothing refers to it any more.
    #[inline]
    pub(in crate::wire::session) fn clear(&mut self) {
        if !self.things.is_empty() {
            self.things.clear();
            self.kept_bytes = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many bytes.
    struct Bag(usize);

    impl Nameable for Bag {
        const MOST: usize = 0;
        const MOST_BYTES: usize = 0;

        fn kept_bytes(&self) -> usize {
            self.0
        }

        fn without_bytes(self) -> Self {
            Self(0)
        }
    }

    fn found(skipped: &Skipped<Bag>, name: &str) -> Option<usize> {
        skipped.find(name.as_bytes()).map(|bag| bag.0)
    }

    #[test]
    fn what_is_too_much_is_remembered_without_its_bytes() {
        let mut skipped = Skipped::default();
        let [a, b] = ["a", "b"].map(Bytes::from);
        skipped.insert(&a, Bag(MAX_SKIPPED_BYTES));
        skipped.insert(&b, Bag(1));
        assert_eq!(found(&skipped, "a"), Some(MAX_SKIPPED_BYTES));
        assert_eq!(found(&skipped, "b"), Some(0));
        skipped.insert(&a, Bag(2));
        skipped.insert(&b, Bag(1));
        assert_eq!(
            (found(&skipped, "a"), found(&skipped, "b")),
            (Some(2), Some(1))
        );
        skipped.clear();
        skipped.insert(&b, Bag(MAX_SKIPPED_BYTES));
        assert_eq!(found(&skipped, "a"), None);
        assert_eq!(found(&skipped, "b"), Some(MAX_SKIPPED_BYTES));
    }

    #[test]
    fn a_name_beyond_the_most_is_not_remembered_and_a_known_one_is_never_taken_for_what_it_was() {
        let mut skipped = Skipped::default();
        let names: Vec<Bytes> = (0..=MAX_SKIPPED).map(|at| at.to_string().into()).collect();
        for name in &names {
            skipped.insert(name, Bag(1));
        }
        assert_eq!(found(&skipped, "255"), Some(1));
        assert_eq!(found(&skipped, "256"), None);
        skipped.insert(&names[0], Bag(2));
        assert_eq!(found(&skipped, "0"), Some(2));
    }
}
