//! node-postgres for the tests, unpacked below `target`.
//!
//! Debian's packages of it can only be installed beside Debian's own Node, which machines that have a newer Node do not
//! want. They hold nothing but JavaScript, so any Node runs them from a folder.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::packages;
use crate::{process, workspace};

/// The driver, and the two libraries it loads that are packages of their own.
const PACKAGES: [&str; 3] = ["node-pg", "node-split2", "node-xtend"];
/// Written last: a folder without it was interrupted and is made anew. Its text is the recipe.
const STAMP: &str = "pgusher-complete";

/// Makes the folder unless it is there.
///
/// # Errors
///
/// When apt cannot download the packages or they cannot be unpacked.
pub(super) fn prepare() -> Result<()> {
    let folder = workspace::node_postgres();
    let stamp = folder.join(STAMP);
    let recipe = PACKAGES.join(" ");
    if fs::read_to_string(&stamp).is_ok_and(|present| present == recipe) {
        return Ok(());
    }
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    eprintln!("Unpacking node-postgres (below 1 MB):");
    // A machine may never have fetched the lists that the names are looked up in.
    if download(&folder).is_err() {
        packages::update_lists()?;
        download(&folder)?;
    }
    for entry in fs::read_dir(&folder)? {
        let package = entry?.path();
        if package.extension().is_some_and(|end| end == "deb") {
            unpack(&package, &folder)?;
        }
    }
    fs::write(stamp, recipe)?;
    Ok(())
}

fn download(folder: &Path) -> Result<()> {
    process::run(
        Command::new("apt-get")
            .args(["--quiet", "download"])
            .args(PACKAGES)
            .current_dir(folder),
    )
}

fn unpack(package: &Path, folder: &Path) -> Result<()> {
    process::run(
        Command::new("dpkg-deb")
            .arg("--extract")
            .args([package, folder]),
    )
    .context("dpkg-deb belongs to Debian's package dpkg")
}
