//! Much data, and data in awkward portions: nothing changes, nothing piles up in memory.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use pgusher_tests::cgroup::TestCgroup;
use pgusher_tests::cluster::{Cluster, VERSIONS, Version};
use pgusher_tests::process::run;
use pgusher_tests::programs::c_client;
use pgusher_tests::stage::{Setup, Stage};
use pgusher_tests::wire::{self, FAKE_LOGIN};

use crate::expect::{accepted_session, field_is};

/// Yields 1,000,000 rows of 1,025 bytes: 1 GB.
const GIGABYTE: &str = "select repeat(md5(i::text), 32) as line from generate_series(1, 1000000) i";

/// How much pgusher may grow while a client does not read: buffers and sockets, never the result.
const ALLOWED_GROWTH_KIB: u64 = 16 * 1024;

/// A shell pipeline in the cgroup with this version's psql as `psql`.
fn shell(cgroup: &TestCgroup, cluster: &Cluster, script: &str) -> Result<String> {
    let mut command = cluster.client(cgroup, "psql")?;
    let psql: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    command = cgroup.command("bash")?;
    cluster.point_at(&mut command);
    let psql = format!(
        "psql() {{ {} -Xqv ON_ERROR_STOP=1 \"$@\"; }}; set -o pipefail; {script}",
        psql.join(" ")
    );
    Ok(run(command.args(["-c", &psql]))?.success()?.to_owned())
}

#[test]
fn copy_out_of_a_gigabyte_arrives_unchanged() -> Result<()> {
    Setup::with(Version::V18).play(|stage| {
        let script = format!("psql -c 'copy ({GIGABYTE}) to stdout' | sha256sum");
        let through = shell(&stage.cgroup, stage.cluster, &script)?;
        let outside = TestCgroup::create()?;
        let direct = shell(&outside, stage.cluster, &script)?;
        ensure!(
            through == direct,
            "checksums differ: {through} through pgusher, {direct} without"
        );
        let record = stage.pgusher.trail.only_session()?;
        let bytes = record["bytes_to_client"].as_u64().context("a number")?;
        ensure!(
            bytes > 1_025_000_000,
            "the audit record counts only {bytes} bytes"
        );
        Ok(())
    })
}

#[test]
fn copy_in_of_a_gigabyte_arrives_unchanged() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        stage
            .cluster
            .sql("drop table if exists copied; create unlogged table copied (line text)")?;
        let generator = "awk 'BEGIN { for (i = 0; i < 64; i++) s = s \"0123456789abcdef\"; \
                         for (n = 1; n <= 1000000; n++) print n s }'";
        shell(
            &stage.cgroup,
            stage.cluster,
            &format!("{generator} | psql -c 'copy copied from stdin'"),
        )?;
        let counted = stage
            .cluster
            .sql("select count(*), sum(hashtext(line)::bigint) from copied")?;
        let expected = stage.cluster.sql(
            "select count(*), sum(hashtext(n || repeat('0123456789abcdef', 64))::bigint)
             from generate_series(1, 1000000) n",
        )?;
        stage.cluster.sql("drop table copied")?;
        ensure!(
            counted == expected,
            "{counted} arrived, {expected} was sent"
        );
        let record = stage.pgusher.trail.only_session()?;
        let bytes = record["bytes_to_server"].as_u64().context("a number")?;
        ensure!(
            bytes > 1_000_000_000,
            "the audit record counts only {bytes} bytes"
        );
        Ok(())
    })
}

#[test]
fn a_single_value_of_200_megabytes_travels_both_ways() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let before = stage.pgusher.resident_kib()?;
        let conninfo = stage.conninfo("postgres");
        let finished =
            run(c_client(&stage.cgroup, "libpq")?.args(["value", &conninfo, "200000000"]))?;
        finished.success()?;
        ensure!(finished.value("value")? == "same", "{finished:?}");
        grew_little(stage, before)
    })
}

#[test]
fn a_client_that_stops_reading_stalls_the_server_not_pgusher() -> Result<()> {
    for version in VERSIONS {
        Setup::with(version).play(|stage| {
            let mut stream = stage.dial()?;
            wire::log_in(&mut stream, "postgres")?;
            let backend = wire::ask(&mut stream, "select pg_backend_pid()")?;
            let before = stage.pgusher.resident_kib()?;
            stream.write_all(&wire::query(
                "select repeat('x', 1000000) from generate_series(1, 3000)",
            )?)?;
            let waits = format!("select wait_event from pg_stat_activity where pid = {backend}");
            stage.cluster.wait_for_rows(&waits, "ClientWrite")?;
            grew_little(stage, before)?;

            // Another session is not held up by the one that stalls.
            ensure!(run(&mut stage.psql("select 1")?)?.success()? == "1");
            // Half of the result, then the client leaves with the rest unread.
            let mut portion = vec![0_u8; 1_000_000];
            for _ in 0..1500 {
                stream.read_exact(&mut portion)?;
            }
            grew_little(stage, before)?;
            drop(stream);
            stage.cluster.wait_for_rows(
                &format!("select count(*) from pg_stat_activity where pid = {backend}"),
                "0",
            )
        })?;
    }
    Ok(())
}

