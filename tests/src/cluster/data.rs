//! The data directory of a cluster: made by initdb, or copied from one that was made ahead.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::version::Version;
use super::{give_to_postgres, outside_of};
use crate::process::run;

/// Names a directory made by [`ahead`], where there is one: in a virtual machine initdb takes half a minute.
const MADE_AHEAD: &str = "PGUSHER_PG15_DATA";

/// A command that runs one of a version's programs as its user `postgres`.
pub(super) fn as_postgres(version: Version, root: &Path, program: &str) -> Command {
    let mut command = Command::new("chroot");
    command
        .arg("--userspec=postgres:postgres")
        .arg(root)
        .arg(version.program(program));
    command
}

/// Fills `data`, an empty directory inside `root` that belongs to `postgres`.
pub(super) fn fill(version: Version, root: &Path, data: &Path) -> Result<()> {
    let ahead = env::var_os(MADE_AHEAD).filter(|_| version == Version::V15);
    let Some(ahead) = ahead.map(PathBuf::from) else {
        return initdb(as_postgres(version, root, "initdb"), data);
    };
    let outside = outside_of(root, data);
    run(Command::new("cp")
        .arg("-R")
        .arg(ahead.join("."))
        .arg(&outside))?
    .success()?;
    // The server starts in no directory that others may look into.
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o700))?;
    give_to_postgres(root, data)
}

/// Makes a data directory of version 15 ahead, at `directory`, which is not there yet.
///
/// # Errors
/// When PostgreSQL 15 is not installed.
pub fn ahead(directory: &Path) -> Result<()> {
    let (version, root) = (Version::V15, Version::V15.root()?);
    // The user postgres may be kept out of where `directory` is.
    let temporary = TempDir::new_in("/tmp")?;
    let data = temporary.path().join("data");
    let command = if nix::unistd::geteuid().is_root() {
        give_to_postgres(&root, temporary.path())?;
        as_postgres(version, &root, "initdb")
    } else {
        Command::new(version.program("initdb"))
    };
    initdb(command, &data).context("install postgresql-15")?;
    run(Command::new("cp").arg("-R").args([&data, directory]))?.success()?;
    Ok(())
}

fn initdb(mut command: Command, data: &Path) -> Result<()> {
    command
        .args(["-A", "trust", "-U", "postgres", "-E", "UTF8"])
        .args(["--locale=C.UTF-8", "-D"])
        .arg(data);
    run(&mut command)?.success()?;
    Ok(())
}
