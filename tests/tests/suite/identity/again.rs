//! A process that connects again, as something else than before: what was known of it is not what is known of it.

use std::fs;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use pgusher_tests::cluster::Version;
use pgusher_tests::condition::{Seen, wait_until};
use pgusher_tests::process::Running;
use pgusher_tests::programs::{compiled, copy_of, copy_program};
use pgusher_tests::stage::{Setup, Stage};
use serde_json::{Value, json};

use super::{disguise, identified};
use crate::expect::{at, fact, fact_is, is_from};

/// The record of the second connection of process `pid`.
fn identified_again(stage: &Stage, pid: u32, first: &Value) -> Result<Value> {
    let trail = &stage.pgusher.trail;
    trail.wait_for(
        &format!("the beginning of {pid}'s second session"),
        |record| {
            record["type"] == "session_start"
                && is_from(record, pid)
                && record["session"] != first["session"]
        },
    )
}

/// Plays one client that connects, is looked at, has `between` happen to it and connects again; checks both records.
fn twice(
    start: impl FnOnce(&Stage) -> Result<Running>,
    between: impl FnOnce(&Stage, &mut Running, u32) -> Result<()>,
    check: impl FnOnce(&Stage, &Value, &Value) -> Result<()>,
) -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let mut client = start(stage)?;
        let pid: u32 = client.wait_for_value("connected")?.parse()?;
        let first = identified(stage, pid)?;
        between(stage, &mut client, pid)?;
        client.say("go on")?;
        // Who started it may have ended.
        client.wait_for_line(&format!("again={pid}"))?;
        let record = identified_again(stage, pid, &first)?;
        client.finish()?;
        check(stage, &first, &record)
    })
}

/// [`twice`] with a client that changes by itself.
fn twice_changed(change: &[&str], check: impl FnOnce(&Value, &Value) -> Result<()>) -> Result<()> {
    twice(
        |stage| disguise(stage, "twice", change),
        |_, _, _| Ok(()),
        |_, first, second| check(first, second),
    )
}

fn ids_of(record: &Value) -> [&Value; 2] {
    [at(record, "/origin/exe_inode"), at(record, "/origin/exe")]
}

#[test]
fn a_process_that_stays_what_it_is_is_the_same_again() -> Result<()> {
    twice_changed(&["nothing"], |first, second| {
        ensure!(first["origin"] == second["origin"], "{first}\n{second}");
        Ok(())
    })
}

#[test]
fn a_process_that_has_become_another_program_is_that_program() -> Result<()> {
    let other = copy_of("disguise", "other")?.display().to_string();
    twice_changed(&["exec", &other], |first, second| {
        fact_is(second, "exe", "verified", other.as_str())?;
        fact_is(second, "comm", "kernel", "other")?;
        fact(second, "capabilities", "kernel")?;
        ensure!(ids_of(first) != ids_of(second), "{second}");
        ensure!(
            second["origin"]["cmdline"]["value"][1] == "again",
            "{second}"
        );
        Ok(())
    })
}

#[test]
fn a_process_that_has_given_up_its_ids_is_known_by_what_it_has_left() -> Result<()> {
    twice_changed(&["ids"], |first, second| {
        fact_is(first, "user", "late", "root")?;
        fact_is(second, "uid", "kernel", 65534)?;
        fact_is(second, "user", "late", "nobody")?;
        fact_is(second, "group", "late", "nogroup")?;
        fact_is(second, "groups", "kernel", json!([]))?;
        fact_is(second, "capabilities", "kernel", json!([]))
    })
}

#[test]
fn a_process_in_other_groups_is_in_those() -> Result<()> {
    twice_changed(&["groups"], |first, second| {
        ensure!(
            first["origin"]["groups"] != second["origin"]["groups"],
            "{second}"
        );
        fact_is(second, "groups", "kernel", json!([4]))?;
        fact_is(second, "group_names", "late", json!(["adm"]))
    })
}

#[test]
fn a_process_that_was_moved_is_in_its_new_place() -> Result<()> {
    twice(
        |stage| disguise(stage, "twice", &["nothing"]),
        |stage, _, pid| stage.cgroup.take_in("elsewhere", pid),
        |_, first, second| {
            let before = fact(first, "cgroup", "verified")?
                .as_str()
                .unwrap_or_default();
            fact_is(second, "cgroup", "verified", format!("{before}/elsewhere"))
        },
    )
}

#[test]
fn a_process_whose_parent_is_gone_has_another() -> Result<()> {
    twice(
        |stage| {
            let mut command = stage.cgroup.command("sh")?;
            // Two commands: the shell stays.
            command.args(["-c", r#""$@"; exit"#, "sh"]);
            command.arg(compiled("disguise")?).args([
                "twice",
                &stage.cluster.port.to_string(),
                "nothing",
            ]);
            Running::start(&mut command)
        },
        |_, shell, _| {
            shell.signal(Signal::SIGKILL)?;
            wait_until("the parent is gone", || {
                Ok(Seen::when(!shell.is_running()?, || "it runs".to_owned()))
            })
        },
        |_, first, second| {
            let parent = |record| at(record, "/origin/ancestors/0").clone();
            ensure!(parent(first)["value"]["comm"] == "sh", "{first}");
            let (before, now) = (parent(first), parent(second));
            ensure!(before["value"]["pid"] != now["value"]["pid"], "{second}");
            ensure!(
                second["origin"]["parent_pid"]["value"] == now["value"]["pid"]
                    && now["grade"] == "verified",
                "{second}"
            );
            Ok(())
        },
    )
}

/// Starts a copy of the program in the stage's directory.
fn copied(stage: &Stage) -> Result<Running> {
    let path = stage.directory().join("program");
    copy_program(&compiled("disguise")?, &path)?;
    let mut command = stage.cgroup.command(&path)?;
    Running::start(command.args(["twice", &stage.cluster.port.to_string(), "nothing"]))
}

#[test]
fn a_program_whose_file_was_renamed_has_its_new_name() -> Result<()> {
    twice(
        copied,
        |stage, _, _| {
            let directory = stage.directory();
            Ok(fs::rename(
                directory.join("program"),
                directory.join("renamed"),
            )?)
        },
        |stage, first, second| {
            let path = |name| stage.directory().join(name).display().to_string();
            fact_is(first, "exe", "verified", path("program"))?;
            fact_is(second, "exe", "verified", path("renamed"))
        },
    )
}

#[test]
fn a_program_whose_file_was_replaced_does_not_pass_for_the_new_one() -> Result<()> {
    twice(
        copied,
        |stage, _, _| {
            let next = stage.directory().join("next");
            copy_program(&compiled("connect")?, &next)?;
            Ok(fs::rename(next, stage.directory().join("program"))?)
        },
        |stage, first, second| {
            let path = stage.directory().join("program").display().to_string();
            fact_is(first, "exe", "verified", path.as_str())?;
            fact_is(second, "exe", "late", path)?;
            fact_is(second, "exe_deleted", "late", true)
        },
    )
}

#[test]
fn another_process_with_the_number_of_one_that_connected_is_itself() -> Result<()> {
    let other = copy_of("disguise", "successor")?.display().to_string();
    twice(
        |stage| disguise(stage, "reuse-looked-at", &[&other]),
        |_, _, _| Ok(()),
        |_, first, second| {
            fact_is(second, "exe", "verified", other.as_str())?;
            fact(second, "cgroup", "verified")?;
            ensure!(
                first["origin"]["start_time_ns"] != second["origin"]["start_time_ns"],
                "{second}"
            );
            Ok(())
        },
    )
}
