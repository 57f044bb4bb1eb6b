//! Watches what the server says until the login is decided: accepted, rejected, or cut off.
//!
//! Only headers are read, and the first bytes of three kinds of message; nothing is held back. Once the outcome is
//! known the watch is done and costs nothing.

/// The header of a backend message: type and length.
const HEADER_BYTES: usize = 5;
/// How much of a message's body is looked at: enough for the SQLSTATE, which every server version sends within its
/// first fields.
const MAX_BODY_BYTES: usize = 256;
/// `AuthenticationOk` (protocol documentation, "Message Formats").
const AUTHENTICATION_OK: [u8; 4] = [0; 4];

/// How the server answered the login.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LoginOutcome {
    /// No answer has been seen (yet).
    #[default]
    Unanswered,
    /// AuthenticationOk and ReadyForQuery.
    Accepted,
    /// ErrorResponse before ReadyForQuery.
    Rejected {
        /// Its SQLSTATE, where it has one.
        sqlstate: Option<String>,
    },
    /// The bytes are not protocol 3 messages; what they mean is not known.
    Opaque,
}

/// The watch over one login.
#[derive(Debug, Default)]
pub struct LoginWatch {
    outcome: LoginOutcome,
    authenticated: bool,
    backend_pid: Option<u32>,
    /// Header and first body bytes of the message being read.
    seen: Vec<u8>,
    /// Body bytes of that message still to come beyond those in `seen`.
    skip: usize,
    done: bool,
}

impl LoginWatch {
    /// Starts watching.
    pub fn new() -> Self {
        Self::default()
    }

    /// A watch over a login that encryption hides: there is nothing to learn.
    pub fn hidden() -> Self {
        let mut watch = Self::new();
        watch.finish(LoginOutcome::Opaque);
        watch
    }

    /// How the login went.
    pub fn outcome(&self) -> &LoginOutcome {
        &self.outcome
    }

    /// The server process, as BackendKeyData named it.
    pub fn backend_pid(&self) -> Option<u32> {
        self.backend_pid
    }

    /// Whether there is nothing more to learn.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Takes the next bytes the server sent, cut anywhere.
    pub fn observe(&mut self, mut bytes: &[u8]) {
        while !self.done && !bytes.is_empty() {
            bytes = if self.skip > 0 {
                self.skip_body(bytes)
            } else {
                self.read_message(bytes)
            };
        }
    }

    fn skip_body<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        bytes.get(skipped..).unwrap_or_default()
    }

    /// Collects a message's header and the part of its body that matters; handles it when both are there.
    fn read_message<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        const MOST: usize = HEADER_BYTES + MAX_BODY_BYTES;
        let wanted = match self.message_bytes() {
            Some(Ok(total)) => total.min(MOST),
            Some(Err(())) | None => HEADER_BYTES,
        };
        let (taken, rest) = bytes.split_at(wanted.saturating_sub(self.seen.len()).min(bytes.len()));
        self.seen.extend_from_slice(taken);
        match self.message_bytes() {
            Some(Err(())) => self.finish(LoginOutcome::Opaque),
            Some(Ok(total)) if self.seen.len() == total.min(MOST) => {
                self.skip = total - self.seen.len();
                self.handle_message();
                self.seen.clear();
            }
            _ => {}
        }
        rest
    }

    /// The size of the message whose header is in `seen`: `None` until the header is complete, an error when no
    /// server would send it.
    fn message_bytes(&self) -> Option<Result<usize, ()>> {
        let [kind, a, b, c, d] = *self.seen.first_chunk::<HEADER_BYTES>()?;
        let length = u32::from_be_bytes([a, b, c, d]);
        let is_known = matches!(kind, b'R' | b'E' | b'N' | b'S' | b'K' | b'Z' | b'v');
        match usize::try_from(length) {
            Ok(length) if is_known && length >= 4 => Some(Ok(length.saturating_add(1))),
            _ => Some(Err(())),
        }
    }

    fn handle_message(&mut self) {
        let Some((header, body)) = self.seen.split_first_chunk::<HEADER_BYTES>() else {
            return;
        };
        match header[0] {
            b'R' if body == AUTHENTICATION_OK => self.authenticated = true,
            b'K' => {
                self.backend_pid = body.first_chunk::<4>().map(|raw| u32::from_be_bytes(*raw));
            }
            b'E' => {
                let sqlstate = sqlstate(body);
                self.finish(LoginOutcome::Rejected { sqlstate });
            }
            b'Z' if self.authenticated => self.finish(LoginOutcome::Accepted),
            b'Z' => self.finish(LoginOutcome::Opaque),
            _ => {}
        }
    }

    fn finish(&mut self, outcome: LoginOutcome) {
        self.outcome = outcome;
        self.done = true;
        self.seen = Vec::new();
    }
}

