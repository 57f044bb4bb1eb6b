//! Any valid session, cut and interleaved in any way that a network could, tells the same.

mod exchange;

use std::time::Instant;

use proptest::collection::vec;
use proptest::prelude::*;

use super::transcript::{CAPTURE, LOGIN, describe, feed};
use crate::wire::session::{Event, Session};
use exchange::{Exchange, Phase, exchange};

/// What a session told: messages in one list, settings in another, since how far the client is ahead decides where a
/// skipped message stands between the server's settings.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    messages: Vec<String>,
    others: Vec<String>,
}

impl Told {
    fn note(&mut self, event: &Event) {
        let line = describe(event);
        match event {
            Event::Finished(_) => self.messages.push(without_aborted_bytes(&line)),
            _ => self.others.push(line),
        }
    }
}

/// Of a COPY that failed, how much of the client's data came before the error is the network's business.
fn without_aborted_bytes(line: &str) -> String {
    match (line.contains(": Failed"), line.split_once(" In(")) {
        (true, Some((before, after))) => {
            let rest = after.split_once(')').map_or("", |(_, rest)| rest);
            format!("{before}{rest}")
        }
        _ => line.to_owned(),
    }
}

/// Delivers both streams in pieces of the sizes given, over and over. The server is never ahead of what it answers.
fn deliver(phases: &[Phase], sizes: &[(bool, usize)]) -> Told {
    let mut session = Session::new(CAPTURE);
    let mut told = Told::default();
    LOGIN.iter().for_each(|line| {
        feed(&mut session, line, usize::MAX, &mut |event| {
            told.note(&event)
        })
    });
    let client: Vec<u8> = phases
        .iter()
        .flat_map(|phase| phase.client.clone())
        .collect();
    let server: Vec<u8> = phases
        .iter()
        .flat_map(|phase| phase.server.clone())
        .collect();
    let (mut sent, mut answered) = (0, 0);
    let mut sizes = sizes.iter().cycle();
    while sent < client.len() || answered < server.len() {
        let (by_client, size) = *sizes.next().unwrap();
        let may_answer = answerable(phases, sent);
        if (by_client || answered == may_answer) && sent < client.len() {
            let end = client.len().min(sent + size);
            session.client_sent(&client[sent..end], Instant::now(), &mut |event| {
                told.note(&event);
            });
            sent = end;
        } else {
            let end = may_answer.min(answered + size);
            session.server_sent(&server[answered..end], Instant::now(), &mut |event| {
                told.note(&event);
            });
            answered = end;
        }
    }
    session.end(Instant::now(), &mut |event| told.note(&event));
    told
}

/// How much the server can have answered when so much of the client's bytes has reached it.
fn answerable(phases: &[Phase], sent: usize) -> usize {
    let (mut client, mut server) = (0, 0);
    for phase in phases {
        client += phase.client.len();
        if client > sent {
            break;
        }
        server += phase.server.len();
    }
    server
}

fn expected(exchanges: &[Exchange]) -> Vec<String> {
    let lines = exchanges.iter().flat_map(|exchange| &exchange.told);
    lines.map(|line| without_aborted_bytes(line)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_segmentation_of_a_valid_session_tells_what_happened(
        exchanges in vec(exchange(), 1..12),
        sizes in vec((any::<bool>(), 1_usize..60), 1..40),
    ) {
        let phases: Vec<Phase> = exchanges.iter().flat_map(|one| one.phases.clone()).collect();
        let told = deliver(&phases, &sizes);
        prop_assert_eq!(&told.messages, &expected(&exchanges));
        let in_turn = deliver(&phases, &[(false, usize::MAX / 2)]);
        prop_assert_eq!(told, in_turn);
    }

    /// Neither a panic nor an event behind a violation, whatever either side sends.
    #[test]
    fn any_bytes_at_all_end_in_order(
        pieces in vec((any::<bool>(), vec(any::<u8>(), 0..40)), 0..30),
        logged_in in any::<bool>(),
    ) {
        let mut session = Session::new(CAPTURE);
        let mut events = Vec::new();
        if logged_in {
            LOGIN.iter().for_each(|line| feed(&mut session, line, usize::MAX, &mut |_| {}));
        }
        for (by_client, bytes) in pieces {
            let mut note = |event| events.push(event);
            if by_client {
                session.client_sent(&bytes, Instant::now(), &mut note);
            } else {
                session.server_sent(&bytes, Instant::now(), &mut note);
            }
        }
        session.end(Instant::now(), &mut |event| events.push(event));
        let violation = events.iter().position(|event| matches!(event, Event::Violation(_)));
        prop_assert!(violation.is_none_or(|at| at + 1 == events.len()), "{:?}", events);
    }
}
