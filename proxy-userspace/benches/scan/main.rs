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
use rustix::time::{ClockId, clock_gettime};

use streams::Stream;

/// What `audit = "statements"` keeps by default: texts, no values.
const CAPTURE: Capture = Capture {
    text_bytes: 64 * 1024,
    parameter_bytes: None,
};
/// As the relay reads.
const CHUNK_BYTES: usize = 64 * 1024;
/// Small enough to stay in the processor's cache, and too large for it: the bytes of a busy proxy are somewhere between.
const SIZES: [(usize, &str, usize); 2] = [(1 << 20, "1 MB", 401), (64 << 20, "64 MB", 15)];

fn main() {
    let arguments: Vec<String> = env::args().collect();
    if !arguments.iter().any(|argument| argument == "--ratios") {
        return divan::main();
    }
    for (bytes, size, rounds) in SIZES {
        for stream in streams::ALL {
            print_ratio(&stream(bytes), size, rounds);
        }
    }
}

#[divan::bench(args = ["rows", "queries", "copy out", "prepared"])]
fn memcpy(bencher: divan::Bencher<'_, '_>, name: &str) {
    let stream = streams::named(name, SIZES[0].0);
    let mut target = vec![0; stream.bytes.len()];
    bencher
        .counter(BytesCount::new(stream.bytes.len()))
        .bench_local(|| copy(&stream, &mut target));
}

#[divan::bench(args = ["rows", "queries", "copy out", "prepared"])]
fn follow(bencher: divan::Bencher<'_, '_>, name: &str) {
    let stream = streams::named(name, SIZES[0].0);
    let mut session = logged_in(&stream);
    bencher
        .counter(BytesCount::new(stream.bytes.len()))
        .bench_local(|| scan(&stream, &mut session));
}

/// Copies the recorded stream, in the pieces a relay would read, into a buffer of its size.
fn copy(stream: &Stream, target: &mut [u8]) {
    for turn in &stream.turns {
        let (from, to) = (
            &stream.bytes[turn.place.clone()],
            &mut target[turn.place.clone()],
        );
        for (from, to) in from.chunks(CHUNK_BYTES).zip(to.chunks_mut(CHUNK_BYTES)) {
            to.copy_from_slice(black_box(from));
        }
    }
    black_box(target);
}

fn scan(stream: &Stream, session: &mut Session) {
    let now = Instant::now();
    for turn in &stream.turns {
        for chunk in stream.bytes[turn.place.clone()].chunks(CHUNK_BYTES) {
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
    session.client_sent(&stream.before.0, now, &mut drop);
    session.server_sent(&stream.before.1, now, &mut drop);
    session
}

/// Both in turn, and which one is first changes; the ratio is taken within a round.
fn print_ratio(stream: &Stream, size: &str, rounds: usize) {
    let mut session = logged_in(stream);
    let mut target = vec![0; stream.bytes.len()];
    let (mut copies, mut scans, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let timed = |work: &mut dyn FnMut()| {
            let begun = processor_time();
            work();
            processor_time() - begun
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
        "{:<30} {size:>5}   memcpy {:>5.1} GB/s   followed {:>5.1} GB/s   ratio {:>5.2}  ({:.2}..{:.2})",
        stream.what,
        speed(stream, copies),
        speed(stream, scans),
        ratios[rounds / 2],
        ratios[rounds / 10],
        ratios[rounds - 1 - rounds / 10],
    );
}

/// What this thread has used: what else the machine does is not counted.
fn processor_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap()
}

/// Of the round in the middle.
fn speed(stream: &Stream, mut took: Vec<Duration>) -> f64 {
    took.sort();
    let bytes = u32::try_from(stream.bytes.len()).unwrap();
    f64::from(bytes) / took[took.len() / 2].as_secs_f64() / 1e9
}
