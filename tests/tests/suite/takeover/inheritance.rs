//! What a successor has to know of sessions that it does not serve.

use std::io::Write as _;

use anyhow::{Result, ensure};
use pgusher_tests::cluster::Version;
use pgusher_tests::process::run;
use pgusher_tests::stage::Setup;
use pgusher_tests::wire;
use serde_json::{Value, json};

use super::{ends_well, take_over_with_a_session};
use crate::policy::cancel::{asleep, is_on_record_as_its_own, was_cancelled};

const CONNECT: &str = "permit (principal, action == Action::\"connect\", resource);";

#[test]
fn a_workload_cancels_what_it_runs_in_the_old_process() -> Result<()> {
    Setup::with(Version::V15)
        .policy("enforce", CONNECT)
        .play(|stage| {
            let (mut stream, request) = asleep(stage)?;
            let mut predecessors = vec![take_over_with_a_session(stage)?];
            // What was inherited is passed on.
            predecessors.push(take_over_with_a_session(stage)?);
            stage.dial()?.write_all(&request)?;
            was_cancelled(&mut stream)?;
            is_on_record_as_its_own(stage)?;
            drop(stream);
            predecessors.into_iter().try_for_each(ends_well)
        })
}

#[test]
fn a_policy_that_is_reloaded_ends_sessions_in_the_old_process_too() -> Result<()> {
    Setup::with(Version::V15)
        .policy("enforce", CONNECT)
        .play(|stage| {
            let mut open = stage.session()?;
            let first = stage.take_over()?;
            let second = stage.take_over()?;
            let nobody = "forbid (principal, action, resource);";
            stage.reload_policy(nobody)?.success()?;
            let message = wire::read_message(&mut open)?;
            ensure!(
                message.field(b'C').as_deref() == Some("57P01"),
                "{message:?}"
            );
            ends_well(first)?;
            ends_well(second)?;
            let refused = run(&mut stage.psql("select 1")?)?;
            refused.failure()?;
            Ok(())
        })
}

/// Whoever starts after a successor has died finds a process that serves and that nobody speaks to.
#[test]
fn a_policy_that_is_reloaded_ends_sessions_whose_successor_died_too() -> Result<()> {
    Setup::with(Version::V15)
        .policy("enforce", CONNECT)
        .play(|stage| {
            let mut open = stage.session()?;
            let first = stage.take_over()?;
            stage.kill()?;
            stage.restart()?;
            let status = stage.pgusher.status()?;
            ensure!(
                status["predecessors"]["silent"] == json!([first.pid()]),
                "{status}"
            );
            let nobody = "forbid (principal, action, resource);";
            let reloaded = stage.reload_policy(nobody)?;
            let told: Value = serde_json::from_str(reloaded.success()?)?;
            ensure!(told["predecessors"] == json!([first.pid()]), "{told}");
            let message = wire::read_message(&mut open)?;
            ensure!(
                message.field(b'C').as_deref() == Some("57P01"),
                "{message:?}"
            );
            run(&mut stage.psql("select 1")?)?.failure()?;
            ends_well(first)
        })
}

#[test]
fn a_policy_that_cannot_be_used_is_not_passed_on() -> Result<()> {
    Setup::with(Version::V15)
        .policy("enforce", CONNECT)
        .play(|stage| {
            let mut open = stage.session()?;
            let first = stage.take_over()?;
            stage.reload_policy("permit (nonsense);")?.failure()?;
            ensure!(wire::ask(&mut open, "select 'still'")? == "still");
            let log = first.log()?;
            ensure!(!log.contains("policy not reloaded"), "{log}");
            drop((open, stage.session()?));
            ends_well(first)
        })
}
