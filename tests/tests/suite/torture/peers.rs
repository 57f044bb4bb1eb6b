//! The program `torture`, as a server and as its clients; and what both say of a round.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use anyhow::{Error, Result, ensure};
use nix::sys::signal::Signal;
use pgusher_tests::cgroup::TestCgroup;
use pgusher_tests::condition::{Seen, wait_until_within};
use pgusher_tests::process::Running;
use pgusher_tests::programs::compiled;

use super::report::{Report, Side, cancelled, reports};
use super::verdict::{judge, judge_survivor};

/// How many sessions a failure shows.
const SHOWN: usize = 4;

/// What the clients of one round do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    pub(super) seed: u64,
    pub(super) sessions: u32,
    /// With as many as there are sessions, all are logged in before any goes on.
    pub(super) at_once: u32,
    /// Sizes are below two to the power of this. Queries and answers need more than 13.
    pub(super) bits: u32,
}

/// When a side is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Killed {
    /// When all its sessions wait for it.
    Parked,
    /// In the midst of everything.
    UnderWay,
}

/// A server, and what its clients and it say.
#[derive(Debug)]
pub(super) struct Peers {
    server: Running,
    port: u16,
}

impl Peers {
    /// Starts the server.
    pub(super) fn start(port: u16) -> Result<Self> {
        Self::start_as(&mut Command::new(compiled("torture")?), port)
    }

    /// Starts the server with a command that runs what it is given.
    pub(super) fn start_as(command: &mut Command, port: u16) -> Result<Self> {
        let mut server = Running::start(command.arg("serve").arg(port.to_string()))?;
        server.wait_for_value("serving")?;
        Ok(Self { server, port })
    }

    /// Clients in `cgroup`, and the verdict on what they and the server say.
    pub(super) fn play(self, cgroup: &TestCgroup, round: Round) -> Result<()> {
        self.play_as(&mut cgroup.command(compiled("torture")?)?, round)
    }

    /// [`Peers::play`] with a command that runs what it is given.
    pub(super) fn play_as(self, command: &mut Command, round: Round) -> Result<()> {
        let clients = self.connect(command, round, None)?.finish()?;
        clients.success()?;
        let server = self.finish(round)?;
        let (of_clients, of_server) = (reports(&clients.stdout)?, reports(&server)?);
        let failures = of_clients.keys().filter_map(|seed| {
            let (client, server) = (of_clients.get(seed), of_server.get(seed));
            shown(seed, [client, server], judge(client, server))
        });
        no_failures(failures.collect(), of_clients.len(), round)?;
        let asked: BTreeSet<&str> = of_clients
            .iter()
            .filter(|(_, report)| report.cancels > 0)
            .map(|(seed, _)| seed.as_str())
            .collect();
        let heard = cancelled(&server);
        ensure!(
            asked.is_subset(&heard),
            "cancel requests {asked:?} were sent, and {heard:?} arrived"
        );
        Ok(())
    }

    /// Clients in `cgroup`; one side is killed.
    pub(super) fn play_killing(
        self,
        cgroup: &TestCgroup,
        round: Round,
        (side, killed): (Side, Killed),
    ) -> Result<()> {
        let mut command = cgroup.command(compiled("torture")?)?;
        let parked = (killed == Killed::Parked).then_some(side);
        let mut clients = self.connect(&mut command, round, parked)?;
        match (killed, side) {
            (Killed::Parked, Side::Client) => wait_for_sessions(&clients, round)?,
            (Killed::Parked, Side::Server) => wait_for_sessions(&self.server, round)?,
            (Killed::UnderWay, _) => {
                clients.wait_for_value("all_in")?;
                clients.wait_for_value("under_way")?;
            }
        }
        let (of_clients, of_server) = match side {
            Side::Client => {
                clients.signal(Signal::SIGKILL)?;
                (clients.finish()?.stdout, self.finish(round)?)
            }
            Side::Server => {
                self.server.signal(Signal::SIGKILL)?;
                (clients.finish()?.stdout, self.server.finish()?.stdout)
            }
        };
        let (of_clients, of_server) = (reports(&of_clients)?, reports(&of_server)?);
        let survivors = match side {
            Side::Client => &of_server,
            Side::Server => &of_clients,
        };
        let failures = survivors.keys().filter_map(|seed| {
            let both = [of_clients.get(seed), of_server.get(seed)];
            let verdict = match (killed, both) {
                (Killed::Parked, [client, server]) => judge(client, server),
                (Killed::UnderWay, _) => judge_survivor(survivors.get(seed)),
            };
            shown(seed, both, verdict)
        });
        no_failures(failures.collect(), survivors.len(), round)
    }

    fn connect(
        &self,
        command: &mut Command,
        round: Round,
        parked: Option<Side>,
    ) -> Result<Running> {
        let parked = match parked {
            None => "-1",
            Some(Side::Client) => "0",
            Some(Side::Server) => "1",
        };
        command
            .arg("connect")
            .arg(self.port.to_string())
            .arg(format!("{:x}", round.seed))
            .args([round.sessions, round.at_once, round.bits].map(|number| number.to_string()))
            .arg(parked);
        Running::start(command)
    }

    /// Waits until the server has told of every session.
    fn finish(self, round: Round) -> Result<String> {
        wait_for_sessions(&self.server, round)?;
        let finished = self.server.finish()?;
        finished.success()?;
        Ok(finished.stdout)
    }
}

/// A session that is stuck says so itself, when its peers' patience (400 s, `clients/torture.c`) is at its end.
const PEERS_PATIENCE: Duration = Duration::from_secs(430);

fn wait_for_sessions(program: &Running, round: Round) -> Result<()> {
    wait_until_within(PEERS_PATIENCE, "every session is told of", || {
        let told = program.stdout()?.matches("session ").count();
        Ok(Seen::when(told == round.sessions as usize, || {
            format!("{told} of {round:?}")
        }))
    })
}

fn shown(seed: &str, both: [Option<&Report>; 2], verdict: Result<()>) -> Option<String> {
    let error: Error = verdict.err()?;
    let [client, server] = both;
    Some(format!(
        "session {seed}: {error:#}\n  client: {client:?}\n  server: {server:?}"
    ))
}

fn no_failures(failures: Vec<String>, told: usize, round: Round) -> Result<()> {
    ensure!(
        told == round.sessions as usize,
        "of {round:?} {told} sessions are told of"
    );
    let count = failures.len();
    let some: Vec<String> = failures.into_iter().take(SHOWN).collect();
    ensure!(
        count == 0,
        "{count} sessions of {round:?} went another way than directly:\n{}",
        some.join("\n")
    );
    Ok(())
}
