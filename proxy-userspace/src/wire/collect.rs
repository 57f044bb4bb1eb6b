//! Fields of a body that comes in pieces, each kept up to a limit of its own.
//!
//! What is beyond a limit is counted, or hashed where an event promises that, and dropped.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::session::Text;

/// `NAMEDATALEN` less its terminator: statements and portals are told apart by so many bytes of their names
/// (dynahash's string keys, src/backend/commands/prepare.c, src/backend/utils/mmgr/portalmem.c).
pub(super) const MAX_NAME_BYTES: usize = 63;

/// A name as the server looks it up.
#[derive(Clone, Copy)]
pub(super) struct Name {
    bytes: [u8; MAX_NAME_BYTES],
    filled: usize,
    wanted: bool,
    ended: bool,
}

impl Default for Name {
    fn default() -> Self {
        Self {
            bytes: [0; MAX_NAME_BYTES],
            filled: 0,
            wanted: true,
            ended: false,
        }
    }
}

impl std::fmt::Debug for Name {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Name({})", self.as_bytes().escape_ascii())
    }
}

impl Name {
    /// Begins another name; one that is not wanted takes its bytes and keeps none.
    pub(super) fn begin(&mut self, wanted: bool) {
        self.filled = 0;
        self.wanted = wanted;
        self.ended = false;
    }

    /// Overwrites what is kept, which may be a secret that was sent in place of a name.
    pub(super) fn wipe(&mut self) {
        *self = Self {
            wanted: false,
            ..Self::default()
        };
    }

    /// The name so far.
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.filled).unwrap_or_default()
    }

    /// Whether anything of it is kept.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// Whether its terminator has been seen.
    pub(super) fn is_ended(&self) -> bool {
        self.ended
    }

    /// Takes bytes up to the terminator; gives back what is behind it.
    pub(super) fn feed<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        if self.ended || !self.wanted {
            return bytes;
        }
        let (name, rest) = until_nul(bytes, &mut self.ended);
        let free = self.bytes.get_mut(self.filled..).unwrap_or_default();
        let taken = free.len().min(name.len());
        if let (Some(to), Some(from)) = (free.get_mut(..taken), name.get(..taken)) {
            to.copy_from_slice(from);
        }
        self.filled += taken;
        rest
    }
}

/// Splits at the first NUL and sets `found`, or gives everything and no rest.
pub(super) fn until_nul<'a>(bytes: &'a [u8], found: &mut bool) -> (&'a [u8], &'a [u8]) {
    let Some(end) = memchr::memchr(0, bytes) else {
        return (bytes, &[]);
    };
    *found = true;
    let (text, rest) = bytes.split_at(end);
    (text, rest.get(1..).unwrap_or_default())
}

/// A SQL text: its beginning, its length, and the hash of the whole where that is longer.
#[derive(Default)]
pub(super) struct TextCollector {
    keep: usize,
    kept: Vec<u8>,
    length: u64,
    hash: Option<Box<Sha256>>,
    ended: bool,
}

impl std::fmt::Debug for TextCollector {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "TextCollector({} bytes)", self.length)
    }
}

impl TextCollector {
    /// Begins a text that is at most `longest` bytes long, of which `keep` are kept.
    pub(super) fn begin(&mut self, keep: usize, longest: u64) {
        // Whether the text will be longer than what is kept shows only when its beginning has gone by.
        self.hash = (longest > keep as u64).then(Box::default);
        self.keep = keep;
        self.kept = Vec::new();
        self.length = 0;
        self.ended = false;
    }

    /// Whether its terminator has been seen.
    pub(super) fn is_ended(&self) -> bool {
        self.ended
    }

    /// Takes bytes up to the terminator; gives back what is behind it.
    pub(super) fn feed<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        if self.ended {
            return bytes;
        }
        let (text, rest) = until_nul(bytes, &mut self.ended);
        let free = self.keep.saturating_sub(self.kept.len()).min(text.len());
        self.kept
            .extend_from_slice(text.get(..free).unwrap_or_default());
        self.length += text.len() as u64;
        if let Some(hash) = &mut self.hash {
            hash.update(text);
        }
        rest
    }

    /// The text, which the collector gives away.
    pub(super) fn finish(&mut self) -> Text {
        let is_longer = self.length > self.kept.len() as u64;
        let hash = self.hash.take().filter(|_| is_longer);
        Text {
            kept: std::mem::take(&mut self.kept).into(),
            length: self.length,
            sha256: hash.map(|hash| Box::new(hash.finalize().into())),
        }
    }
}

