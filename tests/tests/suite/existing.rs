//! Sessions that are older than pgusher: listed, and reset if the operator says so; those of others are let alone.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use pgusher_tests::cgroup::TestCgroup;
use pgusher_tests::cluster::{Cluster, Version};
use pgusher_tests::dialer::Dialer;
use pgusher_tests::kernel;
use pgusher_tests::netns::{Link, NetNs};
use pgusher_tests::pgusher::Pgusher;
use pgusher_tests::process::{Running, run};
use pgusher_tests::psql::Psql;
use pgusher_tests::wire;
use serde_json::Value;
use tempfile::TempDir;

/// Every way that leads to a server of this host.
const HOSTS: [&str; 3] = ["127.0.0.1", "::1", "::ffff:127.0.0.1"];

fn stop(pgusher: &mut Pgusher, cgroup: &TestCgroup) -> Result<()> {
    pgusher.signal(Signal::SIGTERM)?;
    ensure!(pgusher.wait_for_end()?.status.success());
    kernel::wait_until_nothing_attached(cgroup.path())
}

/// A pgusher whose files are in a directory of its own.
fn start(
    cgroup: &TestCgroup,
    cluster: &Cluster,
    adopt: Option<&str>,
) -> Result<(Pgusher, TempDir)> {
    let directory = TempDir::new()?;
    let adopt = adopt.map(|adopt| format!("--adopt={adopt}"));
    let more: Vec<String> = adopt.into_iter().collect();
    let pgusher = Pgusher::start(cgroup, &[cluster.port], directory.path(), &more)?;
    Ok((pgusher, directory))
}

/// The coverage record, if the status agrees with it.
fn coverage(pgusher: &Pgusher) -> Result<Value> {
    let is_it = |record: &Value| record["type"] == "coverage";
    let record = pgusher.trail.wait_for("a coverage record", is_it)?;
    let status = pgusher.status()?;
    for number in ["established", "reset", "unix_established", "unix_sockets"] {
        ensure!(
            status.pointer(&format!("/coverage/{number}")) == record.get(number),
            "{status} and {record}"
        );
    }
    Ok(record)
}

/// The connection that a process holds, by its record.
fn connection_of(coverage: &Value, pid: u32) -> Result<&Value> {
    let connections = coverage["connections"].as_array().context("a list")?;
    let mut of_it = connections
        .iter()
        .filter(|one| one.pointer("/processes/0/pid") == Some(&pid.into()));
    let found = of_it
        .next()
        .with_context(|| format!("nothing about {pid} in {coverage}"))?;
    ensure!(of_it.next().is_none(), "listed twice: {coverage}");
    Ok(found)
}

fn own_netns() -> Result<u64> {
    Ok(std::fs::metadata("/proc/self/ns/net")?.ino())
}

/// A connection that a process in the cgroup made and somebody outside holds.
fn passed_on(cgroup: &TestCgroup, cluster: &Cluster) -> Result<TcpStream> {
    let mut stream = Dialer::start(cgroup)?.dial(cluster.port)?;
    wire::log_in(&mut stream, "app_trust")?;
    Ok(stream)
}

#[test]
fn sessions_of_before_are_listed_with_who_has_them_and_go_on() -> Result<()> {
    let cluster = Cluster::shared(Version::V15)?;
    let cgroup = TestCgroup::create()?;
    let mut sessions = Vec::new();
    for host in HOSTS {
        let mut command = cluster.client(&cgroup, "psql")?;
        sessions.push(Psql::start(command.env("PGHOST", host))?);
    }
    let mut outsider = Psql::start(&mut cluster.outsider("psql")?)?;
    let (mut pgusher, _directory) = start(&cgroup, cluster, None)?;
    let coverage = coverage(&pgusher)?;
    ensure!(coverage["adopt"] == "report" && coverage["established"] == 3);
    ensure!(coverage["reset"] == 0 && coverage["unlisted"] == 0);
    // They are intercepted, where the kernel can.
    ensure!(coverage["unix_sockets"] == 0, "{coverage}");
    let first = sessions.first().context("there are three")?.pid();
    for (session, host) in sessions.iter_mut().zip(["127.0.0.1", "::1", "127.0.0.1"]) {
        let connection = connection_of(&coverage, session.pid())?;
        ensure!(
            connection["destination"]["address"] == host
                && connection["destination"]["port"] == cluster.port
                && connection["client"]["address"] == host
                && connection["netns"] == own_netns()?
                && connection["outcome"] == "left",
            "{connection}"
        );
        let process = connection.pointer("/processes/0").context("a process")?;
        let exe = process["exe"].as_str().context("an executable")?;
        ensure!(
            process["comm"] == "psql" && exe.ends_with("/psql"),
            "{process}"
        );
        session.is_served("after")?;
    }
    outsider.is_served("after")?;
    let log = pgusher.log()?;
    let line = log
        .lines()
        .find(|line| line.contains("3 established sessions"));
    let line = line.with_context(|| format!("not told: {log}"))?;
    ensure!(line.contains(&format!("pid {first}")), "{line}");
    stop(&mut pgusher, &cgroup)
}

