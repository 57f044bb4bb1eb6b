//! Runs programs as children of the first process, which inherits every orphan of the machine.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::machine::{HOME, set_environment};

/// Runs each program of a plan, one a line with its arguments; says whether all of them succeeded.
///
/// # Errors
/// When one cannot be started.
pub fn run_all(plan: &str) -> Result<bool> {
    let mut is_success = true;
    for line in plan.lines() {
        let mut words = line.split_whitespace();
        let Some(name) = words.next() else {
            continue;
        };
        let mut command = Command::new(Path::new(HOME).join(name));
        let ended_well = run(command.args(words))?;
        is_success &= ended_well;
    }
    Ok(is_success)
}

/// Runs a program to its end, burying on the way whoever else has died.
///
/// # Errors
/// When it cannot be started.
pub fn run(command: &mut Command) -> Result<bool> {
    let child = set_environment(command)
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let child = Pid::from_raw(i32::try_from(child.id())?);
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == child => return Ok(code == 0),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                println!("{command:?} was ended by {signal}");
                return Ok(false);
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot wait for a child"),
        }
    }
}
