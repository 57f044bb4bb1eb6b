//! Ways to a server that do not lead through a listener of pgusher's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Barrier;

use anyhow::{Context, Result, anyhow, ensure};
use pgusher_tests::cluster::Version;
use pgusher_tests::pgusher::binary;
use pgusher_tests::process::run;
use pgusher_tests::programs::{c_client, compiled, copy_of};
use pgusher_tests::stage::{Setup, Stage};
use pgusher_tests::wire;

use super::super::{ALL, psql, works};
use super::{client, connecting, is_denied, is_permitted, is_refused_by_the_kernel, only};

#[test]
fn every_way_to_connect_is_denied_alike() -> Result<()> {
    let trusted = compiled("connect")?;
    only(&trusted).play(|stage| {
        let untrusted = copy_of("connect", "connect-by-all-means")?;
        let ways = [
            "blocking",
            "non-blocking",
            "fast-open-send",
            "fast-open-connect",
            "mptcp",
            "io-uring",
            "io-uring-worker",
            "io-uring-poller",
            "thread",
            "bound-source",
            "bound-device",
        ];
        for (sessions, way) in ways.into_iter().enumerate() {
            let finished = run(&mut client(stage, &untrusted, way)?)?;
            is_denied(stage, &finished, sessions + 1).context(way)?;
        }
        for way in ways {
            is_permitted(&run(&mut client(stage, &trusted, way)?)?).context(way)?;
        }
        Ok(())
    })
}

#[test]
fn nobody_dials_a_listener_of_pgushers() -> Result<()> {
    for mode in ["observe", "enforce"] {
        Setup::with(Version::V15).policy(mode, ALL).play(|stage| {
            let listeners = stage.pgusher.listeners()?;
            let mut dialled = 0;
            for listener in &listeners {
                let spellings = match listener.ip() {
                    IpAddr::V4(ip) => [
                        ip.into(),
                        Ipv4Addr::UNSPECIFIED.into(),
                        ip.to_ipv6_mapped().into(),
                    ],
                    IpAddr::V6(ip) => [ip.into(), Ipv6Addr::UNSPECIFIED.into(), ip.into()],
                };
                for ip in spellings {
                    let address = SocketAddr::new(ip, listener.port());
                    let refused = stage.dialer()?.dial_address(address).err();
                    let error = refused.with_context(|| format!("{address} was reached"))?;
                    ensure!(
                        format!("{error:#}").contains("Operation not permitted"),
                        "{error:#}"
                    );
                    dialled += 1;
                }
                for way in ["fast-open-send", "mptcp", "io-uring"] {
                    let mut command = c_client(&stage.cgroup, "connect")?;
                    let (ip, port) = (listener.ip().to_string(), listener.port().to_string());
                    is_refused_by_the_kernel(&run(command.args([way, &ip, &port]))?)
                        .context(way)?;
                    dialled += 1;
                }
            }
            ensure!(dialled > 0, "no listeners in {listeners:?}");
            ensure!(stage.pgusher.counter("/kernel/own_listener")? == dialled);
            works(&psql(stage, "disable")?)?;
            ensure!(stage.pgusher.trail.wait_for_sessions(1)?.len() == 1);
            Ok(())
        })?;
    }
    Ok(())
}

/// Connects by every way from a network namespace of its own; the errors.
fn from_another_namespace(stage: &Stage) -> Result<Vec<String>> {
    let mut errors = Vec::new();
    for way in ["blocking", "fast-open-send", "mptcp", "io-uring"] {
        let mut command = stage.cgroup.command("unshare")?;
        let script = r#"ip link set lo up && exec "$0" "$@""#;
        command.args(["--net", "sh", "-c", script]);
        command.arg(compiled("connect")?);
        let finished = run(connecting(&mut command, stage, way))?;
        errors.push(finished.value("error")?.to_owned());
    }
    Ok(errors)
}

