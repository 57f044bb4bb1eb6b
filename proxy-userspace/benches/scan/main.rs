//! What following a session costs, beside a memcpy of the same bytes.
//!
//! Run by `cargo xtask bench`; the claim is the ratio, so both are measured in one run, taking turns. `cargo bench`
//! alone shows divan's table; with `--ratios` only the ratios are printed, one line for each stream.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a benchmark that cannot run should stop"
)]

mod streams;

use std::env;
use std::hint::black_box;
use std::time::{Duration, Instant};

use divan::counter::BytesCount;
use proxy_userspace::wire::session::{Capture, Session};

use streams::Stream;

/// What `audit = "statements"` keeps by default: texts, no values.
const CAPTURE: Capture = Capture {
    text_bytes: 64 * 1024,
    parameter_bytes: None,
};
/// As the relay reads.
const CHUNK_BYTES: usize = 64 * 1024;
const ROUNDS: usize = 401;

fn main() {
    let arguments: Vec<String> = env::args().collect();
    if arguments.iter().any(|argument| argument == "--ratios") {
        let only = |stream: &Stream| arguments.iter().any(|argument| argument == stream.name);
        let all = streams::ALL.map(|stream| stream());
        let has_any = all.iter().any(only);
        for stream in all.iter().filter(|stream| !has_any || only(stream)) {
            print_ratio(stream);
        }
    } else {
        divan::main();
    }
}

#[divan::bench(args = ["rows", "queries", "copy out", "prepared"])]
fn memcpy(bencher: divan::Bencher<'_, '_>, name: &str) {
    let stream = streams::named(name);
    let mut target = vec![0; stream.bytes()];
    bencher
        .counter(BytesCount::new(stream.bytes()))
        .bench_local(|| copy(&stream, &mut target));
}

#[divan::bench(args = ["rows", "queries", "copy out", "prepared"])]
fn follow(bencher: divan::Bencher<'_, '_>, name: &str) {
    let stream = streams::named(name);
    let mut session = logged_in(&stream);
    bencher
        .counter(BytesCount::new(stream.bytes()))
        .bench_local(|| scan(&stream, &mut session));
}

/// Copies the recorded stream, in the same pieces, into a buffer of its size.
fn copy(stream: &Stream, target: &mut [u8]) {
    let mut at = 0;
    for turn in &stream.turns {
        for chunk in turn.bytes.chunks(CHUNK_BYTES) {
            target[at..at + chunk.len()].copy_from_slice(black_box(chunk));
            at += chunk.len();
        }
    }
    black_box(target);
}

fn scan(stream: &Stream, session: &mut Session) {
    let now = Instant::now();
    for turn in &stream.turns {
        for chunk in turn.bytes.chunks(CHUNK_BYTES) {
            let mut drop_event = |event| drop(black_box(event));
            if turn.by_client {
                session.client_sent(black_box(chunk), now, &mut drop_event);
            } else {
                session.server_sent(black_box(chunk), now, &mut drop_event);
            }
        }
    }
}

fn logged_in(stream: &Stream) -> Session {
    let mut session = Session::new(CAPTURE);
    let now = Instant::now();
    session.server_sent(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I", now, &mut drop);
    for turn in &stream.before {
        if turn.by_client {
            session.client_sent(&turn.bytes, now, &mut drop);
        } else {
            session.server_sent(&turn.bytes, now, &mut drop);
        }
    }
    session
}

fn print_ratio(stream: &Stream) {
    let mut session = logged_in(stream);
    let mut target = vec![0; stream.bytes()];
    let (mut copies, mut scans, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let timed = |work: &mut dyn FnMut()| {
            let begun = Instant::now();
            work();
            begun.elapsed()
        };
        let (copied, scanned);
        if round % 2 == 0 {
            copied = timed(&mut || copy(stream, &mut target));
            scanned = timed(&mut || scan(stream, &mut session));
        } else {
            scanned = timed(&mut || scan(stream, &mut session));
            copied = timed(&mut || copy(stream, &mut target));
        }
        copies.push(copied);
        scans.push(scanned);
        ratios.push(scanned.as_secs_f64() / copied.as_secs_f64());
    }
    ratios.sort_by(f64::total_cmp);
    println!(
        "{:<34} memcpy {:>5.1} GB/s   followed {:>5.1} GB/s   ratio {:>5.2}  ({:.2}..{:.2})",
        stream.what,
        speed(stream, copies),
        speed(stream, scans),
        ratios[ROUNDS / 2],
        ratios[ROUNDS / 10],
        ratios[ROUNDS - ROUNDS / 10],
    );
}

/// Of the round in the middle.
fn speed(stream: &Stream, mut took: Vec<Duration>) -> f64 {
    took.sort();
    let bytes = u32::try_from(stream.bytes()).unwrap();
    f64::from(bytes) / took[ROUNDS / 2].as_secs_f64() / 1e9
}
