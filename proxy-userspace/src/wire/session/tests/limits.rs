//! What is kept, and what is not any more.

use std::time::Instant;

use super::transcript::{CAPTURE, LOGIN, describe, feed, from_client, from_server, message};
use crate::wire::session::answer::MAX_COPIES;
use crate::wire::session::fields::MAX_PARAMETER_TYPES;
use crate::wire::session::held::MAX_HELD;
use crate::wire::session::queue::{FULL_PENDING, MAX_PENDING, MAX_PENDING_BYTES};
use crate::wire::session::tags::MAX_TAGS;
use crate::wire::session::{Capture, Event, Finished, Session, Subject, Text, Violation};

fn session(capture: Capture) -> Session {
    let mut session = Session::new(capture);
    LOGIN
        .iter()
        .for_each(|line| feed(&mut session, line, usize::MAX, &mut |_| {}));
    session
}

fn finished(events: Vec<Event>) -> Vec<Finished> {
    let only = |event| match event {
        Event::Finished(finished) => Some(*finished),
        _ => None,
    };
    events.into_iter().filter_map(only).collect()
}

fn query_text(finished: &Finished) -> &Text {
    match &finished.subject {
        Subject::Query { text } => text,
        other => panic!("no query: {other:?}"),
    }
}

#[test]
fn a_query_of_a_gigabyte_passes_in_constant_memory() {
    let mut session = session(CAPTURE);
    let chunk = vec![b'x'; 1 << 20];
    let body = 64 * chunk.len() + 1;
    let mut events = Vec::new();
    let header = [
        b"Q".as_slice(),
        &u32::try_from(body + 4).unwrap().to_be_bytes(),
    ]
    .concat();
    session.client_sent(&header, Instant::now(), &mut |event| events.push(event));
    for _ in 0..64 {
        session.client_sent(&chunk, Instant::now(), &mut |event| events.push(event));
    }
    session.client_sent(b"\0", Instant::now(), &mut |event| events.push(event));
    session.end(Instant::now(), &mut |event| events.push(event));
    let finished = finished(events);
    let text = query_text(&finished[0]);
    assert_eq!(text.kept.len(), CAPTURE.text_bytes);
    assert_eq!(text.length, body as u64 - 1);
    assert!(!text.is_whole());
}

#[test]
fn a_batch_longer_than_what_is_held_is_told_before_it_is_ready() {
    let mut session = session(CAPTURE);
    let mut events = Vec::new();
    for _ in 0..=MAX_HELD {
        feed(&mut session, "> P \"\" a", 100, &mut |event| {
            events.push(event)
        });
        assert_eq!(events.len(), 0);
        feed(&mut session, "< 1", 100, &mut |event| events.push(event));
        if !events.is_empty() {
            break;
        }
    }
    assert_eq!(events.len(), 1);
    feed(&mut session, "> S", 100, &mut |event| events.push(event));
    feed(&mut session, "< Z I", 100, &mut |event| events.push(event));
    let finished = finished(events);
    assert_eq!(finished.len(), MAX_HELD + 1);
    let is_ready: Vec<bool> = finished.iter().map(|one| one.ready.is_some()).collect();
    assert!(!is_ready[0] && is_ready[1..].iter().all(|ready| *ready));
}

#[test]
fn texts_sent_too_far_ahead_leave_their_length_and_hash() {
    let text_bytes = MAX_PENDING_BYTES / 2;
    let mut session = session(Capture {
        text_bytes,
        parameter_bytes: None,
    });
    let mut events = Vec::new();
    let text = "x".repeat(text_bytes);
    for _ in 0..3 {
        let bytes = from_client(&format!("Q {text}"));
        session.client_sent(&bytes, Instant::now(), &mut |event| events.push(event));
    }
    session.end(Instant::now(), &mut |event| events.push(event));
    let finished = finished(events);
    let texts: Vec<&Text> = finished.iter().map(query_text).collect();
    assert!(texts[0].is_whole() && texts[1].is_whole());
    assert_eq!(
        (texts[2].kept.len(), texts[2].length),
        (0, text_bytes as u64)
    );
    assert!(texts[2].sha256.is_some());
}

#[test]
fn a_client_too_far_ahead_is_said_to_be_and_then_not_followed() {
    let mut session = session(CAPTURE);
    let mut events = Vec::new();
    let close = from_client("C S s");
    for _ in 0..FULL_PENDING {
        assert!(!session.is_full());
        session.client_sent(&close, Instant::now(), &mut |event| events.push(event));
    }
    assert!(session.is_full());
    for _ in FULL_PENDING..MAX_PENDING {
        session.client_sent(&close, Instant::now(), &mut |event| events.push(event));
    }
    assert_eq!(events.len(), 0);
    session.client_sent(&close, Instant::now(), &mut |event| events.push(event));
    assert_eq!(events.len(), MAX_PENDING + 1);
    assert_eq!(
        events.last(),
        Some(&Event::Violation(Violation::TooManyPending))
    );
}

#[test]
fn answers_make_room_again() {
    let mut session = session(CAPTURE);
    for _ in 0..FULL_PENDING {
        feed(&mut session, "> C S s", 100, &mut |_| {});
    }
    assert!(session.is_full());
    feed(&mut session, "< 3", 100, &mut |_| {});
    assert!(!session.is_full());
}

