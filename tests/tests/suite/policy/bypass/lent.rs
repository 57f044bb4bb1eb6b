//! Programs that the permitted one shares a socket or a life with: who connects is what counts.
//!
//! A stopped pgusher accepts nothing while the kernel completes connects: so a test decides what has happened to the
//! client before pgusher looks at it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use pgusher_tests::cluster::Version;
use pgusher_tests::condition::{Seen, wait_until};
use pgusher_tests::process::{Finished, Running, run};
use pgusher_tests::programs::{compiled, copy_of};
use pgusher_tests::stage::{Setup, Stage};
use serde_json::{Value, json};

use super::{client, is_denied, is_permitted, only};
use crate::expect::{accepted_session, in_order};
use crate::identity::PATIENT;

#[test]
fn a_program_that_execs_the_permitted_one_after_its_connect_is_denied() -> Result<()> {
    let trusted = compiled("connect")?;
    only(&trusted).play(|stage| {
        let untrusted = copy_of("connect", "connect-before-exec")?;
        let finished = replaced_before_pgusher_looks(stage, &untrusted, &trusted)?;
        is_denied(stage, &finished, 1)
    })
}

#[test]
fn the_permitted_program_is_denied_if_it_has_become_another_before_pgusher_looks() -> Result<()> {
    let trusted = compiled("connect")?;
    only(&trusted).play(|stage| {
        let untrusted = copy_of("connect", "connect-after-exec")?;
        let finished = replaced_before_pgusher_looks(stage, &trusted, &untrusted)?;
        is_denied(stage, &finished, 1)
    })
}

/// Lets `first` connect and become `second`, which speaks.
fn replaced_before_pgusher_looks(stage: &Stage, first: &Path, second: &Path) -> Result<Finished> {
    stage.pgusher.signal(Signal::SIGSTOP)?;
    let mut command = client(stage, first, "exec")?;
    let mut client = Running::start(command.arg(second))?;
    client.wait_for_value("replaced")?;
    stage.pgusher.signal(Signal::SIGCONT)?;
    client.say("go on")?;
    client.finish()
}

#[test]
fn what_the_permitted_program_execs_later_speaks_with_its_permit() -> Result<()> {
    let trusted = compiled("connect")?;
    only(&trusted).play(|stage| {
        let untrusted = copy_of("connect", "connect-heir")?;
        let mut command = client(stage, &trusted, "exec-when-told")?;
        let mut client = Running::start(command.arg(&untrusted))?;
        client.wait_for_value("connected")?;
        let trail = &stage.pgusher.trail;
        trail.wait_for("a session's beginning", |record| {
            record["type"] == "session_start"
        })?;
        client.say("become another")?;
        client.wait_for_value("replaced")?;
        client.say("go on")?;
        let finished = client.finish()?;
        ensure!(finished.value("answer")? == "42", "{finished:?}");
        Ok(())
    })
}

#[test]
fn the_permitted_program_is_denied_if_it_has_exited_before_pgusher_looks() -> Result<()> {
    let trusted = compiled("connect")?;
    only(&trusted).play(|stage| {
        let finished = exited_before_pgusher_looks(stage, &trusted)?;
        is_denied(stage, &finished, 1)
    })
}

#[test]
fn whoever_has_exited_does_not_pass_by_a_forbid_that_asks_where_he_ran() -> Result<()> {
    let policy = "permit (principal, action, resource);\n\
        @id(\"no-batch\") forbid (principal in Unit::\"batch.service\", action, resource);";
    let program = compiled("connect")?;
    Setup::with(Version::V15)
        .policy("enforce", policy)
        .argument(PATIENT)
        .play(|stage| {
            is_permitted(&run(&mut client(stage, &program, "blocking")?)?)?;
            let finished = exited_before_pgusher_looks(stage, &program)?;
            is_denied(stage, &finished, 2)?;
            let record = in_order(stage, 2)?.remove(1);
            let cause = json!({"in_doubt": {"kinds": ["Unit"]}});
            ensure!(record["policy"]["cause"] == cause, "{record}");
            ensure!(
                record["policy"]["policies"] == json!(["no-batch"]),
                "{record}"
            );
            Ok(())
        })
}

