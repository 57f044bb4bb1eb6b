//! Recorded traffic: whole answers and whole batches, as a server and a client send them.

/// What one side sent before the other one's turn.
pub(crate) struct Turn {
    pub(crate) by_client: bool,
    pub(crate) bytes: Vec<u8>,
}

/// A part of a session that can be repeated.
pub(crate) struct Stream {
    pub(crate) name: &'static str,
    /// In words, for people.
    pub(crate) what: &'static str,
    /// What has to come before it, once.
    pub(crate) before: Vec<Turn>,
    pub(crate) turns: Vec<Turn>,
}

impl Stream {
    /// Bytes of both sides.
    pub(crate) fn bytes(&self) -> usize {
        self.turns.iter().map(|turn| turn.bytes.len()).sum()
    }
}

/// Every stream.
pub(crate) const ALL: [fn() -> Stream; 4] = [rows, queries, copy_out, prepared];

/// The stream of that name.
pub(crate) fn named(name: &str) -> Stream {
    ALL.iter()
        .map(|stream| stream())
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

fn client(bytes: Vec<u8>) -> Turn {
    Turn {
        by_client: true,
        bytes,
    }
}

fn server(bytes: Vec<u8>) -> Turn {
    Turn {
        by_client: false,
        bytes,
    }
}

const ROW_DESCRIPTION: &[u8] = b"\0\x01?column?\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0";

/// One Query with a result of a megabyte.
fn rows() -> Stream {
    let row = data_row();
    assert_eq!(row.len(), 100);
    let mut answer = message(b'T', ROW_DESCRIPTION);
    answer.extend(row.repeat(10_000));
    answer.extend(message(b'C', b"SELECT 10000\0"));
    answer.extend(message(b'Z', b"I"));
    Stream {
        name: "rows",
        what: "100-byte DataRows, 1 MB",
        before: Vec::new(),
        turns: vec![client(message(b'Q', b"select * from t\0")), server(answer)],
    }
}

/// Queries of 1 KB, one after the other, each with its answer: one row.
fn queries() -> Stream {
    let text = [&[b'x'; 1018], b"\0".as_slice()].concat();
    let query = message(b'Q', &text);
    let answer = [
        message(b'T', ROW_DESCRIPTION),
        message(b'D', b"\0\x01\0\0\0\x011"),
        message(b'C', b"SELECT 1\0"),
        message(b'Z', b"I"),
    ]
    .concat();
    let turn = || [client(query.clone()), server(answer.clone())];
    Stream {
        name: "queries",
        what: "1 KB Query and its answer, 1 MB",
        before: Vec::new(),
        turns: (0..960).flat_map(|_| turn()).collect(),
    }
}

/// A COPY of a megabyte of 100-byte lines.
fn copy_out() -> Stream {
    let mut answer = message(b'H', &[0, 0, 0]);
    answer.extend(message(b'd', &[b'x'; 95]).repeat(10_000));
    answer.extend(message(b'c', b""));
    answer.extend(message(b'C', b"COPY 10000\0"));
    answer.extend(message(b'Z', b"I"));
    Stream {
        name: "copy out",
        what: "100-byte CopyData, 1 MB",
        before: Vec::new(),
        turns: vec![client(message(b'Q', b"copy t to stdout\0")), server(answer)],
    }
}

/// Short batches of a prepared statement: the most messages for their bytes.
fn prepared() -> Stream {
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
    let turn = || [client(batch.clone()), server(answer.clone())];
    Stream {
        name: "prepared",
        what: "Bind, Describe, Execute, Sync",
        before: vec![client(parse.concat()), server(parsed.concat())],
        turns: (0..2_000).flat_map(|_| turn()).collect(),
    }
}
