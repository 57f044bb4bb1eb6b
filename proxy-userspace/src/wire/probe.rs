//! What has to hold for any bytes at all: the entry points of the fuzz targets in `fuzz/`, and of the unit test that
//! replays their corpus.
//!
//! Each function panics where something does not hold, and returns where it does. Nothing else calls them.

use std::time::Instant;

use super::backend::Backend;
use super::frame::{Framer, HEADER_BYTES, Piece};
use super::frontend::Frontend;
use super::login::LoginWatch;
use super::opening::{self, MAX_PACKET_BYTES};
use super::session::{Capture, Event, Session};

/// Small enough for a fuzzer to go beyond.
const CAPTURE: Capture = Capture {
    text_bytes: 24,
    parameter_bytes: Some(16),
};
/// AuthenticationOk and ReadyForQuery.
const LOGIN: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";

/// Openings: an answer depends on the bytes and not on how many more there are, and none needs more than the limit.
///
/// # Panics
/// When that does not hold.
pub fn startup(data: &[u8]) {
    let whole = opening::parse(data);
    if let Ok(Some(packet)) = &whole {
        assert!(packet.bytes <= data.len().min(MAX_PACKET_BYTES));
    }
    for end in 0..data.len() {
        let part = opening::parse(data.get(..end).unwrap_or_default());
        assert!(part == whole || part == Ok(None));
    }
    assert!(data.len() < MAX_PACKET_BYTES || whole != Ok(None));
}

/// The client's side: any cut tells the same, and what parses is built again as it was.
///
/// # Panics
/// When that does not hold.
pub fn frontend(data: &[u8]) {
    let Some((how, data)) = data.split_first() else {
        return;
    };
    let logged_in = how & 1 == 1;
    let answers: &[u8] = if how & 2 == 2 { ANSWERS } else { b"" };
    // The same for all, so that events can be compared.
    let now = Instant::now();
    let talk = |cut: usize| {
        let mut talk = Talk::new(logged_in, now);
        let (first, second) = data.split_at(cut.min(data.len()));
        talk.client(first);
        talk.client(second);
        talk.server(answers);
        talk.end()
    };
    let whole = talk(data.len());
    assert_eq!(whole, talk(usize::from(*how) / 4));
    assert_eq!(whole, talk(data.len() / 2));
    for_each_message(data, |kind, body| {
        if let Ok(message) = Frontend::parse(kind, body) {
            let mut built = Vec::new();
            assert_eq!(message.encode(&mut built), Ok(()));
            let body_again = built.get(HEADER_BYTES..).unwrap_or_default();
            assert_eq!(Frontend::parse(kind, body_again), Ok(message));
        }
    });
}

/// The server's side: any cut tells the same, no more is finished than was sent, and what parses is built again as it
/// was.
///
/// # Panics
/// When that does not hold.
pub fn backend(data: &[u8]) {
    let Some((how, data)) = data.split_first() else {
        return;
    };
    let logged_in = how & 1 == 1;
    let requests = REQUESTS
        .get(usize::from(how / 2) % REQUESTS.len())
        .copied()
        .unwrap_or_default();
    // The same for all, so that events can be compared.
    let now = Instant::now();
    let talk = |cut: usize| {
        let mut talk = Talk::new(logged_in, now);
        talk.client(requests);
        let (first, second) = data.split_at(cut.min(data.len()));
        talk.server(first);
        talk.server(second);
        talk.end()
    };
    let whole = talk(data.len());
    assert_eq!(whole, talk(usize::from(*how) / 4));
    assert_eq!(whole, talk(data.len() / 2));
    let mut sent = 0;
    for_each_message(requests, |_, _| sent += 1);
    let is_finished = |event: &&Event| matches!(event, Event::Finished(_));
    assert!(whole.iter().filter(is_finished).count() <= sent);
    let mut login = LoginWatch::new();
    data.chunks(3).for_each(|bytes| login.observe(bytes));
    for_each_message(data, |kind, body| {
        if let Ok(message) = Backend::parse(kind, body) {
            let mut built = Vec::new();
            assert_eq!(message.encode(&mut built), Ok(()));
            assert_eq!(built.get(HEADER_BYTES..), Some(body));
        }
    });
}

