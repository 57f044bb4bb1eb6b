//! Ways around a policy that is enforced, each tried on the real kernel: denied by pgusher, or refused by the kernel.
//!
//! `docs/threat-model.md` lists them, with what remains.

mod impostor;
mod lent;
mod named;
mod route;

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use pgusher_tests::cluster::Version;
use pgusher_tests::process::Finished;
use pgusher_tests::stage::{Setup, Stage};

use super::was_denied;
use crate::expect::in_order;
use crate::identity::PATIENT;

/// A stage on which one program, named by its path, is permitted and nothing else.
fn only(program: &Path) -> Setup {
    let policy = format!(
        "permit (principal in Executable::\"{}\", action, resource);",
        program.display()
    );
    // Tests stop pgusher, too.
    Setup::with(Version::V15)
        .policy("enforce", policy)
        .argument(PATIENT)
}

/// Gives a command the arguments of `clients/connect.c`.
fn connecting<'command>(
    command: &'command mut Command,
    stage: &Stage,
    mode: &str,
) -> &'command mut Command {
    command.args([mode, "127.0.0.1", &stage.cluster.port.to_string()])
}

/// `program`, which is `clients/connect.c`, on the stage's server.
fn client(stage: &Stage, program: &Path, mode: &str) -> Result<Command> {
    let mut command = stage.cgroup.command(program)?;
    connecting(&mut command, stage, mode);
    Ok(command)
}

/// Checks that a client got its answer.
fn is_permitted(finished: &Finished) -> Result<()> {
    ensure!(finished.success().is_ok(), "not permitted: {finished:?}");
    Ok(())
}

/// Checks that a client was told that it may not, and that this is on record as the last session so far.
fn is_denied(stage: &Stage, finished: &Finished, sessions: usize) -> Result<()> {
    ensure!(finished.value("refused")? == "28000", "{finished:?}");
    let records = in_order(stage, sessions)?;
    ensure!(records.len() == sessions, "{} sessions", records.len());
    records.last().map_or(Ok(()), was_denied)
}

/// Checks that connect() itself failed.
fn is_refused_by_the_kernel(finished: &Finished) -> Result<()> {
    let error = finished.value("error")?;
    ensure!(error.ends_with("Operation not permitted"), "{finished:?}");
    Ok(())
}
