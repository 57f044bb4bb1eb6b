//! Where one message ends and the next begins, in either direction, however the stream is cut.
//!
//! Owns the header: a type byte and a length word that counts itself. Never looks into a body, and keeps nothing but
//! the bytes of a header that is not complete.
//!
//! Limits: SocketBackend in src/backend/tcop/postgres.c and pq_getmessage in src/backend/libpq/pqcomm.c; what a
//! server may send, libpq's fe-protocol3.c and the 1 GB that any of PostgreSQL's messages stays below.

/// Type and length.
pub const HEADER_BYTES: usize = 5;
/// What a length word counts beside the body: itself.
const LENGTH_BYTES: u32 = 4;
/// `PQ_LARGE_MESSAGE_LIMIT` (src/include/libpq/libpq.h): MaxAllocSize less one.
pub const FRONTEND_LARGE: u32 = 0x3fff_fffe;
/// `PQ_SMALL_MESSAGE_LIMIT`
pub const FRONTEND_SMALL: u32 = 10_000;
/// `PG_MAX_AUTH_TOKEN_LENGTH` (src/include/libpq/auth.h)
pub const FRONTEND_AUTHENTICATION: u32 = 65_535;
/// `MaxAllocSize` (src/include/utils/memutils.h): no server can build a longer one.
pub const BACKEND_LARGEST: u32 = 0x3fff_ffff;

/// A message's header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The type byte.
    pub kind: u8,
    /// The length word, which counts itself.
    pub length: u32,
}

impl Header {
    fn read([kind, a, b, c, d]: [u8; HEADER_BYTES]) -> Self {
        Self {
            kind,
            length: u32::from_be_bytes([a, b, c, d]),
        }
    }

    /// Bytes of the body, 0 where the length word cannot be.
    pub fn body_bytes(self) -> u32 {
        self.length.saturating_sub(LENGTH_BYTES)
    }

    /// Whether the length word is within the bounds that go up to `most`.
    pub fn fits(self, most: u32) -> bool {
        (LENGTH_BYTES..=most).contains(&self.length)
    }
}

/// The greatest length word PostgreSQL takes in a client's message of this type; `None` for a type it does not know.
pub fn frontend_limit(kind: u8) -> Option<u32> {
    match kind {
        b'Q' | b'F' | b'P' | b'B' | b'd' => Some(FRONTEND_LARGE),
        b'X' | b'C' | b'D' | b'E' | b'H' | b'S' | b'c' | b'f' => Some(FRONTEND_SMALL),
        b'p' => Some(FRONTEND_AUTHENTICATION),
        _ => None,
    }
}

/// Whether some PostgreSQL of protocol 3 sends messages of this type.
pub fn is_backend_type(kind: u8) -> bool {
    matches!(
        kind,
        b'1' | b'2'
            | b'3'
            | b'A'
            | b'C'
            | b'D'
            | b'E'
            | b'G'
            | b'H'
            | b'I'
            | b'K'
            | b'N'
            | b'R'
            | b'S'
            | b'T'
            | b'V'
            | b'W'
            | b'Z'
            | b'c'
            | b'd'
            | b'n'
            | b's'
            | b't'
            | b'v'
    )
}

/// A part of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A message begins. Its length has not been checked.
    Header(Header),
    /// More of its body; every message has exactly one last piece, empty if its body is.
    Body {
        /// The bytes.
        bytes: &'a [u8],
        /// Whether they end the message.
        last: bool,
    },
}

/// Messages of one type in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// How many.
    pub messages: u64,
    /// Bytes of their bodies.
    pub body_bytes: u64,
}

/// Cuts one direction into pieces.
#[derive(Debug, Default)]
pub struct Framer {
    header: [u8; HEADER_BYTES],
    /// Bytes of `header` that are there.
    filled: usize,
    /// Bytes of the body still to come, while in one.
    body: Option<u32>,
}

