//! Namespaces that go away: their listeners go too, what lives in them goes on, and nothing is left.

use std::process::Command;

use anyhow::{Result, ensure};
use pgusher_tests::condition::{Seen, wait_until};
use pgusher_tests::netns::NetNs;
use pgusher_tests::pgusher::Pgusher;
use pgusher_tests::process::{Running, run};
use pgusher_tests::programs::compiled;
use pgusher_tests::stage::{Setup, Stage};

use super::first_need::TWICE;
use super::{client_namespace, listeners_of_ours, open, psql, seen_from};

/// Threads of the runtime's that wait a while for more work of the blocking kind.
const IDLE_THREADS: u64 = 4;

/// What pgusher holds because of other namespaces.
#[derive(Clone, Copy, Debug)]
struct Load {
    intercepted: u64,
    descriptors: usize,
    threads: u64,
    entries: usize,
}

impl Load {
    fn of(pgusher: &Pgusher) -> Result<Self> {
        Ok(Self {
            intercepted: pgusher.counter("/namespaces/intercepted")?,
            descriptors: pgusher.descriptors()?,
            threads: pgusher.threads()?,
            entries: pgusher.held()?.entries("LISTENERS")?,
        })
    }

    /// Waits until pgusher holds no more than it did.
    fn wait_until_no_more(&self, pgusher: &Pgusher) -> Result<()> {
        wait_until(&format!("pgusher holds no more than {self:?}"), || {
            let now = Self::of(pgusher)?;
            let is_back = now.intercepted <= self.intercepted
                && now.descriptors <= self.descriptors
                && now.threads <= self.threads + IDLE_THREADS
                && now.entries <= self.entries;
            Ok(Seen::when(is_back, || format!("{now:?}")))
        })
    }
}

/// Lets one namespace come and go, so that everything that is made on first use is there.
fn warm_up(stage: &Stage) -> Result<Load> {
    let (client, link) = client_namespace(stage)?;
    open(stage, &client, &link.server[0])?;
    seen_from(stage, &client, &link.server[0])?;
    stage
        .pgusher
        .wait_for_counter("/sessions/active", |active| active == 0)?;
    Load::of(&stage.pgusher)
}

/// Waits until pgusher has looked who is left: another namespace that goes meanwhile shows it.
fn look_passes(stage: &Stage) -> Result<()> {
    let released = stage.pgusher.counter("/namespaces/released")?;
    let other = NetNs::create()?;
    open(stage, &other, "127.0.0.1")?;
    drop(other);
    stage
        .pgusher
        .wait_for_counter("/namespaces/released", |now| now > released)?;
    Ok(())
}

#[test]
fn a_namespace_that_nobody_is_left_in_is_released() -> Result<()> {
    Setup::elsewhere().play(|stage| {
        let (client, link) = client_namespace(stage)?;
        let before = Load::of(&stage.pgusher)?;
        let released = stage.pgusher.counter("/namespaces/released")?;
        open(stage, &client, &link.server[0])?;
        ensure!(seen_from(stage, &client, &link.server[0])? == link.client[0]);
        let gone = std::fs::metadata(client.path())?;
        drop(client);
        stage
            .pgusher
            .wait_for_counter("/namespaces/released", |now| now > released)?;
        before.wait_until_no_more(&stage.pgusher)?;
        // The kernel takes the devices away with the last reference.
        let server = stage.cluster.namespace()?;
        wait_until("the other end of the link is gone", || {
            let left = server.ip("-o addr")?;
            let is_gone = !left.contains(&format!("{}/", link.server[0]));
            Ok(Seen::when(is_gone, || format!("{gone:?} {left}")))
        })
    })
}

/// Mounts a namespace under a name for a while, as `ip netns add` does.
struct Named(String);

