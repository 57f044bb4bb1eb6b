//! Who the server sees, and what the modes of sockets and directories let through: the client, not pgusher.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use pgusher_tests::cluster::{VERSIONS, Version};
use pgusher_tests::condition::{Seen, wait_until};
use pgusher_tests::process::{Running, run};
use pgusher_tests::programs::source;
use pgusher_tests::stage::{Setup, Stage};

use super::{PYTHON, client, psql, record_of, server, socket_path};
use crate::expect::{fact_is, field_is};
use crate::identity::PATIENT;

/// Users of every Debian system who own nothing.
const DAEMON: u32 = 1;
const GAMES: u32 = 5;
const PORT: u16 = 61_202;

/// A client of `clients/unix.py` as another user.
fn client_as(stage: &Stage, user: u32, way: &str, path: &str) -> Result<Command> {
    let id = user.to_string();
    let mut command = stage.cgroup.command("setpriv")?;
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"]);
    command.arg(PYTHON).arg(source("unix.py")).args([way, path]);
    Ok(command)
}

#[test]
fn peer_authentication_knows_the_client() -> Result<()> {
    for version in VERSIONS {
        Setup::with(version).play(|stage| {
            let path = socket_path(stage);
            let mut own = client_as(stage, DAEMON, "ask", &path)?;
            let finished = run(own.env("PGUSER", "daemon"))?;
            ensure!(finished.value("answer")? == "42", "{finished:?}");
            let record = record_of(stage, &finished)?;
            fact_is(&record, "euid", "kernel", DAEMON)?;
            let mut other = client_as(stage, GAMES, "ask", &path)?;
            let finished = run(other.env("PGUSER", "daemon"))?;
            let message = finished.value("message")?;
            ensure!(
                message.contains("Peer authentication failed"),
                "{finished:?}"
            );
            // libpq's own view, as root and as the user that the tests are of.
            run(&mut psql(stage, "select 1")?)?.success()?;
            Ok(())
        })?;
    }
    Ok(())
}

/// Whoever shares a socket may call connect() on it as often as he likes.
#[test]
fn a_connect_that_comes_to_nothing_does_not_change_whose_socket_it_is() -> Result<()> {
    let patient = Setup::with(Version::V15).argument(PATIENT);
    patient.play(|stage| {
        stage.pgusher.signal(Signal::SIGSTOP)?;
        let path = socket_path(stage);
        let mut asking = Running::start(&mut client(stage, "again", &path)?)?;
        let said = asking.wait_for_value("again")?;
        stage.pgusher.signal(Signal::SIGCONT)?;
        let refused = "['Transport endpoint is already connected', 'No such file or directory']";
        ensure!(said == refused, "{said}");
        asking.say("go on")?;
        let finished = asking.finish()?;
        ensure!(finished.value("answer")? == "42", "{finished:?}");
        ensure!(finished.value("peer")? == path, "{finished:?}");
        let record = record_of(stage, &finished)?;
        fact_is(&record, "uid", "kernel", 0)
    })
}

#[test]
fn a_directory_that_is_closed_to_a_user_stays_closed() -> Result<()> {
    Setup::with(Version::V15).port(PORT).play(|stage| {
        let directory = stage.directory().join("closed");
        fs::create_dir(&directory)?;
        let path = directory
            .join(format!(".s.PGSQL.{PORT}"))
            .display()
            .to_string();
        let _server = server("name", &path)?;
        for parent in directory.ancestors().take(2) {
            fs::set_permissions(parent, fs::Permissions::from_mode(0o755))?;
        }
        chown(&directory, Some(DAEMON), Some(DAEMON))?;
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700))?;
        let finished = run(&mut client_as(stage, DAEMON, "ask", &path)?)?;
        ensure!(finished.value("message")? == path, "{finished:?}");
        let finished = run(&mut client_as(stage, GAMES, "ask", &path)?)?;
        ensure!(finished.value("sqlstate")? == "57P03", "{finished:?}");
        let message = finished.value("message")?;
        ensure!(message.contains("Permission denied"), "{message}");
        field_is(
            &record_of(stage, &finished)?,
            "/close",
            "upstream_unreachable",
        )?;
        // Root passes modes by a capability, here as there; without it, not.
        let finished = run(&mut client(stage, "ask", &path)?)?;
        ensure!(finished.value("message")? == path, "{finished:?}");
        let mut bare = stage.cgroup.command("setpriv")?;
        bare.args(["--bounding-set=-all", "--inh-caps=-all", "--", PYTHON]);
        let finished = run(bare.arg(source("unix.py")).args(["ask", &path]))?;
        ensure!(finished.value("sqlstate")? == "57P03", "{finished:?}");
        Ok(())
    })
}

