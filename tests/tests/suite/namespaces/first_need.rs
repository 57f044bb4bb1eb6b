//! Who gets listeners when: namespaces that are there at start, and those that come later.

use anyhow::{Result, ensure};
use pgusher_tests::cluster::Cluster;
use pgusher_tests::netns::{Link, NetNs};
use pgusher_tests::process::{Running, run};
use pgusher_tests::programs::compiled;
use pgusher_tests::stage::Setup;

use crate::expect::fact;

use super::{client_namespace, connect, listeners_of_ours, open, seen_from};

#[test]
fn a_namespace_that_was_there_at_start_is_intercepted_from_its_first_connect() -> Result<()> {
    let client = NetNs::create()?;
    let link = Link::between(&client, Cluster::shared_elsewhere()?.namespace()?)?;
    let policy = "permit (principal, action, resource);";
    Setup::elsewhere().policy("enforce", policy).play(|stage| {
        ensure!(seen_from(stage, &client, &link.server[0])? == link.client[0]);
        ensure!(stage.redirected()? == 1, "{}", stage.pgusher.status()?);
        ensure!(stage.pgusher.counter("/kernel/other_netns")? == 0);
        Ok(())
    })
}

#[test]
fn the_first_connect_is_passed_or_refused_as_declared_and_the_second_is_intercepted() -> Result<()>
{
    for (argument, is_refused) in [
        ("--unknown-netns=pass", false),
        ("--unknown-netns=refuse", true),
    ] {
        Setup::elsewhere().argument(argument).play(|stage| {
            let (client, link) = client_namespace(stage)?;
            let [server, _] = &link.server;
            let before = stage.pgusher.counter("/namespaces/opened")?;
            let first = connect(stage, &client, "blocking", server)?;
            if is_refused {
                let error = first.value("error")?;
                ensure!(error.ends_with("Operation not permitted"), "{first:?}");
            } else {
                ensure!(first.value("answer")? == "42", "{first:?}");
            }
            ensure!(stage.redirected()? == 0, "{}", stage.pgusher.status()?);
            ensure!(stage.pgusher.counter("/kernel/other_netns")? == 1);
            stage
                .pgusher
                .wait_for_counter("/namespaces/opened", |opened| opened == before + 1)?;
            ensure!(seen_from(stage, &client, server)? == link.client[0]);
            ensure!(stage.redirected()? == 1, "{}", stage.pgusher.status()?);
            ensure!(stage.pgusher.counter("/kernel/other_netns")? == 1);
            Ok(())
        })?;
    }
    Ok(())
}

/// Makes a socket in the namespace at the first path, goes back, and connects with it from there.
const WITH_A_SOCKET_FROM_ELSEWHERE: &str = r"
import ctypes, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
home = os.open('/proc/thread-self/ns/net', os.O_RDONLY)
for _ in range(int(sys.argv[4])):
    assert libc.setns(os.open(sys.argv[1], os.O_RDONLY), 0) == 0
    client = socket.socket()
    assert libc.setns(home, 0) == 0
    client.connect((sys.argv[2], int(sys.argv[3])))
    print('address=' + client.getpeername()[0], flush=True)
    client.close()
";

#[test]
fn a_socket_of_another_namespace_than_its_process_is_known_by_its_own() -> Result<()> {
    Setup::elsewhere().play(|stage| {
        let (client, link) = client_namespace(stage)?;
        let [server, _] = &link.server;
        let before = stage.pgusher.counter("/namespaces/opened")?;
        let connect = |times: &str| {
            let mut command = stage.cgroup.command("/usr/bin/python3")?;
            command
                .args(["-c", WITH_A_SOCKET_FROM_ELSEWHERE])
                .arg(client.path());
            run(command.args([server, &stage.cluster.port.to_string(), times]))
        };
        connect("1")?.success()?;
        ensure!(stage.redirected()? == 0, "{}", stage.pgusher.status()?);
        stage
            .pgusher
            .wait_for_counter("/namespaces/opened", |opened| opened == before + 1)?;
        let finished = connect("3")?;
        ensure!(finished.value("address")? == server, "{finished:?}");
        ensure!(stage.redirected()? == 3, "{}", stage.pgusher.status()?);
        Ok(())
    })
}

