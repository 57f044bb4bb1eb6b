//! Every end there is, many times: the orderly ones, resets, and peers that are killed.

use anyhow::Result;

use super::effort::is_long;
use super::peers::{Killed, Peers, Round};
use super::report::Side;
use super::{Use, directly_and_on_every_path, play_directly_too};

/// How many sessions are killed together.
const DOOMED: u32 = 32;

#[test]
fn streams_of_every_size_arrive_as_they_would_directly_and_end_so() -> Result<()> {
    directly_and_on_every_path(|cgroup, port, seed| {
        let round = Round {
            seed,
            sessions: if is_long() { 400 } else { 96 },
            at_once: 12,
            bits: if is_long() { 25 } else { 22 },
        };
        Peers::start(port)?.play(cgroup, round)
    })
}

#[test]
fn two_thousand_short_connections_lose_nothing() -> Result<()> {
    // They are over before a fast path would be worth its while.
    play_directly_too(Use::Perhaps, |cgroup, port, seed| {
        let round = Round {
            seed,
            sessions: 2000,
            at_once: 8,
            bits: 10,
        };
        Peers::start(port)?.play(cgroup, round)
    })
}

#[test]
fn what_a_killed_peer_had_sent_arrives_before_its_end() -> Result<()> {
    kill_either_side(Killed::Parked, 18)
}

#[test]
fn whoever_survives_a_peer_that_is_killed_in_the_midst_is_told() -> Result<()> {
    kill_either_side(Killed::UnderWay, 24)
}

fn kill_either_side(killed: Killed, bits: u32) -> Result<()> {
    // They may have said too little by then, or all of it in bulk.
    play_directly_too(Use::Perhaps, |cgroup, port, seed| {
        for side in [Side::Client, Side::Server] {
            let round = Round {
                seed,
                sessions: DOOMED,
                at_once: DOOMED,
                bits,
            };
            Peers::start(port)?.play_killing(cgroup, round, (side, killed))?;
        }
        Ok(())
    })
}
