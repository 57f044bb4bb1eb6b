//! What a client sends before its session exists: encryption requests, a cancel request, or the startup packet.
//!
//! Such packets have no type byte: a length (which counts itself), a code, a body. The rules are those of
//! ProcessStartupPacket in src/backend/tcop/backend_startup.c; what PostgreSQL would refuse for its form is refused,
//! what it would refuse for its content (an unknown version, say) is the server's to answer.

/// `MAX_STARTUP_PACKET_LENGTH` (src/include/libpq/pqcomm.h) and the length word.
pub const MAX_PACKET_BYTES: usize = 10_000 + 4;
const MIN_PACKET_BYTES: usize = 8;

/// `NEGOTIATE_SSL_CODE`
pub(super) const SSL_REQUEST: u32 = 80_877_103;
/// `NEGOTIATE_GSS_CODE`
pub(super) const GSS_REQUEST: u32 = 80_877_104;
/// `CANCEL_REQUEST_CODE`
const CANCEL_REQUEST: u32 = 80_877_102;
/// `PG_PROTOCOL_MAJOR` of every version whose startup packet has the form known here.
const PROTOCOL_MAJOR: u32 = 3;
/// The first byte of a TLS record with a handshake message: direct TLS (PostgreSQL 17), no packet at all.
const TLS_HANDSHAKE: u8 = 0x16;
/// `NAMEDATALEN` less its terminator: how much of a user or database name the server looks at.
const MAX_NAME_BYTES: usize = 63;

/// One packet of the opening.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opening {
    /// SSLRequest
    SslRequest,
    /// GSSENCRequest
    GssRequest,
    /// A TLS ClientHello without a request before it.
    DirectTls,
    /// CancelRequest; the key stays where it is.
    Cancel {
        /// The backend the request names.
        backend_pid: u32,
    },
    /// StartupMessage of protocol 3
    Startup(StartupMessage),
    /// Another protocol major, or a request code not known here: the server's to answer.
    Other {
        /// The packet's code: major version in the upper half, minor in the lower.
        code: u32,
    },
}

/// A packet and its length on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// What it says.
    pub opening: Opening,
    /// How many bytes it is; 0 for direct TLS, which is left alone.
    pub bytes: usize,
}

/// The parameters of a session, as the server will understand them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartupMessage {
    protocol: (u16, u16),
    parameters: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Why a packet is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpeningError {
    /// The length word is out of range; PostgreSQL closes without an answer.
    #[error("invalid length of startup packet")]
    Length,
    /// The parameters do not end where the packet ends.
    #[error("invalid startup packet layout: expected terminator as last byte")]
    Layout,
}

/// Reads the packet at the start of `buffer`; `None` when it is not complete yet.
///
/// # Errors
/// [`OpeningError`] as soon as the bytes cannot become a packet. No error needs more than [`MAX_PACKET_BYTES`].
pub fn parse(buffer: &[u8]) -> Result<Option<Packet>, OpeningError> {
    if buffer.first() == Some(&TLS_HANDSHAKE) {
        return Ok(Some(Packet {
            opening: Opening::DirectTls,
            bytes: 0,
        }));
    }
    let Some(length) = word(buffer, 0) else {
        return Ok(None);
    };
    let bytes = usize::try_from(length).map_err(|_| OpeningError::Length)?;
    if !(MIN_PACKET_BYTES..=MAX_PACKET_BYTES).contains(&bytes) {
        return Err(OpeningError::Length);
    }
    let (Some(code), Some(body)) = (word(buffer, 4), buffer.get(8..bytes)) else {
        return Ok(None);
    };
    let opening = match code {
        SSL_REQUEST => Opening::SslRequest,
        GSS_REQUEST => Opening::GssRequest,
        CANCEL_REQUEST => match word(body, 0) {
            Some(backend_pid) => Opening::Cancel { backend_pid },
            None => Opening::Other { code },
        },
        _ if code >> 16 == PROTOCOL_MAJOR => Opening::Startup(StartupMessage::parse(code, body)?),
        _ => Opening::Other { code },
    };
    Ok(Some(Packet { opening, bytes }))
}

