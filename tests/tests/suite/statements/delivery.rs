//! How statement records reach the sink: in order, without loss under `block`, counted under `drop`; and peers that
//! break the protocol.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::signal::Signal;
use pgusher_tests::cluster::{VERSIONS, Version};
use pgusher_tests::condition::{DEADLINE, Seen, wait_until};
use pgusher_tests::dialer::Dialer;
use pgusher_tests::process::run;
use pgusher_tests::wire::{self, FAKE_LOGIN};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{audited, exchange, has, have, log_in};
use crate::expect::at;
use crate::sinks::{Sunk, WITH_A_JOURNAL, journal, records_of, start_with};

/// Statements of a session that is to fill every buffer on the way: the pipe's 64 KiB, the queue, the batch.
const STATEMENTS: usize = 3000;
/// How long a session has to stand still, with records waiting, to be taken for stalled.
const STILL: Duration = Duration::from_secs(2);

/// A pipe that nobody reads yet, as a sink.
fn stalled_sink(directory: &TempDir) -> Result<String> {
    let path = directory.path().join("pipe");
    nix::unistd::mkfifo(
        &path,
        nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR,
    )?;
    Ok(format!("file:{}", path.display()))
}

fn dial(sunk: &Sunk) -> Result<TcpStream> {
    let mut stream = Dialer::start(&sunk.cgroup)?.dial(sunk.cluster.port)?;
    wire::log_in(&mut stream, "postgres")?;
    Ok(stream)
}

/// Runs statements from number `from` on until all are done or one is not answered because records wait; tells which
/// comes next.
fn run_until_stalled(sunk: &Sunk, stream: &mut TcpStream, from: usize) -> Result<usize> {
    for number in from..STATEMENTS {
        stream.write_all(&wire::query(&format!("select {number}"))?)?;
        if !is_answered(sunk, stream)? {
            return Ok(number);
        }
        super::answers(stream)?;
    }
    Ok(STATEMENTS)
}

/// Whether an answer comes; nothing is taken from the socket before it does, so that none is read in part.
fn is_answered(sunk: &Sunk, stream: &mut TcpStream) -> Result<bool> {
    stream.set_read_timeout(Some(STILL))?;
    let begin = Instant::now();
    while let Err(error) = stream.peek(&mut [0]) {
        // A read with a time limit is interrupted when this process is stopped and continued (signal(7)).
        let is_no_answer = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted);
        ensure!(is_no_answer, "{error}");
        if sunk.pgusher.counter("/audit/queued")? > 0 {
            return Ok(false);
        }
        ensure!(begin.elapsed() < DEADLINE, "no answer, and no record waits");
    }
    stream.set_read_timeout(Some(DEADLINE))?;
    Ok(true)
}

/// Runs all statements, however slowly they are answered.
fn run_all(stream: &mut TcpStream, from: usize) -> Result<()> {
    for number in from..STATEMENTS {
        exchange(stream, &[wire::query(&format!("select {number}"))?])?;
    }
    Ok(())
}

/// Reads the pipe until pgusher has closed it, in a thread of its own.
fn drain(path: &str) -> Result<thread::JoinHandle<Result<Vec<Value>>>> {
    let pipe = File::open(path.trim_start_matches("file:"))?;
    Ok(thread::spawn(move || {
        let lines = BufReader::new(pipe).lines();
        let text: Vec<String> = lines.collect::<Result<_, _>>()?;
        records_of(&text.join("\n"))
    }))
}

fn end(sunk: &mut Sunk, reader: thread::JoinHandle<Result<Vec<Value>>>) -> Result<Vec<Value>> {
    sunk.pgusher
        .wait_for_counter("/sessions/active", |active| active == 0)?;
    sunk.pgusher.signal(Signal::SIGTERM)?;
    let finished = sunk.pgusher.wait_for_end()?;
    ensure!(finished.status.success(), "{finished:?}");
    reader.join().map_err(|_| anyhow!("the reader panicked"))?
}

/// The numbers of the statements in the trail, in its order.
fn numbers(records: &[Value]) -> Result<Vec<usize>> {
    let statements = records
        .iter()
        .filter(|record| record["type"] == "statement");
    statements
        .map(|record| {
            let text = at(record, "/sql/text").as_str().context("a text")?;
            Ok(text.trim_start_matches("select ").parse()?)
        })
        .collect()
}

fn closing(records: &[Value]) -> Result<&Value> {
    let last = records.last().context("no records")?;
    ensure!(last["type"] == "session", "the last record is {last}");
    Ok(&last["statements"])
}

