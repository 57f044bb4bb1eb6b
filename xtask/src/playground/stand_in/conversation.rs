//! What the stand-in says: bytes in, bytes out (protocol-flow, "Start-up" and "Simple Query"). Pure.

/// Codes that stand where a startup packet has its version (protocol-message-formats).
const CANCEL: u32 = 80_877_102;
const TLS: u32 = 80_877_103;
const GSS: u32 = 80_877_104;
/// Longest message that is waited for, in bytes.
const MESSAGE_LIMIT: usize = 64 * 1024;
const HEADER: usize = 4;

/// Whether the connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It does
    Listen,
    /// The client said goodbye, or makes no sense
    Close,
}

/// One client's side, as far as it has been heard.
#[derive(Debug, Default)]
pub(super) struct Conversation {
    heard: Vec<u8>,
    has_started: bool,
}

impl Conversation {
    /// Takes what the client sent next and returns what to answer.
    pub(super) fn hear(&mut self, bytes: &[u8]) -> (Vec<u8>, Next) {
        self.heard.extend_from_slice(bytes);
        let mut answer = Vec::new();
        loop {
            let kind_bytes = usize::from(self.has_started);
            let Some(length) = self.heard.get(kind_bytes..).and_then(leading_number) else {
                return (answer, Next::Listen);
            };
            let length = length as usize;
            if !(HEADER..=MESSAGE_LIMIT).contains(&length) {
                return (answer, Next::Close);
            }
            if self.heard.len() < kind_bytes + length {
                return (answer, Next::Listen);
            }
            let message: Vec<u8> = self.heard.drain(..kind_bytes + length).collect();
            let next = if self.has_started {
                reply(&message, &mut answer)
            } else {
                self.start(&message, &mut answer)
            };
            if next == Next::Close {
                return (answer, Next::Close);
            }
        }
    }

    fn start(&mut self, packet: &[u8], answer: &mut Vec<u8>) -> Next {
        match packet.get(HEADER..).and_then(leading_number) {
            Some(TLS | GSS) => answer.push(b'N'),
            None | Some(CANCEL) => return Next::Close,
            Some(_) => {
                self.has_started = true;
                say(answer, b'R', &0_u32.to_be_bytes());
                for (name, value) in [
                    ("server_version", "15.0"),
                    ("server_encoding", "UTF8"),
                    ("client_encoding", "UTF8"),
                    ("DateStyle", "ISO, MDY"),
                    ("TimeZone", "Etc/UTC"),
                    ("standard_conforming_strings", "on"),
                    ("application_name", ""),
                ] {
                    say(answer, b'S', format!("{name}\0{value}\0").as_bytes());
                }
                say(answer, b'K', &[0, 0, 0, 1, 0, 0, 0, 1]);
                say(answer, b'Z', b"I");
            }
        }
        Next::Listen
    }
}

fn reply(message: &[u8], answer: &mut Vec<u8>) -> Next {
    match message.first() {
        Some(b'X') => return Next::Close,
        Some(b'Q') => {
            say(answer, b'C', b"SELECT 0\0");
            say(answer, b'Z', b"I");
        }
        Some(b'S') => say(answer, b'Z', b"I"),
        _ => (),
    }
    Next::Listen
}

fn say(answer: &mut Vec<u8>, kind: u8, body: &[u8]) {
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    answer.push(kind);
    answer.extend_from_slice(&length.to_be_bytes());
    answer.extend_from_slice(body);
}

fn leading_number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STARTUP: &[u8] = b"\0\0\0\x13\0\x03\0\0user\0idle\0\0";
    const QUERY: &[u8] = b"Q\0\0\0\x0dselect 1\0";

    fn kinds(mut answer: &[u8]) -> String {
        let mut kinds = String::new();
        while let Some((kind, rest)) = answer.split_first() {
            kinds.push(char::from(*kind));
            let length = leading_number(rest).unwrap() as usize;
            answer = &rest[length..];
        }
        kinds
    }

    #[test]
    fn whoever_comes_is_let_in_and_every_query_is_answered() {
        let mut conversation = Conversation::default();
        assert_eq!(
            conversation.hear(b"\0\0\0\x08\x04\xd2\x16\x2f"),
            (b"N".to_vec(), Next::Listen)
        );
        let (welcome, next) = conversation.hear(STARTUP);
        assert_eq!(
            (kinds(&welcome).as_str(), next),
            ("RSSSSSSSKZ", Next::Listen)
        );
        let (answer, next) = conversation.hear(&[QUERY, QUERY].concat());
        assert_eq!((kinds(&answer).as_str(), next), ("CZCZ", Next::Listen));
        let goodbye = conversation.hear(b"X\0\0\0\x04");
        assert_eq!(goodbye, (Vec::new(), Next::Close));
    }

    #[test]
    fn how_the_bytes_are_cut_does_not_matter() {
        let stream = [STARTUP, QUERY].concat();
        let mut conversation = Conversation::default();
        let mut answers = Vec::new();
        for byte in &stream {
            let (answer, next) = conversation.hear(&[*byte]);
            assert_eq!(next, Next::Listen);
            answers.extend(answer);
        }
        assert_eq!(kinds(&answers), "RSSSSSSSKZCZ");
    }

    #[test]
    fn nonsense_ends_the_connection_and_is_not_collected() {
        for nonsense in [b"\0\0\0\x03".as_slice(), b"\x7f\0\0\0", b"\0\0\0\x04"] {
            let (answer, next) = Conversation::default().hear(nonsense);
            assert_eq!((answer, next), (Vec::new(), Next::Close), "{nonsense:?}");
        }
        let cancel = [16_u32.to_be_bytes(), CANCEL.to_be_bytes(), [0; 4], [0; 4]].concat();
        assert_eq!(Conversation::default().hear(&cancel).1, Next::Close);
    }
}
