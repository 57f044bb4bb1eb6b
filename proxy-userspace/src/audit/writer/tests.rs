use std::num::NonZeroUsize;
use std::path::Path;

use serde_json::Value;

use super::*;
use crate::config::{AuditLevel, AuditScope, Redaction, SinkKind};

fn config(sink: SinkKind, overflow: OverflowPolicy) -> AuditConfig {
    AuditConfig {
        sink,
        overflow,
        scope: AuditScope {
            level: AuditLevel::Sessions,
            redaction: Redaction::Full,
            parameters: false,
            overflow,
        },
        queue: NonZeroUsize::new(10_000).unwrap(),
        text_limit: 1000,
        parameter_limit: 1000,
    }
}

fn record() -> Record {
    Record::now(Body::Coverage(Box::default()))
}

fn types(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    let records = text.lines().map(|line| {
        let record: Value = serde_json::from_str(line).unwrap();
        record["type"].as_str().unwrap().to_owned()
    });
    records.collect()
}

#[tokio::test]
async fn every_record_gets_a_line_of_its_own_however_many_are_written_together() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.jsonl");
    let config = config(SinkKind::File(path.clone()), OverflowPolicy::Block);
    let (audit, writer) = start(&config, 1, None).unwrap();
    for _ in 0..5000 {
        audit.record(record()).await;
    }
    drop(audit);
    writer.join();
    assert_eq!(types(&path).len(), 5000);
}

#[tokio::test]
async fn a_gap_is_told_before_the_next_record_and_is_none_itself() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.jsonl");
    let config = config(SinkKind::File(path.clone()), OverflowPolicy::Drop);
    let (audit, writer) = start(&config, 1, None).unwrap();
    audit.lose(&record());
    audit.lose(&record());
    audit.record(record()).await;
    let counted = audit.clone();
    drop(audit);
    // The writer ends when the last handle has gone.
    while counted.stats().written == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(counted.stats().written, 1);
    drop(counted);
    writer.join();
    assert_eq!(types(&path), ["gap", "coverage"]);
}

#[tokio::test]
async fn a_record_waits_until_the_sink_has_it_and_not_only_while_it_is_in_the_queue() {
    let failing = config(SinkKind::File("/dev/full".into()), OverflowPolicy::Block);
    let (audit, writer) = start(&failing, 1, None).unwrap();
    audit.record(record()).await;
    // The writer has taken it from the queue by then.
    while audit.stats().failures == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(audit.stats().queued, 1);
    drop(audit);
    writer.join();

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.jsonl");
    let working = config(SinkKind::File(path.clone()), OverflowPolicy::Block);
    let (audit, writer) = start(&working, 1, None).unwrap();
    for count in 1..=100 {
        audit.record(record()).await;
        while audit.stats().queued > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(types(&path).len(), count);
    }
    // A place that is kept is no record.
    let place = audit.closing_place().await;
    assert_eq!(audit.stats().queued, 0);
    place.send(record());
    drop(audit);
    writer.join();
    assert_eq!(types(&path).len(), 101);
}

#[tokio::test]
async fn a_sink_that_never_works_loses_what_waits_at_the_end_and_ends() {
    for overflow in [OverflowPolicy::Block, OverflowPolicy::Drop] {
        let config = config(SinkKind::File("/dev/full".into()), overflow);
        let (audit, writer) = start(&config, 1, None).unwrap();
        for _ in 0..10 {
            audit.record(record()).await;
        }
        drop(audit);
        writer.join();
    }
}

/// The writer on a thread of its own, with `records` queued and nobody left who could queue more.
fn ending(sink: Sink, counts: &Arc<Counts>, records: usize) -> JoinHandle<()> {
    let (sender, queue) = mpsc::channel(records);
    for _ in 0..records {
        let queued = Queued::new(record(), OverflowPolicy::Block, None, counts);
        assert!(sender.try_send(queued).is_ok());
    }
    let writing = Writing::new(sink, Arc::clone(counts));
    std::thread::spawn(move || writing.run(queue))
}

#[test]
fn a_sink_that_works_again_while_pgusher_stops_gets_what_waits() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("place");
    let path = place.join("audit.jsonl");
    std::fs::create_dir(&place).unwrap();
    let sink = Sink::open(&SinkKind::File(path.clone()), None).unwrap();
    std::fs::remove_dir_all(&place).unwrap();
    let counts = Arc::<Counts>::default();
    let writer = ending(sink, &counts, 2);
    while counts.failures.load(Ordering::Relaxed) < 5 {
        assert!(!writer.is_finished(), "it gave up");
        std::thread::yield_now();
    }
    std::fs::create_dir(&place).unwrap();
    writer.join().unwrap();
    assert_eq!(types(&path), ["coverage", "coverage"]);
    assert_eq!(counts.dropped.load(Ordering::Relaxed), 0);
}

#[test]
fn a_record_is_lost_for_its_length_alone() {
    let cases = [
        (libc::EMSGSIZE, 1000, Failure::OfTheRecord),
        (
            libc::ENOBUFS,
            CERTAIN_DATAGRAM_BYTES + 1,
            Failure::OfTheRecord,
        ),
        (libc::ENOBUFS, CERTAIN_DATAGRAM_BYTES, Failure::OfTheSink),
        (libc::ENOSPC, usize::MAX, Failure::OfTheSink),
    ];
    for (errno, bytes, expected) in cases {
        let error = io::Error::from_raw_os_error(errno);
        assert!(Failure::of(&error, bytes) == expected, "{error} {bytes}");
    }
}

#[test]
fn a_line_whose_file_is_gone_is_written_again_where_the_next_ones_go() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.jsonl");
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    let sink = Sink::File {
        path: path.clone(),
        file: full.unwrap(),
        is_as_found: false,
    };
    let counts = Arc::<Counts>::default();
    let mut writing = Writing::new(sink, Arc::clone(&counts));
    for _ in 0..2 {
        writing.add(Queued::new(record(), OverflowPolicy::Block, None, &counts));
    }
    writing.took(10);
    assert!(writing.try_write().is_ok());
    assert_eq!(types(&path), ["coverage", "coverage"]);
    assert_eq!(counts.written.load(Ordering::Relaxed), 2);
}
