//! The same with a real server: COPY both ways, short queries and cancel requests, all at once.

use std::io::{Read, Write};
use std::iter;
use std::net::TcpStream;
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use fastrand::Rng;
use openssl::hash::{Hasher, MessageDigest};
use pgusher_tests::stage::Stage;
use pgusher_tests::wire::{self, Message};

use super::on_every_path;

/// How many sessions at once.
const SESSIONS: u64 = 4;
/// How many things each of them does, one after the other.
const DEEDS: usize = 12;
const MOST_ROWS: usize = 1500;
const MOST_LINE_BYTES: usize = 4096;
/// What is written at once of a COPY.
const MOST_PORTION_BYTES: usize = 100_000;

/// Rows in COPY's text format, `number<tab>line`; and the digest of the lines.
struct Rows {
    text: Vec<u8>,
    lines_md5: String,
}

fn md5_of<'a>(parts: impl Iterator<Item = &'a [u8]>) -> Result<String> {
    let mut hasher = Hasher::new(MessageDigest::md5())?;
    for part in parts {
        hasher.update(part)?;
    }
    let digest = hasher.finish()?;
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn random_rows(random: &mut Rng) -> Result<Rows> {
    let mut text = Vec::new();
    let mut lines = Vec::new();
    for number in 0..random.usize(1..MOST_ROWS) {
        let most = MOST_LINE_BYTES >> random.u32(0..12);
        let length = random.usize(0..=most);
        let line: Vec<u8> = iter::repeat_with(|| random.alphanumeric() as u8)
            .take(length)
            .collect();
        write!(text, "{number}\t")?;
        text.extend_from_slice(&line);
        text.push(b'\n');
        lines.push(line);
    }
    Ok(Rows {
        lines_md5: md5_of(lines.iter().map(Vec::as_slice))?,
        text,
    })
}

/// Rows go to a table, and come back as they were; the server thinks so too.
fn copy_both_ways(stream: &mut TcpStream, random: &mut Rng) -> Result<()> {
    let rows = random_rows(random)?;
    stream.write_all(&wire::query("truncate kept; copy kept from stdin")?)?;
    wire::read_through(stream, b'G')?;
    let mut rest = rows.text.as_slice();
    while !rest.is_empty() {
        let portion = random.usize(1..MOST_PORTION_BYTES).min(rest.len());
        let (now, later) = rest.split_at(portion);
        stream.write_all(&wire::message(b'd', now)?)?;
        rest = later;
    }
    stream.write_all(&wire::message(b'c', &[])?)?;
    wire::read_through(stream, b'Z')?;
    let kept = wire::ask(
        stream,
        "select md5(coalesce(string_agg(line, '' order by number), '')) from kept",
    )?;
    ensure!(
        kept == rows.lines_md5,
        "the server has {kept}, and {} was sent",
        rows.lines_md5
    );
    stream.write_all(&wire::query(
        "copy (select * from kept order by number) to stdout",
    )?)?;
    let answers = wire::read_through(stream, b'Z')?;
    let back = answers
        .iter()
        .filter(|answer| answer.kind == b'd')
        .map(|answer| answer.body.as_slice());
    let (back, sent) = (md5_of(back)?, md5_of(iter::once(rows.text.as_slice()))?);
    ensure!(back == sent, "{back} came back, and {sent} was sent");
    Ok(())
}

fn short_queries(stream: &mut TcpStream, random: &mut Rng) -> Result<()> {
    for _ in 0..random.usize(1..60) {
        let (one, other) = (random.u32(..1 << 20), random.u32(..1 << 20));
        let sum = wire::ask(stream, &format!("select {one} + {other}"))?;
        ensure!(sum == (one + other).to_string(), "{one} + {other} = {sum}");
    }
    Ok(())
}

/// A long result of equal rows, which is cancelled on the way: whole rows come, then the error, then the session goes on.
fn cancel_a_result(
    stage: &Stage,
    stream: &mut TcpStream,
    key: &[u8],
    random: &mut Rng,
) -> Result<()> {
    let width = random.usize(1..20_000);
    stream.write_all(&wire::query(&format!(
        "select repeat('x', {width}) from generate_series(1, 10000) a, generate_series(1, 10000) b"
    ))?)?;
    let mut asked = None;
    let cancel_at = random.usize(1..300);
    let value = vec![b'x'; width];
    for number in 0.. {
        if number == cancel_at {
            let mut other = stage.dial()?;
            other.write_all(&wire::packet(wire::CANCEL_REQUEST, key)?)?;
            asked = Some(other);
        }
        match wire::read_message(stream)? {
            Message { kind: b'D', body } => ensure!(
                body.get(6..) == Some(value.as_slice()),
                "row {number} has {} bytes, and not {width}",
                body.len()
            ),
            Message { kind: b'T', .. } => {}
            message => {
                let code = message.field(b'C');
                ensure!(
                    code.as_deref() == Some("57014"),
                    "{code:?} instead of a cancelled query"
                );
                break;
            }
        }
    }
    wire::read_through(stream, b'Z')?;
    let mut other = asked.context("nobody has asked for it yet")?;
    ensure!(other.read(&mut [0])? == 0, "a cancel request has no answer");
    Ok(())
}

/// One session's deeds.
fn play(stage: &Stage, seed: u64) -> Result<()> {
    let mut random = Rng::with_seed(seed);
    let mut stream = stage.dial()?;
    let key = wire::log_in(&mut stream, "postgres")?;
    stream.write_all(&wire::query(
        "create temporary table kept (number int, line text)",
    )?)?;
    wire::read_through(&mut stream, b'Z')?;
    for deed in 0..DEEDS {
        match random.u32(0..3) {
            0 => copy_both_ways(&mut stream, &mut random).context("COPY"),
            1 => short_queries(&mut stream, &mut random).context("short queries"),
            _ => cancel_a_result(stage, &mut stream, &key, &mut random).context("cancelling"),
        }
        .with_context(|| format!("deed {deed} of the session with seed {seed:016x}"))?;
    }
    stream.write_all(&wire::message(b'X', &[])?)?;
    ensure!(
        stream.read(&mut [0])? == 0,
        "the server says something after Terminate"
    );
    Ok(())
}

#[test]
fn rows_queries_and_cancel_requests_go_to_a_real_server_and_back_unchanged() -> Result<()> {
    on_every_path(|stage, _, seed| {
        let stage: &Stage = stage;
        // It ends with the thread that starts it.
        stage.dialer()?;
        thread::scope(|scope| {
            let sessions: Vec<_> = (0..SESSIONS)
                .map(|number| scope.spawn(move || play(stage, seed.wrapping_add(number))))
                .collect();
            sessions.into_iter().try_for_each(|session| {
                session.join().map_err(|_| anyhow!("a session panicked"))?
            })
        })
    })
}
