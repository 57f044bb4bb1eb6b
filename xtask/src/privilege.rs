//! Doing as root only what needs root.
//!
//! Everything that compiles runs as the person who called, so that no file in their target folder
//! belongs to somebody else; installing packages, attaching to cgroups and serving as a demo need root.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::unistd::geteuid;

use crate::process::{display, find_program};

/// Whether this process is root already.
pub(crate) fn is_root() -> bool {
    geteuid().is_root()
}

/// Returns a command that runs `program` as root: as it is, or through sudo.
///
/// # Errors
///
/// When this process is not root and there is no sudo.
pub(crate) fn as_root(program: impl AsRef<OsStr>) -> Result<Command> {
    if is_root() {
        return Ok(Command::new(program));
    }
    let Some(sudo) = find_program("sudo") else {
        bail!(
            "`{}` must run as root and there is no sudo: run this command as root",
            program.as_ref().to_string_lossy()
        );
    };
    let mut command = Command::new(sudo);
    command.arg("--").arg(program);
    Ok(command)
}

/// Replaces this process by a command; returns only if that fails.
///
/// # Errors
///
/// Always: whoever sees this function return sees why.
pub(crate) fn become_command(mut command: Command) -> Result<Infallible> {
    let line = display(&command);
    eprintln!("  $ {line}");
    Err(command.exec()).with_context(|| format!("cannot start `{line}`"))
}