#[test]
fn sessions_of_before_are_reset_and_connect_again_through_pgusher() -> Result<()> {
    let cluster = Cluster::shared(Version::V15)?;
    let cgroup = TestCgroup::create()?;
    let mut outsider = Psql::start(&mut cluster.outsider("psql")?)?;
    // Twice, as an operator does who restarts it.
    for round in 1..=2 {
        let mut sessions = Vec::new();
        for host in HOSTS {
            let mut command = cluster.client(&cgroup, "psql")?;
            sessions.push(Psql::start(command.env("PGHOST", host))?);
        }
        let mut raw = passed_on(&cgroup, cluster)?;
        let backend = wire::ask(&mut raw, "select pg_backend_pid()")?;
        let (mut pgusher, _directory) = start(&cgroup, cluster, Some("reset"))?;
        let coverage = coverage(&pgusher)?;
        ensure!(
            coverage["adopt"] == "reset" && coverage["established"] == 4 && coverage["reset"] == 4,
            "{coverage}"
        );
        for session in sessions {
            let connection = connection_of(&coverage, session.pid())?;
            ensure!(connection["outcome"] == "reset", "{connection}");
            session.finds_itself_lost()?;
        }
        let error = raw.read(&mut [0]).err().context("the socket still reads")?;
        ensure!(error.kind() == ErrorKind::ConnectionAborted, "{error}");
        let is_gone = format!("select count(*) from pg_stat_activity where pid = {backend}");
        cluster.wait_for_rows(&is_gone, "0")?;
        outsider.is_served(&format!("round{round}"))?;
        let mut again = cluster.client(&cgroup, "psql")?;
        ensure!(run(again.args(["-XqAt", "-c", "select 1"]))?.success()? == "1");
        ensure!(pgusher.counter("/kernel/redirected")? == 1);
        pgusher.trail.wait_for_sessions(1)?;
        stop(&mut pgusher, &cgroup)?;
    }
    Ok(())
}

/// Connects with MPTCP to the port in its argument, and says how that ended.
const MULTIPATH: &str = r"
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262) as client:
    client.connect(('127.0.0.1', int(sys.argv[1])))
    print('connected=yes', flush=True)
    try:
        print(f'read={len(client.recv(1))}', flush=True)
    except OSError as error:
        print(f'error={error.strerror}', flush=True)
";

#[test]
fn a_multipath_connection_of_before_is_reset_too() -> Result<()> {
    let cluster = Cluster::shared(Version::V15)?;
    let cgroup = TestCgroup::create()?;
    let mut command = cgroup.command("python3")?;
    command.args(["-c", MULTIPATH, &cluster.port.to_string()]);
    let mut client = Running::start(&mut command)?;
    client.wait_for_value("connected")?;
    let (mut pgusher, _directory) = start(&cgroup, cluster, Some("reset"))?;
    let coverage = coverage(&pgusher)?;
    ensure!(
        coverage["established"] == 1 && coverage["reset"] == 1,
        "{coverage}"
    );
    let error = client.wait_for_value("error")?;
    ensure!(error == "Software caused connection abort", "{error}");
    stop(&mut pgusher, &cgroup)
}

#[test]
fn sessions_of_other_network_namespaces_are_listed_and_reset_too() -> Result<()> {
    let cluster = Cluster::shared_elsewhere()?;
    let client = NetNs::create()?;
    let link = Link::between(&client, cluster.namespace()?)?;
    let netns = std::fs::metadata(client.path())?.ino();
    let (cgroup, outside) = (TestCgroup::create()?, TestCgroup::create()?);
    let psql = |cgroup: &TestCgroup, server: &str| -> Result<Psql> {
        let mut command = client.command(cgroup, "chroot")?;
        cluster.enter_root(&mut command, &cluster.version_program("psql"));
        Psql::start(command.env("PGHOST", server))
    };
    let [v4, v6] = &link.server;
    for (adopt, is_reset) in [("report", false), ("reset", true)] {
        let mut outsider = psql(&outside, v4)?;
        let sessions = [psql(&cgroup, v4)?, psql(&cgroup, v6)?];
        let (mut pgusher, _directory) = start(&cgroup, cluster, Some(adopt))?;
        let coverage = coverage(&pgusher)?;
        ensure!(coverage["established"] == 2, "{coverage}");
        for (mut session, server) in sessions.into_iter().zip(&link.server) {
            let connection = connection_of(&coverage, session.pid())?;
            ensure!(
                connection["netns"] == netns && connection["destination"]["address"] == **server,
                "{connection}"
            );
            if is_reset {
                session.finds_itself_lost()?;
            } else {
                session.is_served("after")?;
            }
        }
        outsider.is_served("after")?;
        stop(&mut pgusher, &cgroup)?;
    }
    Ok(())
}

#[test]
fn nobody_looks_for_sessions_of_before_where_they_are_to_be_ignored() -> Result<()> {
    let cluster = Cluster::shared(Version::V15)?;
    let cgroup = TestCgroup::create()?;
    let mut stream = passed_on(&cgroup, cluster)?;
    let (mut pgusher, _directory) = start(&cgroup, cluster, Some("ignore"))?;
    let coverage = coverage(&pgusher)?;
    ensure!(
        coverage["adopt"] == "ignore"
            && coverage["established"].is_null()
            && coverage["connections"] == serde_json::json!([]),
        "{coverage}"
    );
    ensure!(wire::ask(&mut stream, "select 'still'")? == "still");
    stop(&mut pgusher, &cgroup)
}