/// A text that came in one piece, of which `keep` bytes are kept.
pub(super) fn keep_text(text: &[u8], keep: usize) -> Text {
    let cut = text.get(..keep);
    Text {
        kept: Bytes::copy_from_slice(cut.unwrap_or(text)),
        length: text.len() as u64,
        sha256: (keep < text.len()).then(|| Box::new(Sha256::digest(text).into())),
    }
}

/// Forgets a text and leaves its length and hash.
pub(super) fn forget(text: &Text) -> Text {
    let hash = || Box::new(Sha256::digest(&text.kept).into());
    Text {
        kept: Bytes::new(),
        length: text.length,
        sha256: Some(text.sha256.clone().unwrap_or_else(hash)),
    }
}

/// The beginning of a body or of its rest. A body that comes in one piece is not copied.
#[derive(Debug, Default)]
pub(super) struct Prefix {
    kept: Vec<u8>,
    length: u64,
}

/// More than this is given back when a message is over.
const STANDING_BYTES: usize = 1024;

impl Prefix {
    /// Begins another body.
    pub(super) fn clear(&mut self) {
        self.length = 0;
        if self.kept.capacity() > STANDING_BYTES {
            self.kept = Vec::new();
        } else {
            self.kept.clear();
        }
    }

    /// Takes a piece and keeps at most `most` bytes in all.
    pub(super) fn feed(&mut self, bytes: &[u8], most: usize) {
        let free = most.saturating_sub(self.kept.len()).min(bytes.len());
        self.kept
            .extend_from_slice(bytes.get(..free).unwrap_or_default());
        self.length += bytes.len() as u64;
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.kept.capacity()
    }

    /// Takes the last piece; gives the beginning, and the length of the whole.
    pub(super) fn last<'a>(&'a mut self, bytes: &'a [u8], most: usize) -> (&'a [u8], u64) {
        if self.length == 0 {
            let kept = bytes.get(..most).unwrap_or(bytes);
            return (kept, bytes.len() as u64);
        }
        self.feed(bytes, most);
        (&self.kept, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect(keep: usize, body: &[u8], size: usize) -> (Text, Vec<u8>) {
        let mut collector = TextCollector::default();
        collector.begin(keep, body.len() as u64);
        let mut rest = Vec::new();
        for chunk in body.chunks(size) {
            rest.extend_from_slice(collector.feed(chunk));
        }
        assert_eq!(collector.is_ended(), body.contains(&0));
        (collector.finish(), rest)
    }

    #[test]
    fn a_text_that_fits_is_kept_whole_and_one_byte_more_is_cut_and_hashed() {
        for size in 1..10 {
            let (text, rest) = collect(8, b"select 1\0\0more", size);
            assert_eq!(text.kept, "select 1");
            assert!(text.is_whole());
            assert_eq!(rest, b"\0more");
            let (text, _) = collect(7, b"select 1\0", size);
            assert_eq!(
                (text.kept.as_ref(), text.length),
                (b"select ".as_slice(), 8)
            );
            assert_eq!(*text.sha256.unwrap(), *Sha256::digest(b"select 1"));
        }
    }

    #[test]
    fn a_forgotten_text_keeps_the_hash_of_the_whole() {
        let (text, _) = collect(100, b"select 1\0", 100);
        let (cut, _) = collect(3, b"select 1\0", 100);
        assert_eq!(forget(&text).sha256, cut.sha256);
        assert_eq!(forget(&cut).sha256, cut.sha256);
        assert!(forget(&text).kept.is_empty());
    }

    #[test]
    fn names_are_cut_where_the_server_cuts_them() {
        let long = [[b'n'; 70].as_slice(), b"\0rest"].concat();
        for size in 1..=long.len() {
            let mut name = Name::default();
            let rest: Vec<u8> = long
                .chunks(size)
                .flat_map(|chunk| name.feed(chunk).to_vec())
                .collect();
            assert_eq!(name.as_bytes(), [b'n'; 63]);
            assert_eq!(rest, b"rest");
            assert!(name.is_ended());
        }
    }

    #[test]
    fn a_prefix_is_bounded_and_counts_the_rest() {
        let mut prefix = Prefix::default();
        assert_eq!(prefix.last(b"whole", 3), (b"who".as_slice(), 5));
        prefix.feed(b"ab", 3);
        assert_eq!(prefix.last(b"cdef", 3), (b"abc".as_slice(), 6));
        prefix.clear();
        assert_eq!(prefix.last(b"", 3), (b"".as_slice(), 0));
    }
}