#[test]
fn copy_data_sent_ahead_takes_one_place_however_much_it_is() {
    let mut session = session(CAPTURE);
    feed(&mut session, "> Q copy t from stdin", 100, &mut |_| {});
    for _ in 0..2 * MAX_PENDING {
        feed(&mut session, "> d 1", 100, &mut |event| {
            panic!("{}", describe(&event))
        });
    }
    assert!(!session.is_full());
}

#[test]
fn tags_and_copies_beyond_those_kept_are_counted() {
    let mut session = session(CAPTURE);
    let mut events = Vec::new();
    feed(&mut session, "> Q many", 100, &mut |_| {});
    for _ in 0..=MAX_TAGS.max(MAX_COPIES) {
        for line in ["< H", "< d 1", "< c", "< C COPY 1"] {
            feed(&mut session, line, 100, &mut |_| {});
        }
    }
    feed(&mut session, "< Z I", 100, &mut |event| events.push(event));
    let outcome = &finished(events)[0].outcome;
    assert_eq!((outcome.tags.len(), outcome.more_tags), (MAX_TAGS, 1));
    assert_eq!(outcome.more_affected, Some(1));
    assert_eq!(outcome.copies.len(), MAX_COPIES);
    assert_eq!(outcome.copies.last().unwrap().bytes_from_server, 2);
}

#[test]
fn an_error_message_is_cut_and_a_long_row_is_not_kept() {
    let mut session = session(CAPTURE);
    let mut events = Vec::new();
    feed(&mut session, "> Q select", 100, &mut |_| {});
    let header = [b"D".as_slice(), &0x3fff_ffff_u32.to_be_bytes()].concat();
    session.server_sent(&header, Instant::now(), &mut |_| {});
    let chunk = vec![0; 1 << 20];
    let mut left = 0x3fff_ffff - 4;
    while left > 0 {
        let now = left.min(chunk.len());
        session.server_sent(&chunk[..now], Instant::now(), &mut |_| {});
        left -= now;
    }
    let error = from_server(&format!("E ERROR 22000 {}", "m".repeat(10_000)));
    session.server_sent(&error, Instant::now(), &mut |event| events.push(event));
    session.server_sent(&message(b'Z', b"I"), Instant::now(), &mut |event| {
        events.push(event)
    });
    let outcome = &finished(events)[0].outcome;
    assert_eq!(outcome.rows, 1);
    let error = outcome.error.as_ref().unwrap();
    assert_eq!(error.sqlstate.as_deref(), Some("22000"));
    assert_eq!(error.message.len(), 2048);
}

/// A Parse without a name that names so many parameter types, the first of them 0, and has bytes behind them.
fn parse(types: u16, behind: &[u8]) -> Vec<u8> {
    let mut body = b"\0select 1\0".to_vec();
    body.extend(types.to_be_bytes());
    body.extend((0..u32::from(types)).flat_map(u32::to_be_bytes));
    body.extend(behind);
    message(b'P', &body)
}

fn types_of(finished: &Finished) -> &[u32] {
    match &finished.subject {
        Subject::Parse { prepared } => &prepared.parameter_types,
        other => panic!("no parse: {other:?}"),
    }
}

#[test]
fn of_very_many_parameter_types_the_first_are_kept_and_all_are_counted() {
    let many = u16::MAX;
    let most = u16::try_from(MAX_PARAMETER_TYPES).unwrap();
    let cases: [(u16, &[u8], usize, bool); 6] = [
        (0, b"", 0, false),
        (most, b"", MAX_PARAMETER_TYPES, false),
        (most + 1, b"", MAX_PARAMETER_TYPES, false),
        (many, b"", MAX_PARAMETER_TYPES, false),
        (many, b"x", 0, true),
        (1, b"\0\0\0\0", 0, true),
    ];
    for (types, behind, kept, malformed) in cases {
        for chunk in [usize::MAX, 1000] {
            let mut session = session(CAPTURE);
            let mut events = Vec::new();
            for bytes in parse(types, behind).chunks(chunk) {
                session.client_sent(bytes, Instant::now(), &mut |event| events.push(event));
            }
            session.end(Instant::now(), &mut |event| events.push(event));
            let finished = &finished(events)[0];
            let expected: Vec<u32> = (0..).take(kept).collect();
            assert_eq!(types_of(finished), expected, "{types} {behind:?}");
            assert_eq!(finished.malformed, malformed, "{types} {behind:?}");
        }
    }
}

#[test]
fn types_sent_too_far_ahead_are_dropped() {
    let mut session = session(CAPTURE);
    let parse = parse(256, b"");
    let fit = MAX_PENDING_BYTES / (4 * MAX_PARAMETER_TYPES);
    let mut events = Vec::new();
    for _ in 0..2 * fit {
        session.client_sent(&parse, Instant::now(), &mut |event| events.push(event));
    }
    session.end(Instant::now(), &mut |event| events.push(event));
    let finished = finished(events);
    assert_eq!(types_of(&finished[0]).len(), MAX_PARAMETER_TYPES);
    assert_eq!(types_of(&finished[fit]).len(), 0);
    let kept = finished.iter().map(|one| one.subject.kept_bytes());
    assert!(kept.sum::<usize>() <= MAX_PENDING_BYTES);
}
