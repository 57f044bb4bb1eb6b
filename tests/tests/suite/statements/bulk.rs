//! Much data under statement audit: nothing of it is kept.

use std::io::{Read, Write};

use anyhow::{Context, Result, ensure};
use pgusher_tests::cluster::Version;
use pgusher_tests::stage::Stage;
use pgusher_tests::wire;
use serde_json::json;

use super::{audited, exchange, has, leave, log_in};

/// How much pgusher may grow: buffers and sockets, never the data.
const ALLOWED_GROWTH_KIB: u64 = 16 * 1024;
/// One value or text, in bytes.
const HUGE: usize = 256 << 20;

fn grew_little(stage: &Stage, before: u64) -> Result<()> {
    let now = stage.pgusher.resident_kib()?;
    ensure!(
        now < before + ALLOWED_GROWTH_KIB,
        "resident memory grew from {before} to {now} KiB"
    );
    Ok(())
}

/// Reads and drops so many bytes.
fn skip(stream: &mut impl Read, bytes: usize) -> Result<()> {
    let skipped = std::io::copy(&mut stream.take(bytes as u64), &mut std::io::sink())?;
    ensure!(
        skipped == bytes as u64,
        "the stream ended after {skipped} bytes"
    );
    Ok(())
}

/// Reads the length word of a message whose type is read already.
fn body_length(stream: &mut impl Read) -> Result<usize> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    usize::try_from(u32::from_be_bytes(length))?
        .checked_sub(4)
        .context("length below 4")
}

#[test]
fn two_gigabytes_of_copy_leave_memory_flat_and_are_counted_exactly() -> Result<()> {
    audited(Version::V18).play(|stage| {
        let mut stream = log_in(stage)?;
        exchange(&mut stream, &[wire::query("select 1")?])?;
        let before = stage.pgusher.resident_kib()?;
        let rows: usize = 2_000_000;
        stream.write_all(&wire::query(&format!(
            "copy (select repeat('x', 1073) from generate_series(1, {rows})) to stdout"
        ))?)?;
        wire::read_through(&mut stream, b'H')?;
        // Of each CopyData, type and length are five bytes and the newline one.
        let portions = 10;
        for _ in 0..portions {
            skip(&mut stream, (1073 + 6) * rows / portions)?;
            grew_little(stage, before)?;
        }
        wire::read_through(&mut stream, b'Z')?;
        leave(stream)?;
        let records = stage.pgusher.trail.statements()?;
        let copied =
            json!([{"direction": "out", "bytes_from_client": 0, "bytes_from_server": 1074 * rows}]);
        has(
            &records[1],
            &json!({"tags": [format!("COPY {rows}")], "rows": rows, "copies": copied}),
        )
    })
}

#[test]
fn a_text_of_256_megabytes_passes_in_constant_memory() -> Result<()> {
    audited(Version::V18).play(|stage| {
            let mut stream = log_in(stage)?;
            exchange(&mut stream, &[wire::query("select 1")?])?;
            let before = stage.pgusher.resident_kib()?;
            let (head, tail) = ("select length('", "')\0");
            let length = u32::try_from(head.len() + HUGE + tail.len() + 4)?;
            stream.write_all(&[&b"Q"[..], &length.to_be_bytes(), head.as_bytes()].concat())?;
            let portion = vec![b'x'; 1 << 20];
            for _ in 0..HUGE / portion.len() {
                stream.write_all(&portion)?;
            }
            grew_little(stage, before)?;
            stream.write_all(tail.as_bytes())?;
            wire::read_through(&mut stream, b'Z')?;
            grew_little(stage, before)?;
            leave(stream)?;
            let records = stage.pgusher.trail.statements()?;
            has(&records[1], &json!({"outcome": "completed", "rows": 1, "sql": {"bytes": HUGE + 17, "truncated": true}}))?;
            let sha256 = records[1]["sql"]["sha256"].as_str().unwrap_or_default();
            ensure!(sha256.len() == 64, "{sha256}");
            Ok(())
        })
}

#[test]
fn a_value_of_256_megabytes_passes_in_constant_memory() -> Result<()> {
    audited(Version::V15).play(|stage| {
        let mut stream = log_in(stage)?;
        exchange(&mut stream, &[wire::query("select 1")?])?;
        let before = stage.pgusher.resident_kib()?;
        stream.write_all(&wire::query(&format!("select repeat('x', {HUGE})"))?)?;
        wire::read_through(&mut stream, b'T')?;
        let mut kind = [0];
        stream.read_exact(&mut kind)?;
        let length = body_length(&mut stream)?;
        ensure!(kind == *b"D" && length == HUGE + 6, "{kind:?} of {length}");
        for _ in 0..8 {
            skip(&mut stream, HUGE / 8)?;
            grew_little(stage, before)?;
        }
        skip(&mut stream, 6)?;
        wire::read_through(&mut stream, b'Z')?;
        leave(stream)?;
        has(
            &stage.pgusher.trail.statements()?[1],
            &json!({"tags": ["SELECT 1"], "rows_sent": 1}),
        )
    })
}