impl StartupMessage {
    fn parse(code: u32, body: &[u8]) -> Result<Self, OpeningError> {
        let mut parameters = Vec::new();
        let mut rest = body;
        // The server looks for one byte where the next name would be, whatever it is, and calls it the terminator.
        while rest.len() != 1 {
            let (name, after_name) = c_string(rest)?;
            if name.is_empty() {
                return Err(OpeningError::Layout);
            }
            let (value, after_value) = c_string(after_name)?;
            parameters.push((name.to_vec(), value.to_vec()));
            rest = after_value;
        }
        Ok(Self {
            protocol: ((code >> 16) as u16, (code & 0xffff) as u16),
            parameters,
        })
    }

    /// The protocol version asked for: major, minor.
    pub fn protocol(&self) -> (u16, u16) {
        self.protocol
    }

    /// Every parameter in the order sent, duplicates included.
    pub fn parameters(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.parameters
            .iter()
            .map(|(name, value)| (name.as_slice(), value.as_slice()))
    }

    /// The user the server will look up: the last one sent, cut to 63 bytes.
    pub fn user(&self) -> Option<&[u8]> {
        self.name("user")
    }

    /// The database the server will look up: the last one sent, or the user's name; none for physical replication.
    pub fn database(&self) -> Option<&[u8]> {
        match self.replication() {
            Some(Replication::Physical) => None,
            _ => self.name("database").or_else(|| self.user()),
        }
    }

    /// The kind of replication asked for, in any of the spellings the server takes.
    pub fn replication(&self) -> Option<Replication> {
        let all = self
            .parameters
            .iter()
            .filter(|(name, _)| name == b"replication");
        // In the server's loop `database` sets two flags, and a later boolean changes only one of them.
        let (mut is_sender, mut has_database) = (false, false);
        for (_, value) in all {
            let is_logical = value == b"database";
            has_database |= is_logical;
            is_sender = is_logical || is_true(value);
        }
        match (is_sender, has_database) {
            (true, true) => Some(Replication::Logical),
            (true, false) => Some(Replication::Physical),
            (false, _) => None,
        }
    }

    /// The last value of a parameter: the server lets later ones win.
    pub fn last(&self, name: &str) -> Option<&[u8]> {
        let mut from_last = self.parameters.iter().rev();
        from_last
            .find(|(key, _)| key == name.as_bytes())
            .map(|(_, value)| value.as_slice())
    }

    /// A name as the server looks it up: empty is absent, and it is cut at 63 bytes.
    fn name(&self, name: &str) -> Option<&[u8]> {
        let value = self.last(name).filter(|value| !value.is_empty())?;
        Some(value.get(..MAX_NAME_BYTES).unwrap_or(value))
    }
}

/// What a replication connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replication {
    /// `replication=true`: the WAL stream, no database.
    Physical,
    /// `replication=database`: logical decoding in one database.
    Logical,
}

/// The spellings of true in `parse_bool` (src/backend/utils/adt/bool.c): unique prefixes, any case.
fn is_true(value: &[u8]) -> bool {
    let lower = value.to_ascii_lowercase();
    let is_prefix = |word: &[u8]| !lower.is_empty() && word.starts_with(&lower);
    is_prefix(b"true") || is_prefix(b"yes") || lower == b"on" || lower == b"1"
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let raw = bytes.get(at..at.checked_add(4)?)?;
    raw.try_into().ok().map(u32::from_be_bytes)
}