#[test]
fn another_network_namespace_is_refused_unless_the_operator_lets_it_pass() -> Result<()> {
    let cases = [
        ("enforce", None, true),
        ("enforce", Some("--unknown-netns=pass"), false),
        ("observe", None, false),
        ("observe", Some("--unknown-netns=refuse"), true),
    ];
    for (mode, argument, is_refused) in cases {
        let mut setup = Setup::with(Version::V15).policy(mode, ALL);
        if let Some(argument) = argument {
            setup = setup.argument(argument);
        }
        setup.play(|stage| {
            let errors = from_another_namespace(stage)?;
            // Nobody listens there: whoever gets through is told so by the namespace's own kernel.
            let (expected, heading) = if is_refused {
                ("Operation not permitted", "refused")
            } else {
                ("Connection refused", "went direct")
            };
            for error in &errors {
                ensure!(error.ends_with(expected), "{errors:?}");
            }
            let count = stage.pgusher.counter("/kernel/other_netns")?;
            ensure!(count == errors.len() as u64, "{count} of {errors:?}");
            let status = run(Command::new(binary()?)
                .args(["status", "--admin-socket"])
                .arg(stage.pgusher.admin_socket()))?;
            let told = format!("{count} other network namespace");
            let line = status.success()?.lines().find(|line| line.contains(&told));
            ensure!(
                line.is_some_and(|line| line.starts_with(heading)),
                "{status:?}"
            );
            works(&psql(stage, "disable")?)
        })?;
    }
    Ok(())
}

/// A device that is not the loopback device.
fn another_device() -> Result<String> {
    let names = std::fs::read_dir("/sys/class/net")?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<Vec<String>>>()?;
    let other = names.into_iter().find(|name| name != "lo");
    other.context("this machine has no network device but lo: add one with `ip link add`")
}

#[test]
fn a_socket_bound_to_a_device_for_good_is_refused() -> Result<()> {
    let connect = compiled("connect")?;
    only(&connect).play(|stage| {
        let device = another_device()?;
        let mut command = stage.cgroup.command("setpriv")?;
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command.arg(&connect);
        connecting(&mut command, stage, "bound-device").arg(&device);
        is_refused_by_the_kernel(&run(&mut command)?)?;
        ensure!(stage.pgusher.counter("/kernel/bound_to_device")? == 1);
        is_permitted(&run(&mut client(stage, &connect, "blocking")?)?)
    })
}

#[test]
fn a_link_local_destination_is_refused() -> Result<()> {
    let connect = compiled("connect")?;
    only(&connect).play(|stage| {
        let mut command = stage.cgroup.command(&connect)?;
        let port = stage.cluster.port.to_string();
        is_refused_by_the_kernel(&run(command.args(["blocking", "fe80::1", &port]))?)?;
        ensure!(stage.pgusher.counter("/kernel/link_local")? == 1);
        is_permitted(&run(&mut client(stage, &connect, "blocking")?)?)
    })
}

/// How many clients connect while the policy changes, and how often each.
const CLIENTS: usize = 8;
const CONNECTS: usize = 20;

#[test]
fn no_session_that_raced_with_a_denial_survives_it() -> Result<()> {
    Setup::with(Version::V15)
        .policy("enforce", ALL)
        .play(|stage| {
            stage.dialer()?;
            let stage: &Stage = stage;
            let begin = Barrier::new(CLIENTS + 1);
            let mut streams = std::thread::scope(|scope| -> Result<Vec<TcpStream>> {
                let racing: Vec<_> = (0..CLIENTS)
                    .map(|_| scope.spawn(|| race(stage, &begin)))
                    .collect();
                begin.wait();
                stage.reload_policy("")?.success()?;
                let mut streams = Vec::new();
                for thread in racing {
                    streams.extend(thread.join().map_err(|_| anyhow!("a client panicked"))??);
                }
                Ok(streams)
            })?;
            // Their sockets are still open at the clients' end.
            stage
                .pgusher
                .wait_for_counter("/sessions/active", |active| active == 0)?;
            for stream in &mut streams {
                ensure!(wire::ask(stream, "select 1").is_err(), "{stream:?} goes on");
            }
            let records = stage.pgusher.trail.wait_for_sessions(CLIENTS * CONNECTS)?;
            let close = |reason: &str| records.iter().filter(|r| r["close"] == reason).count();
            ensure!(
                close("policy_revoked") + close("policy_denied") == records.len(),
                "{} revoked, {} denied, of {}",
                close("policy_revoked"),
                close("policy_denied"),
                records.len()
            );
            Ok(())
        })
}

/// Connects again and again, and keeps what may have become a session.
fn race(stage: &Stage, begin: &Barrier) -> Result<Vec<TcpStream>> {
    begin.wait();
    let mut streams = Vec::new();
    for _ in 0..CONNECTS {
        let mut stream = stage.dial()?;
        // Some are let in, some are not, some are thrown out in the middle.
        let _ = wire::log_in(&mut stream, "postgres");
        streams.push(stream);
    }
    Ok(streams)
}
