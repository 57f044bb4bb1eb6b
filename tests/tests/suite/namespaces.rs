//! Clients in other network namespaces than pgusher's: intercepted, from their own addresses, until nobody is left.

mod first_need;
mod lifetime;
mod loopback;

use std::process::Command;

use anyhow::{Result, ensure};
use pgusher_tests::netns::{CLIENT_DEVICE, Link, NetNs};
use pgusher_tests::process::{Finished, run};
use pgusher_tests::programs::{compiled, copy_of};
use pgusher_tests::stage::{Setup, Stage};
use pgusher_tests::wire;

use crate::expect::{accepted_session, fact, fact_is, field_is};

/// A namespace with a way to the server.
fn client_namespace(stage: &Stage) -> Result<(NetNs, Link)> {
    let client = NetNs::create()?;
    let link = Link::between(&client, stage.cluster.namespace()?)?;
    Ok((client, link))
}

/// `psql` in the namespace, intercepted.
fn psql(stage: &Stage, client: &NetNs, server: &str, sql: &str) -> Result<Command> {
    let mut command = client.command(&stage.cgroup, "chroot")?;
    let program = stage.cluster.version_program("psql");
    stage.cluster.enter_root(&mut command, &program);
    command.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-c", sql]);
    command.env("PGHOST", server);
    Ok(command)
}

/// The address that the server sees a client of this namespace come from.
fn seen_from(stage: &Stage, client: &NetNs, server: &str) -> Result<String> {
    let finished = run(&mut psql(
        stage,
        client,
        server,
        "select host(inet_client_addr())",
    )?)?;
    Ok(finished.success()?.to_owned())
}

/// `clients/connect.c` in the namespace, intercepted.
fn connect(stage: &Stage, client: &NetNs, way: &str, server: &str) -> Result<Finished> {
    let mut command = client.command(&stage.cgroup, compiled("connect")?)?;
    command.args([way, server, &stage.cluster.port.to_string()]);
    run(command.arg(CLIENT_DEVICE))
}

/// Has a first connect opened listeners in the namespace.
fn open(stage: &Stage, client: &NetNs, server: &str) -> Result<()> {
    let before = stage.pgusher.counter("/namespaces/opened")?;
    connect(stage, client, "blocking", server)?;
    stage
        .pgusher
        .wait_for_counter("/namespaces/opened", |opened| opened == before + 1)?;
    Ok(())
}

/// The addresses of this instance's listeners in the namespace; other tests' instances, which open theirs in whatever
/// namespaces exist when they start, may have some there as well.
fn listeners_of_ours(stage: &Stage, client: &NetNs) -> Result<Vec<String>> {
    let of_ours = format!("pid={},", stage.pgusher.pid());
    let listening = client.run("ss", &["-Hltnp"])?;
    let ours = listening.lines().filter(|line| line.contains(&of_ours));
    let addresses = ours.map(|line| line.split_whitespace().nth(3).unwrap_or_default());
    Ok(addresses.map(str::to_owned).collect())
}

#[test]
fn the_server_sees_the_clients_own_address() -> Result<()> {
    Setup::elsewhere().play(|stage| {
        let (client, link) = client_namespace(stage)?;
        let [v4, v6] = &link.server;
        open(stage, &client, v4)?;
        for (server, address) in [(v4, &link.client[0]), (v6, &link.client[1])] {
            let before = stage.redirected()?;
            ensure!(seen_from(stage, &client, server)? == *address);
            ensure!(stage.redirected()? == before + 1, "went direct");
            let record = stage.pgusher.trail.wait_for_session(server, |record| {
                record["destination"]["address"] == **server
            })?;
            accepted_session(&record, "postgres")?;
            field_is(&record, "/destination/port", stage.cluster.port)?;
            let others = fact(&record, "other_namespaces", "kernel")?;
            ensure!(*others == serde_json::json!(["net"]), "{others}");
        }
        Ok(())
    })
}

#[test]
fn every_way_to_connect_is_intercepted_and_shows_the_server() -> Result<()> {
    Setup::elsewhere().play(|stage| {
        let (client, link) = client_namespace(stage)?;
        open(stage, &client, &link.server[0])?;
        for server in &link.server {
            let expected = format!("{server} port {}", stage.cluster.port);
            for way in [
                "blocking",
                "non-blocking",
                "fast-open-send",
                "fast-open-connect",
                "thread",
                "io-uring",
                "bound-device",
                "marked",
            ] {
                let before = stage.redirected()?;
                let finished = connect(stage, &client, way, server)?;
                ensure!(finished.value("answer")? == "42", "{way}: {finished:?}");
                ensure!(finished.value("peer")? == expected, "{way}: {finished:?}");
                ensure!(stage.redirected()? == before + 1, "{way} went direct");
                let pid: u32 = finished.value("pid_own")?.parse()?;
                let from_it = |record: &serde_json::Value| crate::expect::is_from(record, pid);
                let record = stage.pgusher.trail.wait_for_session(way, from_it)?;
                fact_is(&record, "pid", "kernel", pid)?;
            }
        }
        Ok(())
    })
}

