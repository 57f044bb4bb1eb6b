use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use serde_json::Value as Json;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::*;
use crate::audit::queue::{Counts, QUEUE_BYTES};
use crate::audit::record::Body;
use crate::audit::record::statement::{Author, Moment, Statement};
use crate::audit::redaction::Scanning;
use crate::audit::tally::{Coverage, Tally};
use crate::config::Redaction;
use crate::wire::session::{Finished, Outcome, Subject, Tags, Text, Verdict};

struct Bench {
    outbox: Outbox,
    queue: mpsc::Receiver<Queued>,
    counts: Arc<Counts>,
    tally: Tally,
    author: Arc<Author>,
}

fn bench(places: usize, policy: OverflowPolicy) -> Bench {
    let (sender, queue) = mpsc::channel(places);
    let counts = Arc::new(Counts::default());
    let audit = Audit::new(sender, OverflowPolicy::Block, Arc::clone(&counts));
    let tally = Tally::of(Coverage::Statements);
    Bench {
        outbox: Outbox::new(audit, policy),
        queue,
        counts,
        author: Arc::new(Author {
            session: Uuid::nil(),
            process: None,
            user: None,
            database: None,
            redaction: Redaction::Full,
            counts: Arc::clone(tally.counts()),
        }),
        tally,
    }
}

impl Bench {
    fn put(&mut self, bytes: usize) {
        let record = self.record(bytes);
        self.outbox.put(record);
    }

    fn record(&self, bytes: usize) -> Record {
        let now = Instant::now();
        let finished = Finished {
            subject: Subject::Query {
                text: Text {
                    kept: Bytes::from(vec![b'x'; bytes]),
                    length: bytes as u64,
                    sha256: None,
                },
            },
            malformed: false,
            outcome: Outcome {
                verdict: Verdict::Completed,
                tags: Tags::default(),
                more_tags: 0,
                more_affected: None,
                rows: 0,
                copies: Vec::new(),
                error: None,
            },
            started: now,
            completed: now,
            ready: None,
            transaction: None,
        };
        let statement = Statement::new(
            &self.author,
            Box::new(finished),
            None,
            Scanning::Certain,
            Moment::now(),
        );
        Record::now(Body::Statement(Box::new(statement)))
    }

    /// The numbers of the records in the queue.
    fn take(&mut self) -> Vec<u64> {
        let mut taken = Vec::new();
        while let Ok(queued) = self.queue.try_recv() {
            let record = serde_json::to_value(&queued.record).unwrap();
            taken.push(record["seq"].as_u64().unwrap());
        }
        taken
    }

    fn is_empty(&mut self) -> bool {
        let mut context = Context::from_waker(std::task::Waker::noop());
        self.outbox.poll_empty(&mut context).is_ready()
    }

    fn tally(&self) -> Json {
        serde_json::to_value(&self.tally).unwrap()
    }
}

#[tokio::test]
async fn under_block_what_finds_no_room_waits_and_keeps_its_order() {
    let mut bench = bench(2, OverflowPolicy::Block);
    for _ in 0..5 {
        bench.put(10);
    }
    assert!(!bench.is_empty());
    assert_eq!(bench.take(), [1, 2]);
    assert!(!bench.is_empty());
    // A record made meanwhile does not overtake those that wait.
    bench.put(10);
    assert_eq!(bench.take(), [3, 4]);
    assert!(bench.is_empty());
    assert_eq!(bench.take(), [5, 6]);
    assert_eq!(bench.counts.dropped.load(Ordering::Relaxed), 0);
    assert_eq!(bench.tally()["recorded"], 6);
}

#[tokio::test]
async fn under_drop_what_finds_no_room_is_lost_and_counted() {
    let mut bench = bench(2, OverflowPolicy::Drop);
    for _ in 0..5 {
        bench.put(10);
    }
    assert!(bench.is_empty());
    assert_eq!(bench.take(), [1, 2]);
    bench.put(10);
    assert_eq!(bench.take(), [6]);
    assert_eq!(bench.counts.dropped.load(Ordering::Relaxed), 3);
    assert_eq!(bench.tally()["lost"], 3);
    assert_eq!(bench.tally()["recorded"], 3);
}

#[tokio::test]
async fn the_queue_is_bounded_in_bytes_too() {
    let big = QUEUE_BYTES / 2;
    let mut bench = bench(100, OverflowPolicy::Block);
    // More than fits at all counts as all there is.
    bench.put(QUEUE_BYTES * 2);
    bench.put(big);
    assert!(!bench.is_empty());
    assert_eq!(bench.take(), [1]);
    assert!(bench.is_empty());
    bench.put(big);
    assert!(!bench.is_empty());
    assert_eq!(bench.take(), [2]);
    assert!(bench.is_empty());
    assert_eq!(bench.take(), [3]);
}

/// A place that becomes free belongs to the session that has waited longest; another one cannot take it first, however
/// much it records.
#[tokio::test]
async fn a_session_that_waits_has_its_turn_before_those_that_go_on() {
    let mut bench = bench(1, OverflowPolicy::Block);
    let mut busy = Outbox::new(bench.outbox.audit.clone(), OverflowPolicy::Block);
    for _ in 0..3 {
        bench.put(10);
    }
    for last in [1, 2] {
        assert!(!bench.is_empty());
        assert_eq!(bench.take(), [last]);
        busy.put(bench.record(10));
    }
    assert!(bench.is_empty());
    assert_eq!(bench.take(), [3]);
}

#[tokio::test]
async fn an_ended_session_does_not_wait_for_ever_once_pgusher_stops() {
    let mut bench = bench(1, OverflowPolicy::Block);
    bench.put(10);
    bench.put(10);
    let force = CancellationToken::new();
    force.cancel();
    bench.outbox.empty(&force).await;
    assert_eq!(bench.take(), [1]);
    assert_eq!(bench.tally()["lost"], 1);
    assert_eq!(bench.counts.dropped.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn what_waits_when_a_session_dies_is_counted_as_lost() {
    let mut bench = bench(1, OverflowPolicy::Block);
    bench.put(10);
    bench.put(10);
    let Bench {
        outbox,
        tally,
        counts,
        ..
    } = bench;
    drop(outbox);
    assert_eq!(serde_json::to_value(&tally).unwrap()["lost"], 1);
    assert_eq!(counts.dropped.load(Ordering::Relaxed), 1);
}
