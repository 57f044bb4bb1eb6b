//! A PostgreSQL 18 of the tests' own.
//!
//! Debian 12 has version 15 only. A newer Debian, unpacked into a folder below `target` and entered with chroot, has a
//! complete 18 with TLS and every client tool, and touches nothing of the machine outside that folder.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::process::{self, find_program};
use crate::{mounts, privilege, workspace};

const SUITE: &str = "forky";
const PACKAGES: &str = "postgresql-18,postgresql-client-18";
/// debootstrap of Debian 12 has no script for this suite yet; that of the unstable one serves for all newer.
const SUITE_SCRIPT: &str = "sid";
/// Written last: a tree without it was interrupted and is made anew. Its text is the recipe.
const STAMP: &str = "pgusher-complete";

/// Makes the tree unless it is there.
///
/// # Errors
///
/// When root cannot be had or debootstrap fails.
pub(super) fn prepare() -> Result<()> {
    let tree = workspace::postgres_18_tree();
    let stamp = tree.join(STAMP);
    let recipe = format!("{SUITE} {PACKAGES}");
    if fs::read_to_string(&stamp).is_ok_and(|present| present.trim() == recipe) {
        return Ok(());
    }
    remove(&tree)?;
    eprintln!("Making the PostgreSQL 18 tree (500 MB, under a minute):");
    let debootstrap = find_program("debootstrap").context("debootstrap is missing")?;
    process::run(
        privilege::as_root(debootstrap)?
            .arg("--variant=minbase")
            .arg(format!("--include={PACKAGES}"))
            .arg(SUITE)
            .arg(&tree)
            // An empty mirror means debootstrap's own default.
            .args(["", SUITE_SCRIPT]),
    )
    .with_context(|| {
        format!(
            "details may be in {}/debootstrap/debootstrap.log",
            tree.display()
        )
    })?;
    write_stamp(&stamp, &recipe)
}

/// Removes what an interrupted run left, unmounting first what it had mounted there.
fn remove(tree: &Path) -> Result<()> {
    if !tree.exists() {
        return Ok(());
    }
    for point in mounts::below(tree)? {
        process::run(privilege::as_root("umount")?.arg(point))?;
    }
    process::run(
        privilege::as_root("rm")?
            .args(["--recursive", "--force", "--one-file-system"])
            .arg(tree),
    )
}

fn write_stamp(stamp: &Path, recipe: &str) -> Result<()> {
    process::capture(
        privilege::as_root("sh")?
            .args(["-c", r#"printf '%s\n' "$1" > "$2""#, "sh", recipe])
            .arg(stamp),
    )
    .map(drop)
}