/// Splits a NUL-terminated string off.
fn c_string(bytes: &[u8]) -> Result<(&[u8], &[u8]), OpeningError> {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .ok_or(OpeningError::Layout)?;
    let (text, rest) = bytes.split_at(end);
    Ok((text, rest.get(1..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(code: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(body.len() + 8)
            .unwrap()
            .to_be_bytes()
            .to_vec();
        bytes.extend(code.to_be_bytes());
        bytes.extend(body);
        bytes
    }

    fn startup(body: &[u8]) -> StartupMessage {
        match parse(&packet(3 << 16, body)).unwrap().unwrap().opening {
            Opening::Startup(message) => message,
            other => panic!("not a startup message: {other:?}"),
        }
    }

    #[test]
    fn every_kind_of_opening_is_recognised_only_when_complete() {
        let cases = [
            (packet(SSL_REQUEST, b""), Opening::SslRequest),
            (packet(GSS_REQUEST, b""), Opening::GssRequest),
            (
                packet(CANCEL_REQUEST, &[0, 0, 0, 7, 1, 2, 3, 4]),
                Opening::Cancel { backend_pid: 7 },
            ),
            (
                packet(
                    CANCEL_REQUEST,
                    &[[0, 0, 0, 9].as_slice(), &[5; 256]].concat(),
                ),
                Opening::Cancel { backend_pid: 9 },
            ),
            (
                packet(CANCEL_REQUEST, b""),
                Opening::Other {
                    code: CANCEL_REQUEST,
                },
            ),
            (packet(SSL_REQUEST, b"x"), Opening::SslRequest),
            (packet(2 << 16, b"old"), Opening::Other { code: 2 << 16 }),
            (packet(4 << 16, b"\0"), Opening::Other { code: 4 << 16 }),
        ];
        for (bytes, opening) in cases {
            for end in 0..bytes.len() {
                assert_eq!(parse(&bytes[..end]), Ok(None), "{opening:?} cut at {end}");
            }
            let mut more = bytes.clone();
            more.extend(b"and what follows");
            let expected = Packet {
                opening,
                bytes: bytes.len(),
            };
            assert_eq!(parse(&more), Ok(Some(expected)));
        }
    }

    #[test]
    fn one_byte_is_enough_for_direct_tls() {
        let expected = Packet {
            opening: Opening::DirectTls,
            bytes: 0,
        };
        assert_eq!(parse(&[0x16]), Ok(Some(expected)));
    }

    #[test]
    fn lengths_out_of_range_are_refused_before_anything_is_buffered() {
        for length in [0_u32, 4, 7, 10_005, 0x7fff_ffff, 0xffff_ffff] {
            assert_eq!(
                parse(&length.to_be_bytes()),
                Err(OpeningError::Length),
                "{length}"
            );
        }
        let longest = packet(3 << 16, &[[b'a'; 9994].as_slice(), b"\0\0"].concat());
        assert_eq!(longest.len(), MAX_PACKET_BYTES);
        assert_eq!(parse(&longest), Err(OpeningError::Layout));
    }

    #[test]
    fn the_terminator_must_be_the_last_byte() {
        for body in [
            b"".as_slice(),
            b"user",
            b"user\0",
            b"user\0me",
            b"user\0me\0",
            b"user\0me\0\0x",
            b"\0\0",
        ] {
            assert_eq!(
                parse(&packet(3 << 16, body)),
                Err(OpeningError::Layout),
                "{body:?}"
            );
        }
        assert_eq!(startup(b"\0").user(), None);
    }

    #[test]
    fn the_terminator_may_be_any_one_byte_as_in_the_server() {
        for body in [b"user\0me\0\0", b"user\0me\0x"] {
            assert_eq!(startup(body).user(), Some(b"me".as_slice()));
        }
    }

    #[test]
    fn the_last_duplicate_wins_as_in_the_server() {
        let message = startup(b"user\0first\0database\0d1\0user\0second\0database\0\0\0");
        assert_eq!(message.user(), Some(b"second".as_slice()));
        assert_eq!(message.database(), Some(b"second".as_slice()));
        assert_eq!(message.parameters().count(), 4);
    }

    #[test]
    fn names_are_cut_at_sixty_three_bytes() {
        let long = "n".repeat(64);
        let message = startup(format!("user\0{long}\0\0").as_bytes());
        assert_eq!(message.user().map(<[u8]>::len), Some(63));
    }

    #[test]
    fn every_spelling_of_replication_is_classified() {
        let cases = [
            ("true", Some(Replication::Physical)),
            ("T", Some(Replication::Physical)),
            ("on", Some(Replication::Physical)),
            ("ye", Some(Replication::Physical)),
            ("1", Some(Replication::Physical)),
            ("database", Some(Replication::Logical)),
            ("false", None),
            ("o", None),
            ("", None),
        ];
        for (value, expected) in cases {
            let message = startup(format!("user\0u\0replication\0{value}\0\0").as_bytes());
            assert_eq!(message.replication(), expected, "{value}");
        }
        let twice = startup(b"user\0u\0replication\0database\0replication\0true\0\0");
        assert_eq!(twice.replication(), Some(Replication::Logical));
        assert_eq!(
            startup(b"user\0u\0replication\0true\0database\0d\0\0").database(),
            None
        );
    }
}
