//! Recorded traffic: whole answers and whole batches, as a server and a client send them.

use std::ops::Range;

/// What one side sent before the other one's turn.
pub(crate) struct Turn {
    pub(crate) by_client: bool,
    /// Where it is in the recording.
    pub(crate) place: Range<usize>,
}

/// A recorded part of a session, which can be repeated.
pub(crate) struct Stream {
    pub(crate) name: &'static str,
    /// In words, for people.
    pub(crate) what: &'static str,
    /// What the client and the server have to send before it, once.
    pub(crate) before: (Vec<u8>, Vec<u8>),
    /// Everything both sides sent, in its order.
    pub(crate) bytes: Vec<u8>,
    pub(crate) turns: Vec<Turn>,
}

impl Stream {
    fn new(name: &'static str, what: &'static str) -> Self {
        Self {
            name,
            what,
            before: (Vec::new(), Vec::new()),
            bytes: Vec::new(),
            turns: Vec::new(),
        }
    }

    /// Records an exchange until so many bytes are reached.
    fn filled(mut self, bytes: usize, client: &[u8], server: &[u8]) -> Self {
        while self.bytes.len() < bytes {
            for (by_client, sent) in [(true, client), (false, server)] {
                let begin = self.bytes.len();
                self.bytes.extend_from_slice(sent);
                let place = begin..self.bytes.len();
                self.turns.push(Turn { by_client, place });
            }
        }
        self
    }
}

/// Every stream, so many bytes of each.
pub(crate) const ALL: [fn(usize) -> Stream; 4] = [rows, queries, copy_out, prepared];

/// The stream of that name.
pub(crate) fn named(name: &str, bytes: usize) -> Stream {
    ALL.iter()
        .map(|stream| stream(bytes))
        .find(|stream| stream.name == name)
        .unwrap()
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[kind], length.to_be_bytes().as_slice(), body].concat()
}

/// Four columns, 100 bytes with its header.
fn data_row() -> Vec<u8> {
    let value = [&19_u32.to_be_bytes(), [b'7'; 19].as_slice()].concat();
    let mut body = vec![0, 4];
    body.extend(value.repeat(4));
    body.push(0);
    // One byte more, in the last value's length.
    body[2 + 3 * 23 + 3] = 20;
    message(b'D', &body)
}

const ROW_DESCRIPTION: &[u8] = b"\0\x01?column?\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0";

/// Queries with results of a megabyte.
fn rows(bytes: usize) -> Stream {
    let row = data_row();
    assert_eq!(row.len(), 100);
    let mut answer = message(b'T', ROW_DESCRIPTION);
    answer.extend(row.repeat(10_000));
    answer.extend(message(b'C', b"SELECT 10000\0"));
    answer.extend(message(b'Z', b"I"));
    let query = message(b'Q', b"select * from t\0");
    Stream::new("rows", "100-byte DataRows").filled(bytes, &query, &answer)
}

/// Queries of 1 KB, one after the other, each with its answer: one row.
fn queries(bytes: usize) -> Stream {
    let text = [&[b'x'; 1018], b"\0".as_slice()].concat();
    let answer = [
        message(b'T', ROW_DESCRIPTION),
        message(b'D', b"\0\x01\0\0\0\x011"),
        message(b'C', b"SELECT 1\0"),
        message(b'Z', b"I"),
    ]
    .concat();
    let query = message(b'Q', &text);
    Stream::new("queries", "1 KB Query and its answer").filled(bytes, &query, &answer)
}

/// COPYs of a megabyte of 100-byte lines.
fn copy_out(bytes: usize) -> Stream {
    let mut answer = message(b'H', &[0, 0, 0]);
    answer.extend(message(b'd', &[b'x'; 95]).repeat(10_000));
    answer.extend(message(b'c', b""));
    answer.extend(message(b'C', b"COPY 10000\0"));
    answer.extend(message(b'Z', b"I"));
    let query = message(b'Q', b"copy t to stdout\0");
    Stream::new("copy out", "100-byte CopyData").filled(bytes, &query, &answer)
}

/// Short batches of a prepared statement: the most messages for their bytes.
fn prepared(bytes: usize) -> Stream {
    let parse = [
        message(b'P', b"s1\0select abalance from t where id = $1\0\0\0"),
        message(b'S', b""),
    ];
    let parsed = [message(b'1', b""), message(b'Z', b"I")];
    let batch = [
        message(b'B', b"\0s1\0\0\0\0\x01\0\0\0\x0512345\0\x01\0\0"),
        message(b'D', b"P\0"),
        message(b'E', b"\0\0\0\0\0"),
        message(b'S', b""),
    ]
    .concat();
    let answer = [
        message(b'2', b""),
        message(b'T', ROW_DESCRIPTION),
        message(b'D', b"\0\x01\0\0\0\x0242"),
        message(b'C', b"SELECT 1\0"),
        message(b'Z', b"I"),
    ]
    .concat();
    let mut stream = Stream::new("prepared", "Bind, Describe, Execute, Sync");
    stream.before = (parse.concat(), parsed.concat());
    stream.filled(bytes, &batch, &answer)
}
