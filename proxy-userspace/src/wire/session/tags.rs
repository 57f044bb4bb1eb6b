//! Command tags of one message. Nearly every message has one at most, and that takes no memory of its own.

use std::fmt;
use std::ops::Deref;

/// Command tags kept of one Query.
pub(in crate::wire) const MAX_TAGS: usize = 64;
/// `COMPLETION_TAG_BUFSIZE` (src/include/tcop/cmdtag.h)
const MAX_TAG_BYTES: usize = 64;

/// A command tag, without its terminator. What is longer than any server's is cut.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    /// Behind `length`, zeros.
    bytes: [u8; MAX_TAG_BYTES],
    length: u8,
}

impl Tag {
    const EMPTY: Self = Self {
        bytes: [0; MAX_TAG_BYTES],
        length: 0,
    };

    /// Fills an empty one.
    #[inline]
    fn set(&mut self, tag: &[u8]) {
        let tag = tag.get(..MAX_TAG_BYTES).unwrap_or(tag);
        if let Some(to) = self.bytes.get_mut(..tag.len()) {
            to.copy_from_slice(tag);
        }
        // At most MAX_TAG_BYTES.
        self.length = u8::try_from(tag.len()).unwrap_or(0);
    }
}

/// How many rows a tag says were affected: `INSERT 0 5`, `UPDATE 3`, `COPY 7`. None where it does not say.
pub fn affected_rows(tag: &[u8]) -> Option<u64> {
    let (_, count) = std::str::from_utf8(tag).ok()?.rsplit_once(' ')?;
    count.parse().ok()
}

impl From<&[u8]> for Tag {
    fn from(bytes: &[u8]) -> Self {
        let mut tag = Self::EMPTY;
        tag.set(bytes);
        tag
    }
}

impl Deref for Tag {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let length = usize::from(self.length);
        self.bytes.get(..length).unwrap_or_default()
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Tag({})", self.escape_ascii())
    }
}

/// Tags in the order they came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tags {
    has_first: bool,
    /// Written where it stays: it is in the way of every message.
    first: Tag,
    others: Vec<Tag>,
}

impl Default for Tags {
    fn default() -> Self {
        Self {
            has_first: false,
            first: Tag::EMPTY,
            others: Vec::new(),
        }
    }
}

impl Tags {
    /// Appends one, unless there are as many as are kept; tells whether it did.
    #[inline]
    pub(super) fn push(&mut self, tag: &[u8]) -> bool {
        if !self.has_first {
            self.has_first = true;
            self.first.set(tag);
            return true;
        }
        let has_room = self.len() < MAX_TAGS;
        if has_room {
            self.others.push(tag.into());
        }
        has_room
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        usize::from(self.has_first) + self.others.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        !self.has_first
    }

    /// Each of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Tag> {
        let first = self.has_first.then_some(&self.first);
        first.into_iter().chain(&self.others)
    }
}

impl<'a> FromIterator<&'a [u8]> for Tags {
    /// As many as are kept.
    fn from_iter<I: IntoIterator<Item = &'a [u8]>>(tags: I) -> Self {
        let mut kept = Self::default();
        for tag in tags {
            kept.push(tag);
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_longer_than_any_servers_is_cut() {
        let long = [b'x'; MAX_TAG_BYTES + 1];
        assert_eq!(&*Tag::from(&long[1..]), &long[1..]);
        assert_eq!(&*Tag::from(&long[..]), &long[1..]);
        assert!(Tag::from(b"".as_slice()).is_empty());
    }

    #[test]
    fn tags_keep_their_order_up_to_the_most_there_may_be() {
        let names: Vec<String> = (0..=MAX_TAGS).map(|number| number.to_string()).collect();
        let mut tags = Tags::default();
        assert!(tags.is_empty());
        for (at, name) in names.iter().enumerate() {
            assert_eq!(tags.push(name.as_bytes()), at < MAX_TAGS);
        }
        assert_eq!(tags.len(), MAX_TAGS);
        let kept = names.iter().take(MAX_TAGS).map(String::as_bytes);
        assert!(tags.iter().map(Tag::deref).eq(kept.clone()));
        assert_eq!(kept.collect::<Tags>(), tags);
    }
}
