//! What an idle session costs a proxy in memory: many of them with the stand-in, and the proxy's resident memory before and
//! after, in a proxy that has done nothing else.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::grid::Grid;
use super::sessions::{self, HOLDING};
use super::ways::{self, Through, Way};
use crate::interrupt;
use crate::playground::{Lane, Playground, descriptors};

/// How this table and its only line are called.
pub(super) const NAME: &str = "idle";
/// Sessions that are held where the limit on descriptors allows as many.
const SESSIONS: u32 = 10_000;
/// Memory is asked for until it says the same twice, this far apart, for so long at most.
const SETTLING: Duration = Duration::from_millis(500);
const SETTLED_BY: Duration = Duration::from_secs(10);

/// Measures one proxy after another; ways without one have no memory of their own.
///
/// # Errors
///
/// When a proxy does not start, or does not let in as many.
pub(super) fn measure(playground: &Playground, ways: &[Way]) -> Result<Grid> {
    let titles = [
        "way",
        "sessions",
        "MB before",
        "MB with them",
        "KiB a session",
    ];
    let count = SESSIONS.min(descriptors::sessions()?);
    let mut grid = Grid::new(titles.map(str::to_owned).to_vec());
    for way in ways {
        if matches!(way.through, Through::Nothing) {
            continue;
        }
        eprintln!("  idle sessions, {}", way.name);
        let lane = ways::open(playground, *way)?;
        let memory = hold(&lane, count)
            .with_context(|| lane.failure(&format!("idle sessions, {}", way.name)))?;
        grid.add(row(way.name, count, memory));
    }
    Ok(grid)
}

/// Resident KiB before the sessions, and with them.
#[derive(Clone, Copy)]
struct Memory {
    before: u32,
    with: u32,
}

fn row(name: &str, count: u32, memory: Memory) -> Vec<String> {
    let megabytes = |kib: u32| format!("{:.1}", f64::from(kib) * 1_024.0 / 1e6);
    let grown = f64::from(memory.with) - f64::from(memory.before);
    vec![
        name.to_owned(),
        count.to_string(),
        megabytes(memory.before),
        megabytes(memory.with),
        format!("{:.1}", grown / f64::from(count)),
    ]
}

fn hold(lane: &Lane, count: u32) -> Result<Memory> {
    let before = settled(lane)?;
    let redirected = lane.redirected()?;
    let client = sessions::held(lane.stand_in()?, count)?;
    let mut holder = lane
        .send(&client)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the client")?;
    let with = wait_until_held(&mut holder).and_then(|()| settled(lane));
    // Its input ends here, and with it the sessions.
    drop(holder.stdin.take());
    let status = holder.wait().context("cannot wait for the client")?;
    let with = with?;
    ensure!(status.success(), "the client failed ({status})");
    if let Some((before, after)) = redirected.zip(lane.redirected()?) {
        ensure!(
            after - before >= u64::from(count),
            "pgusher saw {} connects: the numbers would mean nothing",
            after - before
        );
    }
    Ok(Memory { before, with })
}

fn wait_until_held(holder: &mut Child) -> Result<()> {
    let output = holder.stdout.take().context("the client has no output")?;
    let mut line = String::new();
    BufReader::new(output)
        .read_line(&mut line)
        .context("cannot read from the client")?;
    interrupt::check()?;
    ensure!(
        line.trim() == HOLDING,
        "the client did not get its sessions"
    );
    Ok(())
}

/// Waits until the proxy's memory stands still: what it frees, it frees a moment later.
fn settled(lane: &Lane) -> Result<u32> {
    let resident = || lane.resident_kib()?.context("there is no proxy");
    let deadline = Instant::now() + SETTLED_BY;
    let mut last = resident()?;
    loop {
        thread::sleep(SETTLING);
        interrupt::check()?;
        let now = resident()?;
        if now == last || Instant::now() > deadline {
            return Ok(now);
        }
        last = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_costs_what_the_memory_has_grown_by() {
        let memory = Memory {
            before: 10_000,
            with: 170_000,
        };
        assert_eq!(
            row("sessions", 10_000, memory),
            ["sessions", "10000", "10.2", "174.1", "16.0"]
        );
    }
}
