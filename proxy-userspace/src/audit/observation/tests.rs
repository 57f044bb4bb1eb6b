use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use serde_json::{Value as Json, json};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::*;
use crate::audit::queue::{Counts, Queued};
use crate::audit::tally::{Coverage, Tally};
use crate::config::{AuditLevel, OverflowPolicy};

/// AuthenticationOk, both settings, ReadyForQuery.
fn login() -> Vec<u8> {
    [
        message(b'R', &[0, 0, 0, 0]),
        message(b'S', b"client_encoding\0UTF8\0"),
        message(b'S', b"standard_conforming_strings\0on\0"),
        message(b'Z', b"I"),
    ]
    .concat()
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[kind][..], &length.to_be_bytes(), body].concat()
}

fn query(sql: &str) -> Vec<u8> {
    message(b'Q', format!("{sql}\0").as_bytes())
}

fn watched(redaction: Redaction, places: usize) -> (Observation, mpsc::Receiver<Queued>, Tally) {
    let (sender, queue) = mpsc::channel(places);
    let counts = Arc::new(Counts::default());
    let audit = Audit::new(sender, OverflowPolicy::Block, counts);
    let tally = Tally::of(Coverage::Statements);
    let author = Author {
        session: Uuid::nil(),
        process: None,
        user: None,
        database: None,
        redaction,
        counts: Arc::clone(tally.counts()),
    };
    let scope = AuditScope {
        level: AuditLevel::Statements,
        redaction,
        parameters: false,
        overflow: OverflowPolicy::Block,
    };
    let limits = AuditLimits {
        text_bytes: 1000,
        parameter_bytes: 1000,
    };
    let mut observation = Observation::of_statements(&audit, author, scope, limits);
    observation.sent(Side::Server, &login());
    (observation, queue, tally)
}

fn taken(queue: &mut mpsc::Receiver<Queued>) -> Vec<Json> {
    let mut records = Vec::new();
    while let Ok(queued) = queue.try_recv() {
        records.push(serde_json::to_value(&queued.record).unwrap());
    }
    records
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_session_whose_records_wait_is_read_on_neither_side() {
    let (mut observation, mut queue, tally) = watched(Redaction::Full, 1);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..2 {
        observation.sent(Side::Client, &query("select 1"));
        observation.sent(Side::Server, &message(b'C', b"SELECT 1\0"));
        observation.sent(Side::Server, &message(b'Z', b"I"));
    }
    for side in [Side::Client, Side::Server] {
        assert!(observation.poll_ready(side, &mut context).is_pending());
    }
    assert_eq!(taken(&mut queue)[0]["seq"], 1);
    for side in [Side::Client, Side::Server] {
        assert!(observation.poll_ready(side, &mut context).is_ready());
    }
    assert_eq!(taken(&mut queue)[0]["seq"], 2);
    let expected = json!({"level": "statements", "recorded": 2, "lost": 0});
    assert_eq!(serde_json::to_value(&tally).unwrap(), expected);
}

#[tokio::test]
async fn a_client_too_far_ahead_is_not_read_until_the_server_has_answered() {
    let (mut observation, mut queue, _tally) = watched(Redaction::Full, 100_000);
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut context = Context::from_waker(&waker);
    let mut sent = 0;
    while observation
        .poll_ready(Side::Client, &mut context)
        .is_ready()
    {
        observation.sent(Side::Client, &query("x"));
        sent += 1;
        assert!(sent < 100_000, "the client may run ahead for ever");
    }
    assert!(
        observation
            .poll_ready(Side::Server, &mut context)
            .is_ready()
    );
    assert_eq!(woken.0.load(Ordering::Relaxed), 0);
    let answer = [message(b'C', b"SELECT 1\0"), message(b'Z', b"I")].concat();
    observation.sent(Side::Server, &answer);
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    assert!(
        observation
            .poll_ready(Side::Client, &mut context)
            .is_ready()
    );
    for _ in 1..sent {
        observation.sent(Side::Server, &answer);
    }
    assert_eq!(taken(&mut queue).len(), sent);
}

#[tokio::test]
async fn a_setting_that_changes_within_a_batch_leaves_its_texts_in_doubt() {
    let (mut observation, mut queue, _tally) = watched(Redaction::LiteralsRemoved, 100);
    let parse = |sql: &str| message(b'P', format!("\0{sql}\0\0\0").as_bytes());
    let batch = [parse("set client_encoding = 'SJIS'"), parse("select 'é'")].concat();
    observation.sent(Side::Client, &batch);
    observation.sent(Side::Client, &message(b'S', b""));
    observation.sent(
        Side::Server,
        &[message(b'1', b""), message(b'1', b"")].concat(),
    );
    let end = [
        message(b'S', b"client_encoding\0SJIS\0"),
        message(b'Z', b"I"),
    ]
    .concat();
    observation.sent(Side::Server, &end);
    let withheld: Vec<_> = taken(&mut queue)
        .iter()
        .map(|record| record["sql"]["withheld"].clone())
        .collect();
    // The first is read alike in any encoding.
    assert_eq!(withheld, [json!(null), json!("encoding")]);
}

#[tokio::test]
async fn a_text_has_the_encoding_it_was_sent_in_or_none() {
    let (mut observation, mut queue, _tally) = watched(Redaction::Full, 100);
    let reports = |encoding: &str| {
        let setting = format!("client_encoding\0{encoding}\0");
        message(b'S', setting.as_bytes())
    };
    observation.sent(Side::Server, &reports("UTF8"));
    let answer = [
        message(b'C', b"SET\0"),
        reports("LATIN1"),
        message(b'Z', b"I"),
    ]
    .concat();
    observation.sent(Side::Client, &query("set client_encoding = 'LATIN1'"));
    observation.sent(Side::Server, &answer);
    for _ in 0..2 {
        observation.sent(Side::Client, &query("select 1"));
        observation.sent(Side::Server, &answer);
    }
    let encodings: Vec<_> = taken(&mut queue)
        .iter()
        .map(|record| record["sql"]["encoding"].clone())
        .collect();
    assert_eq!(encodings, [json!(null), json!("LATIN1"), json!("LATIN1")]);
}

#[tokio::test]
async fn the_end_of_a_session_records_what_has_no_answer() {
    let (mut observation, mut queue, tally) = watched(Redaction::Full, 100);
    observation.sent(Side::Client, &query("select pg_sleep(1)"));
    observation.finish(&CancellationToken::new()).await;
    let records = taken(&mut queue);
    assert_eq!(records.len(), 1);
    assert_eq!(records[0]["outcome"], "unanswered");
    let expected = json!({"level": "statements", "recorded": 1, "lost": 0});
    assert_eq!(serde_json::to_value(&tally).unwrap(), expected);
}

#[tokio::test]
async fn a_broken_rule_is_the_last_record_of_a_session() {
    let (mut observation, mut queue, tally) = watched(Redaction::Full, 100);
    observation.sent(Side::Client, b"\x21nonsense");
    observation.sent(Side::Client, &query("select 1"));
    observation.finish(&CancellationToken::new()).await;
    let records = taken(&mut queue);
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!(records[0]["type"], "protocol_violation");
    let written = serde_json::to_value(&tally).unwrap();
    assert_eq!(written["level"], "stopped_at_violation");
}
