//! What most of a session's bytes are costs no memory: neither an allocation for each message, nor one that grows.
//!
//! One test in one process, because the bytes of the whole process are counted. Allocations are counted of the test's
//! thread alone: the harness has one of its own.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows tests by their attribute, and not the functions they call"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use proxy_userspace::wire::session::{Capture, Event, Session};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}
static LIVE_BYTES: AtomicUsize = AtomicUsize::new(0);
static PEAK_BYTES: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[expect(unsafe_code, reason = "the allocator's interface is unsafe")]
// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        let live = LIVE_BYTES.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK_BYTES.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

const CAPTURE: Capture = Capture {
    text_bytes: 16 * 1024,
    parameter_bytes: None,
};
const MESSAGES: usize = 10_000;

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[kind], length.to_be_bytes().as_slice(), body].concat()
}

/// A session behind its login and behind what the two sides sent, and how many allocations `then` makes in it.
fn allocations(client: &[u8], server: &[u8], then: impl FnOnce(&mut Session)) -> usize {
    let mut session = Session::new(CAPTURE);
    session.server_sent(
        b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I",
        Instant::now(),
        &mut drop,
    );
    session.client_sent(client, Instant::now(), &mut drop);
    session.server_sent(server, Instant::now(), &mut drop);
    let before = ALLOCATIONS.get();
    then(&mut session);
    ALLOCATIONS.get() - before
}

fn stop(event: Event) {
    panic!("nothing is to be told: {event:?}");
}

fn rows_cost_nothing() {
    let rows = message(b'D', &[7; 95]).repeat(MESSAGES);
    let notices = message(b'N', b"SNOTICE\0\0").repeat(100);
    for size in [64 * 1024, 1000, 7] {
        let query = message(b'Q', b"select\0");
        let count = allocations(&query, &message(b'T', &[0, 0]), |session| {
            for chunk in rows.chunks(size).chain(notices.chunks(size)) {
                session.server_sent(chunk, Instant::now(), &mut stop);
            }
        });
        assert_eq!(count, 0, "{MESSAGES} rows in chunks of {size}");
    }
}

fn copy_data_costs_nothing() {
    let data = message(b'd', &[7; 95]).repeat(MESSAGES);
    for size in [64 * 1024, 1000, 7] {
        let query = message(b'Q', b"START_REPLICATION\0");
        let count = allocations(&query, &message(b'W', &[0; 3]), |session| {
            for chunk in data.chunks(size) {
                session.client_sent(chunk, Instant::now(), &mut stop);
                session.server_sent(chunk, Instant::now(), &mut stop);
            }
        });
        assert_eq!(
            count, 0,
            "{MESSAGES} messages of COPY data in chunks of {size}"
        );
    }
}

/// An event is made for each message of a batch, and that is all: one allocation for a Bind and one for an Execute.
fn a_batch_of_the_unnamed_statement_costs_its_events() {
    let parse = [message(b'P', b"\0select\0\0\0"), message(b'S', b"")].concat();
    let parsed = [message(b'1', b""), message(b'Z', b"T")].concat();
    let batch = [
        message(b'B', b"\0\0\0\0\0\x01\0\0\0\x011\0\0"),
        message(b'E', b"\0\0\0\0\0"),
        message(b'S', b""),
    ]
    .concat();
    let answer = [message(b'2', b""), message(b's', b""), message(b'Z', b"T")].concat();
    let count = allocations(&parse, &parsed, |session| {
        for _ in 0..MESSAGES {
            session.client_sent(&batch, Instant::now(), &mut drop);
            session.server_sent(&answer, Instant::now(), &mut drop);
        }
    });
    assert!(count <= 2 * MESSAGES + 10, "{count} for {MESSAGES} batches");
}

/// A Query costs its event and its text; its answer costs nothing.
fn a_query_costs_its_event_and_its_text() {
    let query = message(b'Q', b"select\0");
    let answer = [
        message(b'T', &[0, 0]),
        message(b'D', &[0, 0]),
        message(b'C', b"SELECT 1\0"),
        message(b'Z', b"I"),
    ]
    .concat();
    let count = allocations(&query, &answer, |session| {
        for _ in 0..MESSAGES {
            session.client_sent(&query, Instant::now(), &mut drop);
            session.server_sent(&answer, Instant::now(), &mut drop);
        }
    });
    assert_eq!(count, 2 * MESSAGES);
}

fn long_messages_take_constant_memory() {
    let chunk = vec![b'x'; 64 * 1024];
    for (kind, head) in [
        (b'Q', b"".as_slice()),
        (b'P', b"name\0"),
        (b'P', b""),
        (b'B', b"portal\0statement\0\0\0\0\x01\x03\xff\xff\xff"),
        (b'B', b""),
        (b'F', b"\0\0\0\x01\0\0\0\x01\x03\xff\xff\xff"),
        (b'd', b""),
    ] {
        let mut session = Session::new(CAPTURE);
        session.server_sent(
            b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I",
            Instant::now(),
            &mut drop,
        );
        PEAK_BYTES.store(LIVE_BYTES.load(Ordering::Relaxed), Ordering::Relaxed);
        let before = PEAK_BYTES.load(Ordering::Relaxed);
        let header = [&[kind], 0x3fff_fffe_u32.to_be_bytes().as_slice(), head].concat();
        session.client_sent(&header, Instant::now(), &mut drop);
        for _ in 0..256 {
            session.client_sent(&chunk, Instant::now(), &mut drop);
        }
        let grown = PEAK_BYTES.load(Ordering::Relaxed) - before;
        assert!(
            grown < 600 * 1024,
            "{grown} bytes for 16 MiB of {:?}",
            char::from(kind)
        );
    }
}

#[test]
fn following_a_session_takes_no_memory_that_grows_with_it() {
    rows_cost_nothing();
    copy_data_costs_nothing();
    a_batch_of_the_unnamed_statement_costs_its_events();
    a_query_costs_its_event_and_its_text();
    long_messages_take_constant_memory();
}
