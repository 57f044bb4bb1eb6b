//! Readers that stop: what is queued for them is bounded wherever it is, and arrives when they go on.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use fastrand::Rng;
use pgusher_tests::cgroup::memory::MemoryGroup;
use pgusher_tests::condition::DEADLINE;
use pgusher_tests::nonblocking::Nonblocking;
use pgusher_tests::process::run;
use pgusher_tests::wire::{self, FAKE_LOGIN};

use super::on_every_path;
use super::report::Side;

/// One CopyData message; all are the same, and none is like itself moved.
const FRAME_BYTES: usize = 64 * 1024;
/// After so many answers a session is on the fast path, if there is one.
const EXCHANGES: usize = 16;
/// A sender that is never held up has sent so much; it is more than all buffers together.
const FAR_TOO_MUCH: u64 = 3 << 30;
/// How much more may be queued than directly: there are four socket buffers instead of two, and pgusher's own.
const TIMES_DIRECT: u64 = 4;
const MORE_QUEUED: u64 = 8 << 20;
/// What a slow reader is sent, and takes at a time.
const SLOW_BYTES: u64 = 256 << 20;
const SLOW_PORTION: usize = 1 << 20;
/// The largest buffers a kernel gives by itself, twice; and pgusher's own.
const MOST_QUEUED_FOR_SLOW: u64 = 160 << 20;
/// How much the memory of the session's four sockets may grow.
const MOST_OF_SOCKETS: u64 = 64 << 20;
/// How much pgusher's group may.
const MOST_OF_GROUP: u64 = 64 << 20;
/// Who takes nothing for so long is held up for good.
const HELD_UP: Duration = Duration::from_secs(1);

/// Whoever sends, and whoever is to read.
struct Pair {
    sender: Nonblocking,
    reader: Nonblocking,
    frame: Vec<u8>,
}

impl Pair {
    /// Logs in, asks often enough to be put on the fast path, and begins a COPY in the direction in which `from` sends.
    fn begin(client: TcpStream, at: &TcpListener, from: Side, seed: u64) -> Result<Self> {
        let mut client = Nonblocking::new(client)?;
        client.write_all(&wire::startup("postgres")?)?;
        let mut server = Nonblocking::new(wire::accept(at)?)?;
        server.write_all(FAKE_LOGIN)?;
        wire::read_through(&mut client, b'Z')?;
        let question = wire::query("some")?;
        let answer = [
            wire::message(b'C', b"SELECT 1\0")?,
            wire::message(b'Z', b"I")?,
        ];
        for _ in 0..EXCHANGES {
            client.write_all(&question)?;
            server.read_exact(&mut vec![0; question.len()])?;
            server.write_all(&answer.concat())?;
            wire::read_through(&mut client, b'Z')?;
        }
        let question = wire::query("copy much")?;
        client.write_all(&question)?;
        server.read_exact(&mut vec![0; question.len()])?;
        let (kind, sender, reader) = match from {
            Side::Client => (b'G', client.try_clone()?, server.try_clone()?),
            Side::Server => (b'H', server.try_clone()?, client.try_clone()?),
        };
        server.write_all(&wire::message(kind, &[0, 0, 0])?)?;
        wire::read_through(&mut client, kind)?;
        let mut body = vec![0; FRAME_BYTES - 5];
        Rng::with_seed(seed).fill(&mut body);
        Ok(Self {
            sender,
            reader,
            frame: wire::message(b'd', &body)?,
        })
    }