fn grew_little(stage: &Stage, before: u64) -> Result<()> {
    let now = stage.pgusher.resident_kib()?;
    ensure!(
        now < before + ALLOWED_GROWTH_KIB,
        "resident memory grew from {before} to {now} KiB"
    );
    Ok(())
}

#[test]
fn a_server_that_stops_reading_stalls_the_client_not_pgusher() -> Result<()> {
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = server.local_addr()?.port();
    Setup::with(Version::V15).port(port).play(|stage| {
        let mut stream = stage.dialer()?.dial(port)?;
        stream.write_all(&wire::startup("postgres")?)?;
        let mut accepted = wire::accept(&server)?;
        accepted.write_all(FAKE_LOGIN)?;
        wire::read_through(&mut stream, b'Z')?;
        let before = stage.pgusher.resident_kib()?;
        let sent = write_until_blocked(&mut stream)?;
        grew_little(stage, before)?;
        // What had to wait was not lost.
        let mut rest = vec![0_u8; sent];
        accepted.read_exact(&mut rest)?;
        ensure!(
            rest.iter().all(|byte| *byte == 7),
            "bytes changed on the way"
        );
        Ok(())
    })
}

/// Writes sevens until the socket takes no more for good; returns how many it took.
fn write_until_blocked(stream: &mut TcpStream) -> Result<usize> {
    let portion = [7_u8; 65536];
    stream.set_write_timeout(Some(std::time::Duration::from_secs(1)))?;
    let mut sent = 0;
    loop {
        match stream.write(&portion) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(sent),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
        ensure!(
            sent < 1 << 30,
            "the socket takes a gigabyte that nobody reads"
        );
    }
}

#[test]
fn a_client_may_send_a_byte_at_a_time() -> Result<()> {
    for version in VERSIONS {
        Setup::with(version).play(|stage| {
            let mut stream = stage.dial()?;
            let conversation = [
                wire::packet(wire::SSL_REQUEST, &[])?,
                wire::startup("postgres")?,
                wire::query("select repeat('abc', 1000)")?,
                wire::message(b'X', &[])?,
            ];
            let mut answer = [0_u8; 1];
            trickle(&mut stream, &conversation[0])?;
            stream.read_exact(&mut answer)?;
            ensure!(
                answer == *b"S",
                "the server answers SSLRequest with {answer:?}"
            );
            drop(stream);

            let mut stream = stage.dial()?;
            trickle(&mut stream, &conversation[1])?;
            wire::read_through(&mut stream, b'Z')?;
            trickle(&mut stream, &conversation[2])?;
            let rows = wire::read_through(&mut stream, b'Z')?;
            ensure!(
                rows.iter()
                    .any(|row| row.kind == b'D' && row.body.len() == 3006),
                "{rows:?}"
            );
            trickle(&mut stream, &conversation[3])?;
            drop(stream);
            let record = stage
                .pgusher
                .trail
                .wait_for_session("a login", |record| record["kind"] == "session")?;
            accepted_session(&record, "postgres")
        })?;
    }
    Ok(())
}

fn trickle(stream: &mut impl Write, bytes: &[u8]) -> Result<()> {
    for byte in bytes {
        stream.write_all(std::slice::from_ref(byte))?;
    }
    Ok(())
}

#[test]
fn a_server_may_send_a_byte_at_a_time() -> Result<()> {
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = server.local_addr()?.port();
    let login = [
        wire::message(b'R', &0_u32.to_be_bytes())?,
        wire::message(b'S', b"server_version\x0015.0\0")?,
        wire::message(b'K', &[0, 0, 0, 77, 1, 2, 3, 4])?,
        wire::message(b'Z', b"I")?,
    ]
    .concat();
    let expected = login.clone();
    Setup::with(Version::V15).port(port).play(|stage| {
        let fake = thread::spawn(move || -> Result<()> {
            let mut accepted = wire::accept(&server).context("SSLRequest")?;
            accepted.set_nodelay(true)?;
            accepted.write_all(b"N")?;
            wire::read_packet(&mut accepted).context("StartupMessage")?;
            trickle(&mut accepted, &login)
        });
        let mut stream = stage.dialer()?.dial(port)?;
        stream.write_all(&wire::packet(wire::SSL_REQUEST, &[])?)?;
        let mut answer = [0_u8; 1];
        stream.read_exact(&mut answer)?;
        stream.write_all(&wire::startup("postgres")?)?;
        let mut received = Vec::new();
        stream.read_to_end(&mut received)?;
        drop(stream);
        fake.join()
            .map_err(|_| anyhow!("the fake server panicked"))??;
        ensure!(
            answer == *b"N" && received == expected,
            "received {answer:?} and {received:?}"
        );
        let record = stage.pgusher.trail.only_session()?;
        field_is(&record, "/encryption", "refused")?;
        field_is(&record, "/login/outcome", "accepted")?;
        field_is(&record, "/login/backend_pid", 77)?;
        field_is(&record, "/close", "server_closed")
    })
}