impl Named {
    fn add() -> Result<Self> {
        let name = format!("pgusher-tests-{}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]))?.success()?;
        Ok(Self(name))
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        // The test's own verdict matters more.
        let _ = run(Command::new("ip").args(["netns", "delete", &self.0]));
    }
}

#[test]
fn a_named_namespace_is_kept_without_any_process_in_it() -> Result<()> {
    Setup::elsewhere().play(|stage| {
        let named = Named::add()?;
        let connect = || {
            let mut command = stage.cgroup.command("ip")?;
            command.args(["netns", "exec", &named.0, "sh", "-c"]);
            command.arg(r#"ip link set lo up; exec "$0" "$@""#);
            command.arg(compiled("connect")?);
            run(command.args(["blocking", "127.0.0.1", &stage.cluster.port.to_string()]))
        };
        let opened = stage.pgusher.counter("/namespaces/opened")?;
        connect()?;
        stage
            .pgusher
            .wait_for_counter("/namespaces/opened", |now| now == opened + 1)?;
        look_passes(stage)?;
        connect()?;
        ensure!(stage.redirected()? == 1, "{}", stage.pgusher.status()?);
        let intercepted = stage.pgusher.counter("/namespaces/intercepted")?;
        drop(named);
        stage
            .pgusher
            .wait_for_counter("/namespaces/intercepted", |now| now < intercepted)?;
        Ok(())
    })
}

#[test]
fn sessions_go_on_in_a_namespace_that_is_known_to_nobody_else() -> Result<()> {
    Setup::elsewhere().play(|stage| {
        let (client, link) = client_namespace(stage)?;
        let [server, _] = &link.server;
        open(stage, &client, server)?;
        let mut command = psql(stage, &client, server, "select 1")?;
        command.args(["-f", "-"]);
        let mut session = Running::start(&mut command)?;
        session.wait_for_line("1")?;
        // Only the session's own process is left.
        drop(client);
        look_passes(stage)?;
        session.say("select host(inet_client_addr());")?;
        session.wait_for_line(&link.client[0])?;
        session.finish()?.success()?;
        Ok(())
    })
}

/// How many namespaces come and go, and how many of them at one time.
const NAMESPACES: usize = 500;
const AT_ONCE: usize = 50;

#[test]
fn five_hundred_namespaces_leave_nothing_behind() -> Result<()> {
    Setup::elsewhere().play(|stage| {
        let before = warm_up(stage)?;
        // Those of other tests that were there at start may have no loopback.
        let failed = stage.pgusher.counter("/namespaces/failed")?;
        for _ in 0..NAMESPACES / AT_ONCE {
            let opened = stage.pgusher.counter("/namespaces/opened")?;
            let mut clients = Vec::new();
            for _ in 0..AT_ONCE {
                let mut command = stage.cgroup.command("unshare")?;
                command
                    .args(["--net", "sh", "-c", TWICE])
                    .arg(compiled("connect")?);
                command.args(["blocking", "127.0.0.1", &stage.cluster.port.to_string()]);
                clients.push(Running::start(&mut command)?);
            }
            for client in &mut clients {
                client.wait_for_value("first")?;
            }
            stage
                .pgusher
                .wait_for_counter("/namespaces/opened", |now| now == opened + AT_ONCE as u64)?;
            for client in &mut clients {
                client.say("")?;
                // Nobody listens there: pgusher says so, in place of the namespace's kernel.
                let finished = client.end()?;
                ensure!(finished.value("refused")? == "57P03", "{finished:?}");
            }
        }
        ensure!(
            stage.redirected()? == 1 + NAMESPACES as u64,
            "{}",
            stage.pgusher.status()?
        );
        before.wait_until_no_more(&stage.pgusher)?;
        ensure!(stage.pgusher.counter("/namespaces/failed")? == failed);
        Ok(())
    })
}

#[test]
fn whoever_cannot_be_looked_for_is_not_taken_for_gone() -> Result<()> {
    Setup::elsewhere().play(|stage| {
        let (client, link) = client_namespace(stage)?;
        let [server, _] = &link.server;
        open(stage, &client, server)?;
        let limit = |soft: usize| {
            let mut command = Command::new("prlimit");
            command.args(["--pid", &stage.pgusher.pid().to_string()]);
            run(command.arg(format!("--nofile={soft}:")))?
                .success()
                .map(drop)
        };
        let before = listeners_of_ours(stage, &client)?;
        ensure!(!before.is_empty());
        // Not even a socket to look with is left.
        limit(1)?;
        wait_until("pgusher has looked in vain", || {
            let log = stage.pgusher.log()?;
            Ok(Seen::when(log.contains("they are kept"), || log.clone()))
        })?;
        limit(10_000)?;
        ensure!(listeners_of_ours(stage, &client)? == before);
        ensure!(seen_from(stage, &client, server)? == link.client[0]);
        ensure!(stage.redirected()? == 1, "{}", stage.pgusher.status()?);
        Ok(())
    })
}