/// Lets `program` connect and exit; its child goes on with the socket.
fn exited_before_pgusher_looks(stage: &Stage, program: &Path) -> Result<Finished> {
    stage.pgusher.signal(Signal::SIGSTOP)?;
    let mut client = Running::start(&mut client(stage, program, "orphaned")?)?;
    client.wait_for_value("pid")?;
    wait_until("the process that connected has exited", || {
        Ok(Seen::when(!client.is_running()?, || "it runs".to_owned()))
    })?;
    stage.pgusher.signal(Signal::SIGCONT)?;
    client.say("go on")?;
    client.wait_for_line("refused=28000")?;
    client.finish()
}

/// `clients/lend.c` twice: the permitted program, and another.
fn lenders() -> Result<(PathBuf, PathBuf)> {
    Ok((compiled("lend")?, copy_of("lend", "lend-untrusted")?))
}

#[test]
fn a_socket_that_another_program_connected_is_denied_in_the_permitted_ones_hands() -> Result<()> {
    let (trusted, untrusted) = lenders()?;
    only(&trusted).play(|stage| {
        let port = stage.cluster.port.to_string();
        let mut lender = stage.cgroup.command(&untrusted)?;
        let finished = run(lender.args(["connected", &port]).arg(&trusted))?;
        is_denied(stage, &finished, 1)
    })
}

#[test]
fn an_unconnected_socket_of_the_permitted_program_is_denied_if_another_connects_it() -> Result<()> {
    let (trusted, untrusted) = lenders()?;
    only(&trusted).play(|stage| {
        let port = stage.cluster.port.to_string();
        let mut lender = stage.cgroup.command(&trusted)?;
        let finished = run(lender.args(["unconnected", &port]).arg(&untrusted))?;
        is_denied(stage, &finished, 1)?;
        // And the other way round: whoever made it, the permitted one connects.
        let mut lender = stage.cgroup.command(&untrusted)?;
        let finished = run(lender.args(["unconnected", &port]).arg(&trusted))?;
        ensure!(finished.value("answer")? == "R", "{finished:?}");
        Ok(())
    })
}

/// Connects from any port, says what it wants, and is gone before anybody accepts.
const HIT_AND_RUN: &str = r"
import socket, struct, sys
client = socket.socket()
client.bind(('127.0.0.5', 0))
client.connect(('127.0.0.1', int(sys.argv[1])))
client.sendall(b'\0\0\0\x29\0\3\0\0user\0postgres\0database\0postgres\0\0')
client.sendall(b'Q\0\0\0\x0eselect 66\0')
client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
print('port=%d' % client.getsockname()[1])
client.close()
";

#[test]
fn a_connection_reset_while_it_waits_does_not_take_the_place_of_the_next_from_its_port()
-> Result<()> {
    let trusted = compiled("connect")?;
    only(&trusted).play(|stage| {
        stage.pgusher.signal(Signal::SIGSTOP)?;
        let mut untrusted = stage.cgroup.command("/usr/bin/python3")?;
        let server = stage.cluster.port.to_string();
        let gone = run(untrusted.args(["-c", HIT_AND_RUN, &server]))?;
        let port = gone.value("port")?;
        let mut permitted = client(stage, &trusted, "bound-source")?;
        let permitted = Running::start(permitted.arg(port))?;
        wait_until("the permitted program has connected", || {
            let sockets = run(Command::new("ss").args(["-Htnp", "state", "established"]))?;
            let mine = format!("pid={},", permitted.pid());
            Ok(Seen::when(sockets.stdout.contains(&mine), || {
                sockets.stdout.clone()
            }))
        })?;
        stage.pgusher.signal(Signal::SIGCONT)?;
        let finished = permitted.finish()?;
        let records = stage.pgusher.trail.wait_for_sessions(2)?;
        ensure!(finished.value("answer")? == "42", "{finished:?}");
        let is_allowed = |record: &&Value| record["policy"]["decision"] == "allow";
        let allowed: Vec<_> = records.iter().filter(is_allowed).collect();
        ensure!(allowed.len() == 1, "{records:?}");
        accepted_session(allowed[0], "postgres")
    })
}