/// What a client may have sent before the server's bytes: a Query; a batch; a COPY by either protocol; much at once; a
/// COPY with batches behind it.
const REQUESTS: [&[u8]; 7] = [
    b"",
    b"Q\0\0\0\x0dselect 1\0",
    b"P\0\0\0\x0cs\0sql\0\0\0B\0\0\0\x0ep\0s\0\0\0\0\0\0\0D\0\0\0\x07Ss\0E\0\0\0\x0ap\0\0\0\0\0S\0\0\0\x04",
    b"Q\0\0\0\x09copy\0d\0\0\0\x06xxc\0\0\0\x04Q\0\0\0\x06a\0",
    b"P\0\0\0\x0b\0sql\0\0\0B\0\0\0\x0c\0\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04d\0\0\0\x06xx\
      c\0\0\0\x04S\0\0\0\x04",
    b"F\0\0\0\x0e\0\0\0\x01\0\0\0\0\0\0C\0\0\0\x06S\0H\0\0\0\x04S\0\0\0\x04S\0\0\0\x04!",
    b"P\0\0\0\x0b\0sql\0\0\0B\0\0\0\x0c\0\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04\
      P\0\0\0\x0b\0sql\0\0\0S\0\0\0\x04P\0\0\0\x0b\0sql\0\0\0S\0\0\0\x04Q\0\0\0\x06a\0",
];

/// Answers to a short batch, which what the client sent may or may not have been.
const ANSWERS: &[u8] = b"1\0\0\0\x042\0\0\0\x04C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I";

struct Talk {
    session: Session,
    now: Instant,
    events: Vec<Event>,
}

impl Talk {
    fn new(logged_in: bool, now: Instant) -> Self {
        let mut talk = Self {
            session: Session::new(CAPTURE),
            now,
            events: Vec::new(),
        };
        if logged_in {
            talk.server(LOGIN);
        }
        talk
    }

    fn client(&mut self, bytes: &[u8]) {
        let events = &mut self.events;
        self.session
            .client_sent(bytes, self.now, &mut |event| events.push(event));
    }

    fn server(&mut self, bytes: &[u8]) {
        let events = &mut self.events;
        self.session
            .server_sent(bytes, self.now, &mut |event| events.push(event));
    }

    /// The events; a violation is the last of them.
    fn end(mut self) -> Vec<Event> {
        let events = &mut self.events;
        self.session.end(self.now, &mut |event| events.push(event));
        let is_violation = |event: &Event| matches!(event, Event::Violation(_));
        let violation = self.events.iter().position(is_violation);
        assert!(violation.is_none_or(|at| at + 1 == self.events.len()));
        self.events
    }
}

/// The whole messages of a stream.
fn for_each_message(mut data: &[u8], mut look: impl FnMut(u8, &[u8])) {
    let mut framer = Framer::new();
    let mut kind = 0;
    while let Some(piece) = framer.next(&mut data) {
        match piece {
            Piece::Header(header) => kind = header.kind,
            Piece::Body { bytes, last: true } => look(kind, bytes),
            Piece::Body { last: false, .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    /// Every input that a fuzzer found worth keeping.
    fn replay(target: &str, probe: fn(&[u8])) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fuzz/corpus")
            .join(target);
        let inputs: Vec<_> = fs::read_dir(&corpus)
            .unwrap_or_else(|error| panic!("{}: {error}", corpus.display()))
            .map(|entry| entry.unwrap().path())
            .collect();
        assert!(inputs.len() > 10, "{} holds too little", corpus.display());
        for input in inputs {
            println!("{}", input.display());
            probe(&fs::read(&input).unwrap());
        }
    }

    #[test]
    fn openings_hold_for_the_whole_corpus() {
        replay("startup", super::startup);
    }

    #[test]
    fn the_clients_side_holds_for_the_whole_corpus() {
        replay("frontend", super::frontend);
    }

    #[test]
    fn the_servers_side_holds_for_the_whole_corpus() {
        replay("backend", super::backend);
    }
}
