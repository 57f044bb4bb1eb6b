//! Many sessions at once, and little memory for their sockets.

use std::process::Command;

use anyhow::Result;
use pgusher_tests::cgroup::memory::MemoryGroup;
use pgusher_tests::programs::compiled;

use super::effort::is_long;
use super::peers::{Peers, Round};
use super::{directly_and_on_every_path, on_every_path};

/// What all sockets of pgusher and of the peers may have. Those that want more are slowed down, and lose nothing. Clients are in
/// the intercepted cgroup, and not among them where that has the memory controller.
const SOCKET_MEMORY: u64 = 2 << 20;

#[test]
fn five_hundred_sessions_at_once_lose_nothing() -> Result<()> {
    directly_and_on_every_path(|cgroup, port, seed| {
        let round = Round {
            seed,
            sessions: 500,
            at_once: 500,
            bits: 14,
        };
        Peers::start(port)?.play(cgroup, round)
    })
}

#[test]
fn nothing_is_lost_where_sockets_have_hardly_any_memory() -> Result<()> {
    on_every_path(|stage, port, seed| {
        let group = MemoryGroup::create(&stage.cgroup)?;
        stage.kill()?;
        let wrapper = group.wrapper();
        stage.restart_below(&wrapper.each_ref().map(String::as_str))?;
        let program = compiled("torture")?;
        let within = |mut command: Command| {
            command.args(wrapper.iter().skip(1)).arg(&program);
            command
        };
        let [shell, ..] = &wrapper;
        let round = Round {
            seed,
            // In a guest without virtualisation sixty-four longer ones take as many minutes as there are.
            sessions: if is_long() { 64 } else { 24 },
            at_once: 16,
            bits: if is_long() { 20 } else { 18 },
        };
        let peers = Peers::start_as(&mut within(Command::new(shell)), port)?;
        group.squeeze_sockets(SOCKET_MEMORY)?;
        let mut clients = if group.is_apart() {
            within(stage.cgroup.command(shell)?)
        } else {
            stage.cgroup.command(&program)?
        };
        peers.play_as(&mut clients, round)
    })
}
