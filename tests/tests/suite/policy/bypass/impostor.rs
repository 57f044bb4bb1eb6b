//! Programs that want to be taken for the one that is permitted.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use pgusher_tests::cluster::Version;
use pgusher_tests::process::{Finished, Running, run};
use pgusher_tests::programs::{compiled, copy_of, copy_program};
use pgusher_tests::stage::{Setup, Stage};
use tempfile::TempDir;

use super::{client, connecting, is_denied, is_permitted, only};
use crate::expect::fact_is;

#[test]
fn a_copy_with_the_name_and_the_arguments_of_the_permitted_program_is_denied() -> Result<()> {
    let trusted = compiled("connect")?;
    only(&trusted).play(|stage| {
        // The kernel takes comm from the file's name.
        let copy = stage.directory().join("connect");
        copy_program(&trusted, &copy)?;
        let mut command = client(stage, &copy, "blocking")?;
        is_denied(stage, &run(command.arg0(&trusted))?, 1)?;
        let record = stage.pgusher.trail.only_session()?;
        ensure!(record["origin"]["comm"]["value"] == "connect", "{record}");
        let first = &record["origin"]["cmdline"]["value"][0];
        ensure!(*first == trusted.display().to_string(), "{record}");
        is_permitted(&run(&mut client(stage, &trusted, "blocking")?)?)
    })
}

#[test]
fn another_link_to_the_permitted_file_is_denied() -> Result<()> {
    let trusted = compiled("connect")?;
    only(&trusted).play(|stage| {
        let link = trusted.with_file_name("connect-linked");
        // A test that failed before may have left it.
        let _ = fs::remove_file(&link);
        fs::hard_link(&trusted, &link)?;
        is_denied(stage, &run(&mut client(stage, &link, "blocking")?)?, 1)?;
        Ok(fs::remove_file(&link)?)
    })
}

#[test]
fn a_program_mounted_over_the_permitted_path_is_denied() -> Result<()> {
    let trusted = compiled("connect")?;
    only(&trusted).play(|stage| {
        let untrusted = copy_of("connect", "connect-mounted")?;
        let script = r#"mount --bind "$0" "$1" && exec "$@""#;
        let mut command = stage.cgroup.command("unshare")?;
        command.args(["--mount", "sh", "-c", script]);
        command.arg(&untrusted).arg(&trusted);
        let finished = run(connecting(&mut command, stage, "blocking"))?;
        is_denied(stage, &finished, 1)?;
        let record = stage.pgusher.trail.only_session()?;
        fact_is(&record, "exe", "late", trusted.display().to_string())
    })
}

#[test]
fn a_program_whose_file_was_replaced_is_denied_and_what_replaced_it_is_permitted() -> Result<()> {
    let directory = TempDir::new()?;
    let path = directory.path().join("service");
    copy_program(&compiled("connect")?, &path)?;
    only(&path).play(|stage| {
        let mut old = Running::start(&mut client(stage, &path, "patient")?)?;
        old.wait_for_value("ready")?;
        let new = directory.path().join("new");
        copy_program(&compiled("connect")?, &new)?;
        fs::rename(&new, &path)?;
        old.say("go on")?;
        is_denied(stage, &old.finish()?, 1)?;
        // A path is worth what its file's permissions are.
        is_permitted(&run(&mut client(stage, &path, "blocking")?)?)
    })
}

/// Says who wants in and prints what it is told.
const SCRIPT: &str = r"#!/usr/bin/python3
import socket, sys
with socket.create_connection(('127.0.0.1', int(sys.argv[1]))) as server:
    server.sendall(b'\0\0\0\x29\0\3\0\0user\0postgres\0database\0postgres\0\0')
    answer = server.recv(4096)
    print('refused=28000' if b'\0C28000\0' in answer else 'answer=' + answer[:1].decode())
";

#[test]
fn a_script_is_its_interpreter_whatever_it_is_called() -> Result<()> {
    let trusted = compiled("connect")?;
    let interpreter = fs::canonicalize("/usr/bin/python3").context("install python3")?;
    for (permitted, is_script_permitted) in [(&trusted, false), (&interpreter, true)] {
        only(permitted).play(|stage| {
            let text = stage.directory().join("text");
            fs::write(&text, SCRIPT)?;
            fs::set_permissions(&text, fs::Permissions::from_mode(0o755))?;
            let script = stage.directory().join("connect");
            copy_program(&text, &script)?;
            let mut command = stage.cgroup.command(&script)?;
            let finished = run(command.arg(stage.cluster.port.to_string()))?;
            if is_script_permitted {
                // So a permit for an interpreter is one for everything that it can be told.
                ensure!(finished.value("answer")? == "R", "{finished:?}");
                return Ok(());
            }
            is_denied(stage, &finished, 1)
        })?;
    }
    Ok(())
}

/// Lets nobody, as root of a user namespace of his own, have `program` noted as his executable.
fn forged(stage: &Stage, program: &Path) -> Result<Finished> {
    let mut command = stage.cgroup.command("setpriv")?;
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.args(["unshare", "--user", "--map-root-user"]);
    let port = stage.cluster.port.to_string();
    run(command.arg(compiled("forge")?).arg(port).arg(program))
}

#[test]
fn whoever_may_execute_a_program_can_be_taken_for_it() -> Result<()> {
    let program = copy_of("connect", "connect-executable")?;
    only(&program).play(|stage| {
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        let finished = forged(stage, &program)?;
        ensure!(finished.value("noted")? == "yes", "{finished:?}");
        ensure!(finished.value("answer")? == "R", "{finished:?}");
        let record = stage.pgusher.trail.only_session()?;
        fact_is(&record, "exe", "verified", program.display().to_string())?;
        // The kernel asks for the right to execute it, and for nothing else.
        fs::set_permissions(&program, fs::Permissions::from_mode(0o744))?;
        let finished = forged(stage, &program)?;
        ensure!(finished.value("noted")? == "no", "{finished:?}");
        is_denied(stage, &finished, 2)
    })
}

#[test]
fn a_program_together_with_its_user_is_not_to_be_forged_by_another_user() -> Result<()> {
    let program = copy_of("connect", "connect-of-root")?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let policy = format!(
        "permit (principal in Executable::\"{}\", action, resource)\n\
         when {{ principal in User::\"root\" }};",
        program.display()
    );
    Setup::with(Version::V15)
        .policy("enforce", policy)
        .play(|stage| {
            let finished = forged(stage, &program)?;
            ensure!(finished.value("noted")? == "yes", "{finished:?}");
            is_denied(stage, &finished, 1)?;
            is_permitted(&run(&mut client(stage, &program, "blocking")?)?)
        })
}
