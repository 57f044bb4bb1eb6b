//! How much is remembered of prepared statements.

use std::sync::Arc;

use super::Nameable;
use crate::wire::collect::forget;
use crate::wire::session::event::Prepared;
use crate::wire::session::request::kept_in;

impl Nameable for Arc<Prepared> {
    const MOST: usize = 4096;
    /// Of texts and types.
    const MOST_BYTES: usize = 4 * 1024 * 1024;

    fn kept_bytes(&self) -> usize {
        kept_in(self)
    }

    /// Length and hash of the text stay.
    fn without_bytes(self) -> Self {
        Self::new(Prepared {
            number: self.number,
            name: self.name.clone(),
            text: forget(&self.text),
            parameter_types: Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::wire::session::event::Text;

    #[test]
    fn a_statement_without_its_text_leaves_its_length_and_hash() {
        let prepared = Arc::new(Prepared {
            number: 7,
            name: Bytes::from_static(b"s"),
            text: Text {
                kept: Bytes::from_static(b"select 1"),
                length: 8,
                sha256: None,
            },
            parameter_types: vec![23],
        });
        assert_eq!(prepared.kept_bytes(), 8 + 4);
        let without = prepared.without_bytes();
        assert_eq!(without.kept_bytes(), 0);
        assert_eq!((without.number, without.text.length), (7, 8));
        assert!(without.text.sha256.is_some());
    }
}