    /// Sends until nothing has been taken for [`HELD_UP`]; returns how many bytes were.
    fn fill(&mut self) -> Result<u64> {
        self.sender.set_patience(HELD_UP);
        let mut sent = 0;
        while sent < FAR_TOO_MUCH {
            match self.sender.write(rest_of(&self.frame, sent)) {
                Ok(count) => sent += count as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(sent),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(anyhow!("{sent} bytes are taken that nobody reads"))
    }

    /// Reads what was sent, and [`SLOW_BYTES`] more in portions while they are sent; returns how many were on their way
    /// at most.
    fn read_slowly(&mut self, sent: u64) -> Result<u64> {
        self.sender.set_patience(DEADLINE);
        let all = sent + SLOW_BYTES;
        let (sender, frame, so_far) = (&mut self.sender, &self.frame, &AtomicU64::new(sent));
        let reader = &mut self.reader;
        thread::scope(|scope| {
            let sending = scope.spawn(move || -> Result<()> {
                let mut sent = sent;
                while sent < all {
                    let rest = rest_of(frame, sent);
                    sent += sender.write(rest)? as u64;
                    so_far.store(sent, Ordering::Relaxed);
                }
                Ok(())
            });
            let mut portion = vec![0; SLOW_PORTION];
            let (mut read, mut most) = (0, 0);
            while read < all {
                let count = reader.read(&mut portion)?;
                ensure!(count > 0, "the stream ends after {read} of {all} bytes");
                most = most.max(so_far.load(Ordering::Relaxed).saturating_sub(read));
                let got = portion.get(..count).unwrap_or_default();
                is_meant(got, frame, read)?;
                read += count as u64;
            }
            sending
                .join()
                .map_err(|_| anyhow!("the sender panicked"))??;
            Ok(most)
        })
    }
}

/// What is still to be sent of the frame that is under way.
fn rest_of(frame: &[u8], sent: u64) -> &[u8] {
    let within = sent as usize % FRAME_BYTES;
    frame.get(within..).unwrap_or_default()
}

fn is_meant(mut got: &[u8], frame: &[u8], mut at: u64) -> Result<()> {
    while !got.is_empty() {
        let meant = rest_of(frame, at);
        let count = meant.len().min(got.len());
        let (now, later) = got.split_at(count);
        ensure!(
            Some(now) == meant.get(..count),
            "what comes at byte {at} or behind is not what was sent"
        );
        at += count as u64;
        got = later;
    }
    Ok(())
}

/// What the kernel holds for the sockets of the session between `client` and the server at `port`: those of other
/// tests' are not counted. In bytes.
fn memory_of_sockets(client: SocketAddr, port: u16) -> Result<u64> {
    let ends = [
        client.to_string(),
        format!("{}:{port}", Ipv4Addr::LOCALHOST),
    ];
    let shown = run(Command::new("ss").args(["-HOtnm", "state", "established"]))?;
    let of_session = shown.success()?.lines().filter(|line| {
        line.split_whitespace()
            .any(|word| ends.iter().any(|end| end == word))
    });
    let (mut sum, mut sockets) = (0, 0);
    for line in of_session {
        sockets += 1;
        let (_, fields) = line.split_once("skmem:(").context("no skmem")?;
        let fields = fields.split(')').next().unwrap_or_default().split(',');
        // Received, allocated ahead, queued to be sent, and on the backlog: ss(8).
        for kind in ["r", "f", "w", "bl"] {
            let numbers = fields.clone().filter_map(|field| field.strip_prefix(kind));
            sum += numbers
                .filter_map(|number| number.parse::<u64>().ok())
                .sum::<u64>();
        }
    }
    ensure!(
        sockets == 4,
        "{sockets} sockets of the session in {shown:?}"
    );
    Ok(sum)
}

fn stalls(from: Side) -> Result<()> {
    on_every_path(|stage, port, seed| {
        let group = MemoryGroup::create(&stage.cgroup)?;
        stage.kill()?;
        stage.restart_below(&group.wrapper().each_ref().map(String::as_str))?;
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let direct = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        let mut direct = Pair::begin(direct, &server, from, seed)?;
        let queued_directly = direct.fill()?;
        drop(direct);
        let client = stage.dialer()?.dial(port)?;
        let address = client.local_addr()?;
        let used = || -> Result<[u64; 3]> {
            let sockets = memory_of_sockets(address, port)?;
            Ok([sockets, group.used()?, stage.pgusher.resident_kib()?])
        };
        let mut through = Pair::begin(client, &server, from, seed)?;
        let before = used()?;
        let queued = through.fill()?;
        ensure!(
            queued < TIMES_DIRECT * queued_directly + MORE_QUEUED,
            "{queued} bytes are queued, and {queued_directly} directly"
        );
        let full = used()?;
        let slow = through.read_slowly(queued)?;
        ensure!(
            slow < MOST_QUEUED_FOR_SLOW,
            "{slow} bytes are queued for a slow reader"
        );
        let after = used()?;
        println!(
            "queued {queued_directly} directly, {queued} and {slow} through; memory {before:?}, {full:?}, {after:?}"
        );
        for now in [full, after] {
            ensure!(
                now[0] < before[0] + MOST_OF_SOCKETS && now[1] < before[1] + MOST_OF_GROUP,
                "sockets, pgusher's group, pgusher in KiB: {before:?}, and then {now:?}"
            );
        }
        Ok(())
    })
}

#[test]
fn a_result_that_nobody_reads_is_not_piled_up() -> Result<()> {
    stalls(Side::Server)
}

#[test]
fn what_a_server_does_not_read_is_not_piled_up() -> Result<()> {
    stalls(Side::Client)
}
