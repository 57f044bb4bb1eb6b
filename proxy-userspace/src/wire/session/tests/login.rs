//! The login as the session sees it.

use std::time::Instant;

use super::transcript::{CAPTURE, describe, feed, play_bare};
use crate::wire::login::{LoginOutcome, Method};
use crate::wire::session::Session;

fn session(lines: &[&str]) -> Session {
    let mut session = Session::new(CAPTURE);
    for line in lines {
        feed(&mut session, line, usize::MAX, &mut |_| {});
    }
    session
}

#[test]
fn a_session_watches_its_own_login() {
    let session = session(&[
        "< R 10 SCRAM-SHA-256-PLUS^SCRAM-SHA-256^^",
        "> p SCRAM-SHA-256^^^^^n,,n=,r=nonce",
        "< R 11 r=nonce",
        "> p c=biws,p=proof",
        "< R 12 v=signature",
        "< R 0",
        "< S server_version 18",
        "< K 0123456789abcdef0123456789abcdef",
        "< Z I",
    ]);
    let login = session.login();
    assert_eq!(login.outcome(), &LoginOutcome::Accepted);
    assert_eq!(login.method(), Some(Method::ScramSha256));
    assert_eq!(login.backend_pid(), Some(7));
    assert_eq!(login.cancel_key_bytes(), Some(32));
}

#[test]
fn what_was_sent_ahead_of_the_login_is_answered_behind_it() {
    let told = play_bare(
        &[
            "> Q select 1",
            "< R",
            "< S TimeZone UTC",
            "< Z I",
            "< C SELECT 1",
            "< Z I",
        ],
        1,
    );
    assert_eq!(
        told,
        [
            "Setting b\"TimeZone\" b\"UTC\"",
            "Query select 1: Completed [SELECT 1] @Idle",
        ]
    );
}

#[test]
fn what_was_sent_ahead_of_a_rejection_has_no_answer() {
    let told = play_bare(&["> Q select 1", "< E FATAL 28000 no entry"], 1);
    assert_eq!(told, ["Query select 1: Unanswered"]);
    let session = session(&["< E FATAL 28000 no entry"]);
    let expected = LoginOutcome::Rejected {
        sqlstate: Some("28000".to_owned()),
    };
    assert_eq!(session.login().outcome(), &expected);
}

/// A password on its way while the server gives up is no violation.
#[test]
fn what_is_sent_behind_a_rejection_is_not_looked_at() {
    let told = play_bare(&["< R 3", "< E FATAL 57P01 bye", "> p secret", "> !"], 1);
    assert_eq!(told, [""; 0]);
}

#[test]
fn a_server_that_does_not_log_in_is_a_violation_and_the_login_is_opaque() {
    for line in ["< C SELECT 1", "< Z I", "< ?"] {
        let mut session = session(&[]);
        let mut told = Vec::new();
        feed(&mut session, line, 1, &mut |event| {
            told.push(describe(&event))
        });
        assert_eq!(told.len(), 1, "{line}");
        assert_eq!(session.login().outcome(), &LoginOutcome::Opaque);
    }
}

#[test]
fn a_client_that_breaks_the_protocol_during_the_login_still_has_it_answered() {
    let told = play_bare(
        &[
            "> Q select 1",
            "> !",
            "< R",
            "< Z I",
            "< C SELECT 1",
            "< Z I",
        ],
        1,
    );
    assert_eq!(
        told,
        [
            "Query select 1: Completed [SELECT 1] @Idle",
            "Violation FrontendType(33)",
        ]
    );
    assert_eq!(play_bare(&["> !"], 1), ["Violation FrontendType(33)"]);
    let mut session = session(&["> !"]);
    let mut told = Vec::new();
    feed(
        &mut session,
        "< E FATAL 08P01 expected password response",
        1,
        &mut |event| {
            told.push(describe(&event));
        },
    );
    assert_eq!(told, ["Violation FrontendType(33)"]);
    let expected = LoginOutcome::Rejected {
        sqlstate: Some("08P01".to_owned()),
    };
    assert_eq!(session.login().outcome(), &expected);
}

/// Every value a password message may hold is foreign to what the machine keeps.
#[test]
fn nothing_of_a_password_message_is_kept() {
    for asked in ["< R 3", "< R 5 salt", "< R 7", "< R 10 SCRAM-SHA-256^^"] {
        let mut session = session(&[asked]);
        feed(
            &mut session,
            "> p correcthorsebatterystaple",
            3,
            &mut |event| panic!("{}", describe(&event)),
        );
        let kept = format!("{session:?}");
        assert!(
            !kept.contains("correct") && !kept.contains("114, 114"),
            "{kept}"
        );
        session.end(Instant::now(), &mut |event| panic!("{}", describe(&event)));
    }
}