/// The `C` field of an ErrorResponse body, if it lies within the bytes at hand and looks like a SQLSTATE.
fn sqlstate(body: &[u8]) -> Option<String> {
    let mut fields = body.split(|byte| *byte == 0);
    let value = fields.find_map(|field| field.strip_prefix(b"C"))?;
    let is_code = value.len() == 5
        && value
            .iter()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    is_code.then(|| String::from_utf8_lossy(value).into_owned())
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

    /// Runs a stream through the watch in one piece and byte by byte; both must agree.
    fn watch(stream: &[u8]) -> LoginWatch {
        let mut whole = LoginWatch::new();
        whole.observe(stream);
        let mut bytewise = LoginWatch::new();
        stream.chunks(1).for_each(|byte| bytewise.observe(byte));
        assert_eq!(whole.outcome(), bytewise.outcome());
        assert_eq!(whole.backend_pid(), bytewise.backend_pid());
        whole
    }

    fn accepted_login() -> Vec<u8> {
        let mut stream = message(b'R', &[0, 0, 0, 10, b'S', 0, 0]);
        stream.extend(message(b'R', &[0, 0, 0, 11, b'x']));
        stream.extend(message(b'R', &[0, 0, 0, 0]));
        stream.extend(message(b'N', &[b'x'; 5000]));
        stream.extend(message(b'S', b"a\0b\0"));
        stream.extend(message(b'K', &[0, 0, 1, 2, 9, 9, 9, 9]));
        stream.extend(message(b'Z', b"I"));
        stream
    }

    #[test]
    fn a_login_is_accepted_at_ready_for_query_and_the_backend_is_known() {
        let stream = accepted_login();
        let login = watch(&stream);
        assert_eq!(login.outcome(), &LoginOutcome::Accepted);
        assert_eq!(login.backend_pid(), Some(258));
        let before_ready = watch(&stream[..stream.len() - 1]);
        assert_eq!(before_ready.outcome(), &LoginOutcome::Unanswered);
    }

    #[test]
    fn an_error_before_ready_for_query_is_a_rejection_with_its_sqlstate() {
        let mut after_ok = message(b'R', &[0, 0, 0, 0]);
        after_ok.extend(message(
            b'E',
            b"SFATAL\0VFATAL\0C3D000\0Mno such database\0\0",
        ));
        let cases = [
            (message(b'E', b"SFATAL\0C28P01\0Mwrong\0\0"), Some("28P01")),
            (message(b'E', b"SFATAL\0Mno state\0\0"), None),
            (message(b'E', b""), None),
            (message(b'E', b"Cshort\0\0"), None),
            (after_ok, Some("3D000")),
        ];
        for (stream, sqlstate) in cases {
            let expected = LoginOutcome::Rejected {
                sqlstate: sqlstate.map(str::to_owned),
            };
            assert_eq!(watch(&stream).outcome(), &expected);
        }
    }

    #[test]
    fn what_is_not_protocol_three_is_opaque_and_ends_the_watch() {
        let streams = [
            b"HTTP/1.1 400".to_vec(),
            message(b'Z', b"I"),
            vec![b'R', 0, 0, 0, 3],
            vec![0x15, 3, 3, 0, 2],
        ];
        for stream in streams {
            let login = watch(&stream);
            assert_eq!(login.outcome(), &LoginOutcome::Opaque, "{stream:?}");
            assert!(login.is_done());
        }
    }

    #[test]
    fn a_promised_gigabyte_is_not_allocated() {
        let mut login = LoginWatch::new();
        login.observe(&[b'N', 0x3f, 0xff, 0xff, 0xff]);
        for _ in 0..1000 {
            login.observe(&[0; 1000]);
        }
        assert!(login.seen.capacity() < 1024);
        assert!(!login.is_done());
    }
}
