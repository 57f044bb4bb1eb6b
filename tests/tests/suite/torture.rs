//! Streams whose every byte is known in advance, through every data path: what arrives, and how it ends.
//!
//! The peers are the program `torture`: what a session says, in what portions, when it stops reading, and which side ends
//! it in what way is made from a seed. What a direct connection would deliver arrives, in order, once, and the end is what
//! a direct connection would give; [`verdict`] says which that is, and the same rules are applied to a direct connection,
//! so that they are known to be right. A failure prints the seed that leads there again.
//!
//! These tests play one round each. `cargo xtask torture` plays rounds for minutes.

mod effort;
mod ends;
mod load;
mod peers;
mod postgres;
mod report;
mod stalled;
mod verdict;

use anyhow::{Context, Result, bail, ensure};
use pgusher_tests::cgroup::TestCgroup;
use pgusher_tests::cluster::{Version, free_port};
use pgusher_tests::data_path::{self, DataPath};
use pgusher_tests::stage::{Setup, Stage};
use serde_json::Value;

use crate::identity::PATIENT;

/// Whether a data path's sessions are to have used it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// Some are, or the test proves nothing.
    Some,
    /// They may be too short for that.
    Perhaps,
}

/// Plays rounds on a stage for each data path, where a port is intercepted that is the test's own.
fn on_every_path(round: impl Fn(&mut Stage, u16, u64) -> Result<()>) -> Result<()> {
    play(Use::Some, round)
}

fn play(path_use: Use, round: impl Fn(&mut Stage, u16, u64) -> Result<()>) -> Result<()> {
    for path in data_path::chosen()? {
        let port = free_port()?;
        let setup = Setup::with(Version::V15)
            .port(port)
            // Of so much at once a thread may be slow to answer; whoever connects then is to be intercepted all the same.
            .argument(PATIENT)
            .arguments(path.arguments);
        setup.play(|stage| {
            for seed in effort::rounds()? {
                round(stage, port, seed).with_context(|| again(path, seed))?;
            }
            was_taken(path, path_use, &stage.pgusher.status()?)
        })?;
    }
    Ok(())
}

/// Checks that no connect went past pgusher, and that the path was one: where the kernel has no fast path, the status says why.
fn was_taken(path: DataPath, path_use: Use, status: &Value) -> Result<()> {
    let unserved = status.pointer("/kernel/unserved");
    ensure!(
        unserved == Some(&Value::from(0)),
        "not intercepted: {status}"
    );
    if path.arguments.is_empty() || path_use == Use::Perhaps {
        return Ok(());
    }
    let state = status.pointer("/fast_path/state").and_then(Value::as_str);
    let count = |name| {
        let count = status.pointer(&format!("/fast_path/{name}"));
        count.and_then(Value::as_u64)
    };
    let joined = ["client_legs", "server_legs", "direct"].map(count);
    let joined = joined.into_iter().max().flatten();
    match (state, joined, count("redirected")) {
        (Some("impossible"), None, None) => Ok(()),
        (Some("on"), Some(1..), Some(1..)) => Ok(()),
        _ => bail!("the fast path was not taken: {status}"),
    }
}

/// Plays rounds without pgusher, and then on every path: rules that a direct connection breaks are no rules.
fn directly_and_on_every_path(round: impl Fn(&TestCgroup, u16, u64) -> Result<()>) -> Result<()> {
    play_directly_too(Use::Some, round)
}

fn play_directly_too(
    path_use: Use,
    round: impl Fn(&TestCgroup, u16, u64) -> Result<()>,
) -> Result<()> {
    play(path_use, |stage, port, seed| {
        round(&TestCgroup::create()?, port, seed).context("without pgusher")?;
        round(&stage.cgroup, port, seed)
    })
}

/// What a person can do about a failure.
fn again(path: DataPath, seed: u64) -> String {
    let name = path.name;
    format!("data path {name}; again: cargo xtask torture --path {name} --seed {seed:016x}")
}