#[test]
fn a_sockets_group_opens_it_to_its_members() -> Result<()> {
    Setup::with(Version::V15).port(PORT).play(|stage| {
        let path = stage.directory().join(format!(".s.PGSQL.{PORT}"));
        let _server = server("name", &path.display().to_string())?;
        fs::set_permissions(stage.directory(), fs::Permissions::from_mode(0o755))?;
        chown(&path, Some(0), Some(GAMES))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o770))?;
        for (groups, answer) in [("5,60", "08004"), ("60", "57P03")] {
            let mut member = stage.cgroup.command("setpriv")?;
            member.args(["--reuid=1", "--regid=1", "--groups", groups, "--", PYTHON]);
            let finished = run(member.arg(source("unix.py")).arg("ask").arg(&path))?;
            ensure!(
                finished.value("sqlstate")? == answer,
                "{groups}: {finished:?}"
            );
        }
        Ok(())
    })
}

/// The thread of pgusher's that has this effective user id, if there is one: its number, and its lines of ids.
fn thread_of(stage: &Stage, user: u32) -> Result<Option<(String, String)>> {
    for entry in fs::read_dir(format!("/proc/{}/task", stage.pgusher.pid()))? {
        let entry = entry?;
        // A thread may end meanwhile.
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let ids = status.lines().find(|line| line.starts_with("Uid:"));
        let mut numbers = ids.unwrap_or_default().split_whitespace();
        if numbers.nth(2) == Some(&user.to_string()) {
            let number = entry.file_name().to_string_lossy().into_owned();
            return Ok(Some((number, status)));
        }
    }
    Ok(None)
}

#[test]
fn a_client_has_no_power_over_the_thread_that_connects_for_it() -> Result<()> {
    Setup::with(Version::V15)
        .port(PORT)
        .argument("--dial-timeout=1h")
        .play(|stage| {
            let path = stage
                .directory()
                .join(format!(".s.PGSQL.{PORT}"))
                .display()
                .to_string();
            let _server = server("deaf", &path)?;
            fs::set_permissions(stage.directory(), fs::Permissions::from_mode(0o755))?;
            // The first one takes the only place in the server's queue, the next has to wait for it.
            let mut waiting = Vec::new();
            for _ in 0..3 {
                waiting.push(Running::start(&mut client_as(stage, GAMES, "ask", &path)?)?);
            }
            let id = GAMES.to_string();
            let (status, finished) = wait_until("a thread connects and has to wait", || {
                let Some((thread, status)) = thread_of(stage, GAMES)? else {
                    return Ok(Seen::NotYet("none".to_owned()));
                };
                let mut kill = Command::new("setpriv");
                kill.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"]);
                let finished = run(kill.args(["/bin/kill", "-0", &thread]))?;
                // The first one's may have been done with.
                if finished.stderr.contains("No such process") {
                    return Ok(Seen::NotYet(finished.stderr));
                }
                Ok(Seen::Holds((status, finished)))
            })?;
            ensure!(status.contains("Uid:\t0\t5\t0\t5"), "{status}");
            ensure!(status.contains("CapEff:\t0000000000000000"), "{status}");
            let told = finished.failure().context("a client may kill pgusher")?;
            ensure!(told.contains("not permitted"), "{told}");
            drop(waiting);
            drop(_server);
            run(&mut psql(stage, "select 1")?)?.success()?;
            Ok(())
        })
}

#[test]
fn a_client_that_wants_its_servers_user_sees_the_one_it_is_shown() -> Result<()> {
    let asked = |stage: &Stage, peer: &str| -> Result<pgusher_tests::process::Finished> {
        let host = stage.cluster.socket_host().display();
        let connection = format!("host={host} requirepeer={peer}");
        run(&mut stage.psql_to(&connection, "select 1")?)
    };
    Setup::with(Version::V15).play(|stage| {
        asked(stage, "root")?.success()?;
        let told = asked(stage, "postgres")?;
        let told = told.failure()?;
        ensure!(told.contains("actual peer user name is \"root\""), "{told}");
        Ok(())
    })?;
    Setup::with(Version::V15)
        .argument("--unix-socket-user=postgres")
        .port(PORT)
        .play(|stage| {
            asked(stage, "postgres")?.success()?;
            // What it was shown has to be so.
            let path = stage.directory().join(format!(".s.PGSQL.{PORT}"));
            let path = path.display().to_string();
            let _server = server("name", &path)?;
            let finished = run(&mut client(stage, "ask", &path)?)?;
            let message = finished.value("message")?;
            ensure!(
                message.contains("runs as user 0, not as user"),
                "{finished:?}"
            );
            field_is(
                &record_of(stage, &finished)?,
                "/close",
                "upstream_unreachable",
            )
        })
}