/// For the first connect pgusher binds the socket to `lo`, which is nothing that the second one asks for.
#[test]
fn a_socket_bound_to_a_device_reaches_the_server_again() -> Result<()> {
    Setup::elsewhere().play(|stage| {
        let (client, link) = client_namespace(stage)?;
        let [server, _] = &link.server;
        open(stage, &client, server)?;
        let finished = connect(stage, &client, "bound-device-again", server)?;
        ensure!(finished.value("answer")? == "42", "{finished:?}");
        Ok(())
    })
}

#[test]
fn what_the_policies_deny_is_denied_in_every_namespace() -> Result<()> {
    let trusted = compiled("connect")?;
    let policy = format!(
        r#"@id("trusted") permit (principal in Executable::"{}", action, resource);"#,
        trusted.display()
    );
    Setup::elsewhere().policy("enforce", policy).play(|stage| {
        let (client, link) = client_namespace(stage)?;
        let [server, _] = &link.server;
        open(stage, &client, server)?;
        let mut command =
            client.command(&stage.cgroup, copy_of("connect", "connect-elsewhere")?)?;
        command.args(["blocking", server, &stage.cluster.port.to_string()]);
        let finished = run(&mut command)?;
        ensure!(finished.value("refused")? == "28000", "{finished:?}");
        let record = stage.pgusher.trail.wait_for_session("a denial", |_| true)?;
        field_is(&record, "/close", "policy_denied")?;
        let finished = connect(stage, &client, "blocking", server)?;
        ensure!(finished.value("answer")? == "42", "{finished:?}");
        Ok(())
    })
}

#[test]
fn nobody_dials_a_listener_in_another_namespace() -> Result<()> {
    Setup::elsewhere().play(|stage| {
        let (client, link) = client_namespace(stage)?;
        open(stage, &client, &link.server[0])?;
        let listeners = listeners_of_ours(stage, &client)?;
        for address in &listeners {
            let (ip, port) = address.rsplit_once(':').unwrap_or_default();
            let ip = ip.trim_matches(['[', ']']);
            let mut command = client.command(&stage.cgroup, compiled("connect")?)?;
            let finished = run(command.args(["blocking", ip, port]))?;
            let error = finished.value("error")?;
            ensure!(
                error.ends_with("Operation not permitted"),
                "{address}: {error}"
            );
        }
        ensure!(listeners.len() == 2, "{listeners:?}");
        ensure!(stage.pgusher.counter("/kernel/own_listener")? == 2);
        ensure!(seen_from(stage, &client, &link.server[0])? == link.client[0]);
        Ok(())
    })
}

/// A server that tells its name in place of a session, to whoever asks, until it is killed.
const NAMED_SERVER: &str = r"
import socket, sys
server = socket.create_server(('127.0.0.5', int(sys.argv[2])))
print('ready=yes', flush=True)
while True:
    client, _ = server.accept()
    length = int.from_bytes(client.recv(4, socket.MSG_WAITALL), 'big')
    client.recv(length - 4, socket.MSG_WAITALL)
    fields = b'SFATAL\0VFATAL\0C08004\0M' + sys.argv[1].encode() + b'\0\0'
    client.sendall(b'E' + (len(fields) + 4).to_bytes(4, 'big') + fields)
    client.close()
";

#[test]
fn namespaces_with_the_same_addresses_do_not_mix() -> Result<()> {
    Setup::elsewhere().play(|stage| {
        let names = ["red", "green", "blue"];
        let mut places = Vec::new();
        for name in names {
            let namespace = NetNs::create()?;
            let mut command = Command::new("nsenter");
            namespace.enter(&mut command);
            command.args(["--", "/usr/bin/python3", "-c", NAMED_SERVER, name]);
            let port = stage.cluster.port.to_string();
            let mut server = pgusher_tests::process::Running::start(command.arg(port))?;
            server.wait_for_value("ready")?;
            open(stage, &namespace, "127.0.0.5")?;
            places.push((name, namespace, server));
        }
        for _ in 0..3 {
            for (name, namespace, _) in &places {
                let finished = run(&mut psql(stage, namespace, "127.0.0.5", "select 1")?)?;
                let told = finished.failure()?;
                ensure!(told.contains(&format!("FATAL:  {name}")), "{name}: {told}");
            }
        }
        ensure!(stage.redirected()? == 9, "{}", stage.pgusher.status()?);
        Ok(())
    })
}

#[test]
fn pgushers_own_namespace_is_intercepted_beside_others() -> Result<()> {
    Setup::with(pgusher_tests::cluster::Version::V15).play(|stage| {
        let other = NetNs::create()?;
        open(stage, &other, "127.0.0.1")?;
        let mut stream = stage.dial()?;
        wire::log_in(&mut stream, "app_trust")?;
        ensure!(stage.redirected()? == 1, "{}", stage.pgusher.status()?);
        Ok(())
    })
}
