//! Debian packages that are unpacked below `target` instead of being installed.
//!
//! For what would start a service, or would not go together with what the machine has. Nothing outside the folder changes.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::packages;
use crate::process;

/// Written last: a folder without it was interrupted and is made anew. Its text is the recipe.
const STAMP: &str = "pgusher-complete";

/// Makes the folder with these packages in it unless it is there; `what` and its size are shown.
///
/// # Errors
///
/// When apt cannot download the packages or they cannot be unpacked.
pub(super) fn prepare(folder: &Path, packages: &[&str], what: &str) -> Result<()> {
    let stamp = folder.join(STAMP);
    let recipe = packages.join(" ");
    if fs::read_to_string(&stamp).is_ok_and(|present| present == recipe) {
        return Ok(());
    }
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder)?;
    eprintln!("Unpacking {what}:");
    // A machine may never have fetched the lists that the names are looked up in.
    if download(folder, packages).is_err() {
        packages::update_lists()?;
        download(folder, packages)?;
    }
    for entry in fs::read_dir(folder)? {
        let package = entry?.path();
        if package.extension().is_some_and(|end| end == "deb") {
            unpack(&package, folder)?;
        }
    }
    fs::write(stamp, recipe)?;
    Ok(())
}

fn download(folder: &Path, packages: &[&str]) -> Result<()> {
    process::run(
        Command::new("apt-get")
            .args(["--quiet", "download"])
            .args(packages)
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
