//! Peers that break the protocol.

use std::time::Instant;

use super::transcript::{CAPTURE, LOGIN, feed, play};
use crate::wire::session::{Event, Session, Violation};

#[test]
fn a_client_of_another_protocol_is_a_violation_after_which_nothing_is_told() {
    let told = play(&[
        "> Q select 1",
        "> ! what",
        "> Q select 2",
        "< C SELECT 1",
        "< Z I",
    ]);
    assert_eq!(
        told,
        [
            "Query select 1: Completed [SELECT 1] @Idle",
            "Violation FrontendType(33)",
        ]
    );
}

/// What came before it has run: the server answers that first.
#[test]
fn a_violation_of_the_clients_does_not_hide_what_it_sent_before() {
    let told = play(&["> Q drop table t", "> ! what", "< C DROP TABLE", "< Z I"]);
    assert_eq!(told[0], "Query drop table t: Completed [DROP TABLE] @Idle");
    let told = play(&["> Q drop table t", "> ! what"]);
    assert_eq!(
        told,
        [
            "Query drop table t: Unanswered",
            "Violation FrontendType(33)"
        ]
    );
    let told = play(&[
        "> P \"\" bad",
        "> B \"\" \"\"",
        "> ! what",
        "< E ERROR 42601 syntax",
    ]);
    assert_eq!(
        told,
        [
            "Parse =bad: Failed (ERROR 42601 syntax)",
            "Bind <(bad): NotRun",
            "Violation FrontendType(33)",
        ]
    );
}

#[test]
fn a_password_message_is_known_during_the_login_only() {
    assert_eq!(play(&["> p secret"]), ["Violation FrontendType(112)"]);
}

fn violation(from_client: bool, bytes: &[u8]) -> Option<Violation> {
    let mut session = Session::new(CAPTURE);
    let mut found = None;
    let mut note = |event| {
        if let Event::Violation(violation) = event {
            found = Some(violation);
        }
    };
    LOGIN
        .iter()
        .for_each(|line| feed(&mut session, line, usize::MAX, &mut note));
    if from_client {
        session.client_sent(bytes, Instant::now(), &mut note);
    } else {
        session.server_sent(bytes, Instant::now(), &mut note);
    }
    found
}

#[test]
fn lengths_are_checked_on_both_sides_of_the_servers_limits() {
    let header = |kind: u8, length: u32| [&[kind], length.to_be_bytes().as_slice()].concat();
    for (kind, most) in [
        (b'Q', 0x3fff_fffe),
        (b'd', 0x3fff_fffe),
        (b'E', 10_000),
        (b'S', 10_000),
    ] {
        assert_eq!(violation(true, &header(kind, most)), None);
        let length = most + 1;
        let expected = Violation::FrontendLength { kind, length };
        assert_eq!(violation(true, &header(kind, length)), Some(expected));
        let expected = Violation::FrontendLength { kind, length: 3 };
        assert_eq!(violation(true, &header(kind, 3)), Some(expected));
    }
    assert_eq!(violation(false, &header(b'N', 0x3fff_ffff)), None);
    for length in [0x4000_0000, 3] {
        let expected = Violation::BackendLength { kind: b'N', length };
        assert_eq!(violation(false, &header(b'N', length)), Some(expected));
    }
    assert_eq!(
        violation(false, b"?\0\0\0\x04"),
        Some(Violation::BackendType(b'?'))
    );
}

#[test]
fn a_server_that_answers_what_nobody_asked_is_a_violation_and_invents_nothing() {
    for answer in [
        "C SELECT 1",
        "1",
        "2",
        "3",
        "D",
        "T",
        "t",
        "n",
        "s",
        "I",
        "G",
        "H",
        "W",
        "V",
        "Z I",
        "d 5",
        "c",
        "K",
        "R",
    ] {
        let answer = format!("< {answer}");
        let told = play(&[&answer]);
        assert_eq!(told.len(), 1, "{answer}: {told:?}");
        assert!(
            told[0].starts_with("Violation BackendOutOfTurn"),
            "{told:?}"
        );
    }
}

#[test]
fn what_waited_for_an_answer_is_unanswered_when_the_server_answers_something_else() {
    for answer in ["< 1", "< Z I", "< d 1", "< s"] {
        let told = play(&["> Q select 1", answer, "< C SELECT 1", "< Z I"]);
        assert_eq!(told[0], "Query select 1: Unanswered", "{answer}");
        assert_eq!(told.len(), 2);
    }
    let told = play(&["> P \"\" a", "> S", "< C SELECT 1"]);
    assert_eq!(told[0], "Parse =a: Unanswered");
}

#[test]
fn nothing_comes_behind_a_fatal_error() {
    let told = play(&["< E FATAL 57P01 bye", "> Q select 1", "< C SELECT 1"]);
    assert_eq!(
        told[1..],
        [
            "Query select 1: Unanswered",
            "Violation BackendOutOfTurn(67)"
        ]
    );
}