impl Framer {
    /// Starts at a message's first byte.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the next byte begins a message.
    pub fn is_between_messages(&self) -> bool {
        self.filled == 0 && self.body.is_none()
    }

    /// How many bytes at least are still to come of the message that was begun: 0 between two.
    pub fn wants(&self) -> usize {
        match self.body {
            Some(remaining) => remaining as usize,
            None if self.filled == 0 => 0,
            None => HEADER_BYTES - self.filled,
        }
    }

    /// Takes the next piece off `bytes`; `None` when more bytes are needed.
    #[inline]
    pub fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Option<Piece<'a>> {
        match self.body {
            Some(remaining) => self.next_body(remaining, bytes),
            None if bytes.is_empty() => None,
            None if self.filled == 0 => match bytes.split_first_chunk::<HEADER_BYTES>() {
                Some((header, rest)) => {
                    *bytes = rest;
                    Some(self.begin(*header))
                }
                None => self.collect_header(bytes),
            },
            None => self.collect_header(bytes),
        }
    }

    /// Takes a message off `bytes` if all of it lies there; its length has not been checked against any limit. What is
    /// cut is left for [`Framer::next`].
    #[inline]
    pub fn whole<'a>(&self, bytes: &mut &'a [u8]) -> Option<(Header, &'a [u8])> {
        if !self.is_between_messages() {
            return None;
        }
        let (raw, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let header = Header::read(*raw);
        let (body, rest) = rest.split_at_checked(header.body_bytes() as usize)?;
        *bytes = rest;
        Some((header, body))
    }

    /// Takes whole messages of one type off `bytes`, as far as they follow each other from here and lie wholly within
    /// it. What is cut, longer than a message may be, or of another type is left for [`Framer::next`].
    #[inline]
    pub fn run(&self, kind: u8, bytes: &mut &[u8]) -> Run {
        let mut run = Run::default();
        if !self.is_between_messages() {
            return run;
        }
        while let Some((raw, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() {
            let header = Header::read(*raw);
            if header.kind != kind || !header.fits(FRONTEND_LARGE) {
                break;
            }
            let Some(rest) = rest.get(header.body_bytes() as usize..) else {
                break;
            };
            *bytes = rest;
            run.messages += 1;
            run.body_bytes += u64::from(header.body_bytes());
        }
        run
    }

    fn begin<'a>(&mut self, raw: [u8; HEADER_BYTES]) -> Piece<'a> {
        let header = Header::read(raw);
        self.body = Some(header.body_bytes());
        Piece::Header(header)
    }

    #[cold]
    fn collect_header<'a>(&mut self, bytes: &mut &'a [u8]) -> Option<Piece<'a>> {
        let free = self.header.get_mut(self.filled..)?;
        let taken = free.len().min(bytes.len());
        let (now, rest) = bytes.split_at(taken);
        free.get_mut(..taken)?.copy_from_slice(now);
        *bytes = rest;
        self.filled += taken;
        if self.filled < HEADER_BYTES {
            return None;
        }
        self.filled = 0;
        Some(self.begin(self.header))
    }

    fn next_body<'a>(&mut self, remaining: u32, bytes: &mut &'a [u8]) -> Option<Piece<'a>> {
        if let Some((body, rest)) = bytes.split_at_checked(remaining as usize) {
            self.body = None;
            *bytes = rest;
            return Some(Piece::Body {
                bytes: body,
                last: true,
            });
        }
        if bytes.is_empty() {
            return None;
        }
        let part = std::mem::take(bytes);
        // Shorter than what remains, which is a u32.
        self.body = Some(remaining - u32::try_from(part.len()).unwrap_or(remaining));
        Some(Piece::Body {
            bytes: part,
            last: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind];
        bytes.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        bytes.extend(body);
        bytes
    }

    /// Whole messages as the framer tells them from chunks.
    fn messages<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> Vec<(u8, Vec<u8>)> {
        let mut framer = Framer::new();
        let (mut found, mut kind, mut body) = (Vec::new(), 0, Vec::new());
        for mut chunk in chunks {
            while let Some(piece) = framer.next(&mut chunk) {
                match piece {
                    Piece::Header(header) => kind = header.kind,
                    Piece::Body { bytes, last } => {
                        body.extend_from_slice(bytes);
                        if last {
                            found.push((kind, std::mem::take(&mut body)));
                        }
                    }
                }
            }
        }
        found
    }

    #[test]
    fn every_segmentation_gives_the_same_messages() {
        let expected = vec![
            (b'Q', b"select 1\0".to_vec()),
            (b'S', Vec::new()),
            (b'd', vec![7; 300]),
            (b'S', Vec::new()),
        ];
        let stream: Vec<u8> = expected
            .iter()
            .flat_map(|(kind, body)| message(*kind, body))
            .collect();
        for size in 1..=stream.len() {
            assert_eq!(messages(stream.chunks(size)), expected, "chunks of {size}");
        }
    }

    #[test]
    fn a_run_ends_where_another_type_begins_or_the_bytes_do() {
        let mut stream = message(b'D', b"12345");
        stream.extend(message(b'D', b""));
        let whole = stream.len();
        stream.extend(message(b'C', b"tag\0"));
        let framer = Framer::new();
        let mut bytes = stream.as_slice();
        let expected = Run {
            messages: 2,
            body_bytes: 5,
        };
        assert_eq!(framer.run(b'D', &mut bytes), expected);
        assert_eq!(bytes, &stream[whole..]);
        let mut cut = &stream[..whole - 1];
        assert_eq!(framer.run(b'D', &mut cut).messages, 1);
        assert_eq!(cut.len(), 4);
    }

    #[test]
    fn a_message_is_taken_whole_only_where_all_of_it_is_there() {
        let stream = [message(b'Q', b"select"), message(b'S', b"")].concat();
        let framer = Framer::new();
        let mut bytes = stream.as_slice();
        let (header, body) = framer.whole(&mut bytes).unwrap();
        assert_eq!((header.kind, body), (b'Q', b"select".as_slice()));
        let mut cut = &bytes[..4];
        assert_eq!((framer.whole(&mut cut), cut.len()), (None, 4));
        assert_eq!(framer.whole(&mut bytes).unwrap().1, b"");
        let mut framer = Framer::new();
        let mut bytes = &stream[..HEADER_BYTES];
        assert!(framer.whole(&mut bytes).is_none());
        assert!(framer.next(&mut bytes).is_some());
        let mut rest = &stream[HEADER_BYTES..];
        assert!(framer.whole(&mut rest).is_none());
    }

    #[test]
    fn a_run_does_not_begin_inside_a_message() {
        let stream = message(b'D', &message(b'D', b""));
        let mut framer = Framer::new();
        let (mut head, mut tail) = stream.split_at(HEADER_BYTES);
        assert!(framer.next(&mut head).is_some());
        assert_eq!(framer.run(b'D', &mut tail), Run::default());
        let (mut half, mut tail) = stream.split_at(2);
        let mut framer = Framer::new();
        assert_eq!(framer.next(&mut half), None);
        assert_eq!(framer.run(b'D', &mut tail), Run::default());
    }

    #[test]
    fn the_limits_are_those_of_the_server() {
        let large = Header {
            kind: b'Q',
            length: FRONTEND_LARGE,
        };
        assert!(large.fits(frontend_limit(b'Q').unwrap()));
        assert!(!large.fits(frontend_limit(b'S').unwrap()));
        for (length, fits) in [(3, false), (4, true), (10_000, true), (10_001, false)] {
            let header = Header { kind: b'S', length };
            assert_eq!(header.fits(FRONTEND_SMALL), fits, "{length}");
        }
        assert_eq!(frontend_limit(b'?'), None);
        assert!(is_backend_type(b'Z') && !is_backend_type(b'Q'));
    }
}