#[test]
fn as_many_namespaces_are_intercepted_as_the_limit_says() -> Result<()> {
    Setup::elsewhere()
        .argument("--max-namespaces=0")
        .play(|stage| {
            // Without any other: pgusher's own goes on.
            let (client, link) = client_namespace(stage)?;
            let [server, _] = &link.server;
            let finished = connect(stage, &client, "blocking", server)?;
            ensure!(finished.value("answer")? == "42", "{finished:?}");
            stage
                .pgusher
                .wait_for_counter("/namespaces/failed", |failed| failed > 0)?;
            ensure!(stage.pgusher.counter("/namespaces/intercepted")? == 1);
            let finished = connect(stage, &client, "blocking", server)?;
            ensure!(finished.value("answer")? == "42", "{finished:?}");
            ensure!(stage.pgusher.counter("/kernel/other_netns")? == 2);
            ensure!(
                stage.pgusher.log()?.contains("raise max_namespaces"),
                "not told"
            );
            let mut command = stage.cgroup.command(compiled("connect")?)?;
            run(command.args(["blocking", "127.0.0.1", &stage.cluster.port.to_string()]))?;
            ensure!(stage.redirected()? == 1, "{}", stage.pgusher.status()?);
            Ok(())
        })
}

#[test]
fn a_namespace_gets_its_listeners_once_however_many_connect_at_once() -> Result<()> {
    Setup::elsewhere().play(|stage| {
        let (client, link) = client_namespace(stage)?;
        let [server, _] = &link.server;
        let before = stage.pgusher.counter("/namespaces/opened")?;
        let stage = &*stage;
        std::thread::scope(|scope| -> Result<()> {
            let clients: Vec<_> = (0..16)
                .map(|_| scope.spawn(|| connect(stage, &client, "blocking", server)))
                .collect();
            for client in clients {
                let finished = client
                    .join()
                    .map_err(|_| anyhow::anyhow!("a client panicked"))??;
                ensure!(finished.value("answer")? == "42", "{finished:?}");
            }
            Ok(())
        })?;
        stage
            .pgusher
            .wait_for_counter("/namespaces/opened", |opened| opened == before + 1)?;
        let listeners = listeners_of_ours(stage, &client)?;
        ensure!(listeners.len() == 2, "{listeners:?}");
        let direct = stage.pgusher.counter("/kernel/other_netns")?;
        ensure!(
            direct + stage.redirected()? == 16,
            "{}",
            stage.pgusher.status()?
        );
        // What was not intercepted at first is now.
        let again = connect(stage, &client, "blocking", server)?;
        ensure!(again.value("answer")? == "42", "{again:?}");
        ensure!(stage.pgusher.counter("/kernel/other_netns")? == direct);
        Ok(())
    })
}

#[test]
fn a_client_that_is_gone_at_once_has_its_namespace_found_all_the_same() -> Result<()> {
    Setup::elsewhere()
        .argument("--unknown-netns=refuse")
        .play(|stage| {
            let (client, link) = client_namespace(stage)?;
            // Refused by the kernel, the client ends before anybody can look at it; its namespace stays.
            open(stage, &client, &link.server[0])?;
            ensure!(seen_from(stage, &client, &link.server[0])? == link.client[0]);
            Ok(())
        })
}

/// Connects twice, the second time when it is told to.
pub(super) const TWICE: &str =
    r#"ip link set lo up && { "$0" "$@"; echo first=done; read _; exec "$0" "$@"; }"#;

#[test]
fn a_namespace_that_belongs_to_a_user_namespace_is_intercepted() -> Result<()> {
    Setup::elsewhere().play(|stage| {
        let opened = stage.pgusher.counter("/namespaces/opened")?;
        let mut command = stage.cgroup.command("unshare")?;
        command.args(["--user", "--map-root-user", "--net", "sh", "-c", TWICE]);
        command.arg(compiled("connect")?);
        command.args(["blocking", "127.0.0.1", &stage.cluster.port.to_string()]);
        let mut client = Running::start(&mut command)?;
        client.wait_for_value("first")?;
        stage
            .pgusher
            .wait_for_counter("/namespaces/opened", |now| now == opened + 1)?;
        client.say("")?;
        // Nobody listens there: pgusher says so, in place of the namespace's kernel.
        let finished = client.end()?;
        ensure!(finished.value("refused")? == "57P03", "{finished:?}");
        let record = stage.pgusher.trail.only_session()?;
        let others = fact(&record, "other_namespaces", "kernel")?;
        ensure!(*others == serde_json::json!(["user", "net"]), "{others}");
        Ok(())
    })
}