#[test]
fn under_block_a_session_waits_for_a_stalled_sink_and_nothing_is_lost() -> Result<()> {
    let directory = TempDir::new()?;
    let sink = stalled_sink(&directory)?;
    let mut sunk = start_with(
        &[],
        &sink,
        &["--audit=statements", "--audit-queue=10", "--max-sessions=1"],
    )?;
    let mut stream = dial(&sunk)?;
    let reached = run_until_stalled(&sunk, &mut stream, 0)?;
    ensure!(reached < STATEMENTS, "the session never waited");
    ensure!(sunk.pgusher.counter("/audit/dropped")? == 0);
    let reader = drain(&sink)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    super::answers(&mut stream)?;
    run_all(&mut stream, reached + 1)?;
    drop(stream);
    let records = end(&mut sunk, reader)?;
    ensure!(numbers(&records)? == (0..STATEMENTS).collect::<Vec<_>>());
    has(
        closing(&records)?,
        &json!({"level": "statements", "recorded": STATEMENTS, "lost": 0}),
    )
}

#[test]
fn under_drop_no_session_waits_and_what_is_lost_is_counted() -> Result<()> {
    let directory = TempDir::new()?;
    let sink = stalled_sink(&directory)?;
    let more = [
        "--audit=statements",
        "--audit-queue=10",
        "--max-sessions=1",
        "--audit-overflow=drop",
    ];
    let mut sunk = start_with(&[], &sink, &more)?;
    let mut stream = dial(&sunk)?;
    run_all(&mut stream, 0)?;
    let reader = drain(&sink)?;
    // The queue is free again, so that the closing record has room.
    sunk.pgusher
        .wait_for_counter("/audit/queued", |queued| queued == 0)?;
    drop(stream);
    sunk.pgusher
        .wait_for_counter("/sessions/active", |active| active == 0)?;
    let dropped = sunk.pgusher.counter("/audit/dropped")?;
    ensure!(dropped > 0, "nothing was lost");
    let records = end(&mut sunk, reader)?;
    let gaps = records.iter().filter(|record| record["type"] == "gap");
    let told: u64 = gaps.filter_map(|gap| gap["dropped"].as_u64()).sum();
    ensure!(
        told == dropped,
        "{told} of {dropped} lost records are told of"
    );
    let found = numbers(&records)?;
    ensure!(found.is_sorted() && found.len() + usize::try_from(dropped)? == STATEMENTS);
    has(
        closing(&records)?,
        &json!({"recorded": found.len(), "lost": dropped}),
    )
}

#[test]
fn a_forced_stop_does_not_hang_on_a_stalled_sink() -> Result<()> {
    let directory = TempDir::new()?;
    let sink = stalled_sink(&directory)?;
    let mut sunk = start_with(
        &[],
        &sink,
        &["--audit=statements", "--audit-queue=10", "--max-sessions=1"],
    )?;
    let mut stream = dial(&sunk)?;
    ensure!(
        run_until_stalled(&sunk, &mut stream, 0)? < STATEMENTS,
        "the session never waited"
    );
    sunk.pgusher.signal(Signal::SIGTERM)?;
    sunk.pgusher.signal(Signal::SIGINT)?;
    let finished = sunk.pgusher.wait_for_end()?;
    ensure!(
        finished.stderr.contains("the audit sink is stuck"),
        "{finished:?}"
    );
    Ok(())
}

/// Gives the process a small disk of its own, a third of it taken, and runs its arguments.
const WITH_A_SMALL_DISK: &str = r#"
mount -t tmpfs -o size=512k tmpfs "$0" && head -c 400000 /dev/zero >"$0/ballast" && exec "$@"
"#;

#[test]
fn a_full_disk_stalls_a_session_until_there_is_room_and_no_line_is_spoiled() -> Result<()> {
    let directory = TempDir::new()?;
    let disk = directory.path().display().to_string();
    let sink = format!("file:{disk}/audit.jsonl");
    let wrapper = ["unshare", "--mount", "sh", "-c", WITH_A_SMALL_DISK, &disk];
    let mut sunk = start_with(
        &wrapper,
        &sink,
        &["--audit=statements", "--audit-queue=10", "--max-sessions=1"],
    )?;
    let seen_by_pgusher = format!("/proc/{}/root{disk}", sunk.pgusher.pid());
    let seen_by_pgusher = Path::new(&seen_by_pgusher);
    let mut stream = dial(&sunk)?;
    let reached = run_until_stalled(&sunk, &mut stream, 0)?;
    ensure!(reached < 700, "the disk was never full");
    fs::remove_file(seen_by_pgusher.join("ballast"))?;
    stream.set_read_timeout(Some(DEADLINE))?;
    super::answers(&mut stream)?;
    for number in reached + 1..reached + 100 {
        exchange(&mut stream, &[wire::query(&format!("select {number}"))?])?;
    }
    drop(stream);
    sunk.pgusher
        .wait_for_counter("/sessions/active", |active| active == 0)?;
    sunk.pgusher
        .wait_for_counter("/audit/queued", |queued| queued == 0)?;
    let records = records_of(&fs::read_to_string(seen_by_pgusher.join("audit.jsonl"))?)?;
    ensure!(numbers(&records)? == (0..reached + 100).collect::<Vec<_>>());
    has(
        closing(&records)?,
        &json!({"recorded": reached + 100, "lost": 0}),
    )?;
    sunk.pgusher.signal(Signal::SIGTERM)?;
    ensure!(sunk.pgusher.wait_for_end()?.status.success());
    Ok(())
}

