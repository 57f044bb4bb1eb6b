//! `cargo xtask setup`: installs what is missing, and only that.
//!
//! Owns the order: compiler and packages first, then the linker, then node-postgres and PostgreSQL 18. Each part looks before it
//! installs, so that a second run takes a moment and changes nothing.

mod node_postgres;
mod packages;
mod postgres_18;
mod relays;
mod toolchain;
mod unpacked;

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::workspace;

/// What a machine will be used for; each purpose includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Purpose {
    /// Build and run pgusher
    Run,
    /// Show it with a throwaway PostgreSQL server, or measure it
    Demo,
    /// Run the whole test suite
    Test,
}

/// Brings this machine to where `purpose` works.
///
/// # Errors
///
/// When something can neither be found nor installed; the text has the command that would.
pub(crate) fn prepare(purpose: Purpose) -> Result<()> {
    let folder = workspace::toolchain_dir();
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let _only_one = lock(&folder.join("setup.lock"))?;

    let mut wanted = packages::of(purpose);
    match toolchain::find_compiler() {
        Ok(_) => packages::install_missing(&wanted)?,
        Err(objections) => {
            wanted.extend(packages::COMPILER);
            packages::install_missing(&wanted).context(objections)?;
        }
    }
    toolchain::prepare()?;
    if purpose >= Purpose::Test {
        toolchain::check_components()?;
        node_postgres::prepare()?;
        postgres_18::prepare()?;
    }
    Ok(())
}

/// Makes pgbouncer and haproxy ready, which only a comparison with them needs.
///
/// # Errors
///
/// When they can neither be found nor fetched.
pub(crate) fn prepare_relays() -> Result<()> {
    let folder = workspace::toolchain_dir();
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let _only_one = lock(&folder.join("setup.lock"))?;
    relays::prepare()
}

/// Waits until no other `setup` works on this workspace; the lock goes with the file handle.
fn lock(path: &Path) -> Result<File> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    file.lock()
        .with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}