/// A setting of the kernel's, changed until dropped.
struct Sysctl {
    path: &'static str,
    before: String,
}

impl Sysctl {
    fn set(path: &'static str, value: &str) -> Result<Self> {
        let before = fs::read_to_string(path)?;
        fs::write(path, value)?;
        Ok(Self { path, before })
    }
}

impl Drop for Sysctl {
    fn drop(&mut self) {
        let _ = fs::write(self.path, &self.before);
    }
}

#[test]
fn a_text_that_json_makes_six_times_as_long_reaches_the_journal() -> Result<()> {
    let _most = Sysctl::set("/proc/sys/net/core/wmem_max", "212992")?;
    let wrapper = ["unshare", "--mount", "sh", "-c", WITH_A_JOURNAL, "sh"];
    let mut sunk = start_with(
        &wrapper,
        "journald",
        &["--audit=statements", "--audit-text-limit=200000"],
    )
    .context("install systemd")?;
    let mut stream = dial(&sunk)?;
    // Longer in JSON than the largest datagram that a host allows by default.
    let sql = format!("select length('{}')", "\u{1}".repeat(150_000));
    exchange(&mut stream, &[wire::query(&sql)?])?;
    drop(stream);
    sunk.pgusher
        .wait_for_counter("/sessions/active", |active| active == 0)?;
    let found = wait_until("the journal has the statement", || {
        let records = journal(&sunk)?;
        let found = records
            .iter()
            .find(|record| record["type"] == "statement")
            .cloned();
        Ok(Seen::some_or(found, || {
            format!("{} records", records.len())
        }))
    })?;
    has(&found, &json!({"sql": {"text": sql, "truncated": false}}))?;
    ensure!(sunk.pgusher.counter("/audit/dropped")? == 0);
    sunk.pgusher.signal(Signal::SIGTERM)?;
    ensure!(sunk.pgusher.wait_for_end()?.status.success());
    Ok(())
}

#[test]
fn a_client_that_breaks_the_protocol_is_answered_by_the_server_and_recorded() -> Result<()> {
    for version in VERSIONS {
        audited(version).play(|stage| {
            let mut stream = log_in(stage)?;
            exchange(&mut stream, &[wire::query("select 1")?])?;
            stream.write_all(b"\x21garbage that is no message")?;
            let answer = wire::read_message(&mut stream)?;
            ensure!(answer.kind == b'E' && answer.field(b'C').as_deref() == Some("08P01"), "{answer:?}");
            drop(stream);
            let records = stage.pgusher.trail.statements()?;
            have(records.get(..2).unwrap_or_default(), &[
                json!({"type": "statement", "outcome": "completed"}),
                json!({"type": "protocol_violation", "seq": 2, "side": "client", "rule": "unknown_type", "user": "postgres"}),
            ])?;
            let session = stage.pgusher.trail.only_session()?;
            has(&session, &json!({"statements": {"level": "stopped_at_violation"}}))
        })?;
    }
    Ok(())
}

#[test]
fn a_server_that_breaks_the_protocol_is_relayed_and_recorded() -> Result<()> {
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = server.local_addr()?.port();
    audited(Version::V15).port(port).play(|stage| {
        let fake = thread::spawn(move || -> Result<()> {
            let mut accepted = wire::accept(&server).context("StartupMessage")?;
            accepted.write_all(FAKE_LOGIN)?;
            Ok(accepted.write_all(b"!nonsense")?)
        });
        let mut stream = stage.dialer()?.dial(port)?;
        stream.write_all(&wire::startup("postgres")?)?;
        let mut received = Vec::new();
        stream.read_to_end(&mut received)?;
        drop(stream);
        fake.join().map_err(|_| anyhow!("the fake server panicked"))??;
        ensure!(received == [FAKE_LOGIN, b"!nonsense"].concat(), "{received:?}");
        have(&stage.pgusher.trail.statements()?, &[
            json!({"type": "protocol_violation", "seq": 1, "side": "server", "rule": "unknown_type"}),
        ])
    })
}

#[test]
fn cancel_requests_and_refused_sessions_have_no_statements() -> Result<()> {
    audited(Version::V15).play(|stage| {
        let mut psql = stage.psql("select 1")?;
        run(psql.env("PGDATABASE", "no_such_database"))?.failure()?;
        let mut stream = stage.dial()?;
        let body = [0, 0, 0, 1, 0, 0, 0, 2];
        stream.write_all(&wire::packet(wire::CANCEL_REQUEST, &body)?)?;
        let mut nothing = Vec::new();
        stream.read_to_end(&mut nothing)?;
        drop(stream);
        let sessions = stage.pgusher.trail.wait_for_sessions(2)?;
        for session in sessions {
            let level = if session["kind"] == "cancel" {
                "none"
            } else {
                "statements"
            };
            has(
                &session,
                &json!({"statements": {"level": level, "recorded": 0, "lost": 0}}),
            )?;
        }
        Ok(())
    })
}
