//! `cargo xtask fuzz`: each fuzz target for a while, starting from the committed corpus.
//!
//! What is found goes below `target/fuzz`; nothing is added to the repository. A crash leaves its input there, and the
//! command fails and names it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::setup::{self, Purpose};
use crate::{interrupt, process, workspace};

/// The files in `proxy-userspace/fuzz/fuzz_targets`.
const TARGETS: [&str; 3] = ["startup", "frontend", "backend"];
/// Longer inputs find nothing that shorter ones do not: the limits of the code under test are lowered for them.
const MAX_INPUT_BYTES: u32 = 400;

/// Runs every target for so many seconds.
///
/// # Errors
///
/// When cargo-fuzz is missing, a target does not build, or an input breaks what should hold.
pub(crate) fn run(seconds: u32) -> Result<()> {
    setup::prepare(Purpose::Run)?;
    process::capture(workspace::cargo().args(["fuzz", "--version"]))
        .context("cargo-fuzz is missing: `cargo install cargo-fuzz` installs it")?;
    let sources = workspace::root().join("proxy-userspace/fuzz");
    let finds = workspace::root().join("target/fuzz");
    for target in TARGETS {
        let found = finds.join(target);
        fs::create_dir_all(&found).with_context(|| format!("cannot create {}", found.display()))?;
        println!("\n== {target}: {seconds} s");
        process::run(&mut fuzz(target, &sources, &found, seconds))?;
        interrupt::check()?;
    }
    Ok(())
}

/// Returns the command for one target. Memory is safe here without a sanitizer: what is looked for are panics.
fn fuzz(target: &str, sources: &Path, found: &Path, seconds: u32) -> Command {
    let mut command = workspace::cargo();
    command
        // cargo-fuzz wants flags of an unstable compiler.
        .env("RUSTC_BOOTSTRAP", "1")
        .args(["fuzz", "run", "--sanitizer", "none", "--fuzz-dir"])
        .arg(sources)
        .arg(target)
        // What is found goes to the first folder; the others are only read.
        .arg(found)
        .arg(sources.join("corpus").join(target))
        .arg("--")
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={MAX_INPUT_BYTES}"))
        .arg(format!("-artifact_prefix={}/crash-", found.display()));
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_its_source_and_its_corpus() {
        let sources = workspace::root().join("proxy-userspace/fuzz");
        for target in TARGETS {
            let source = sources.join(format!("fuzz_targets/{target}.rs"));
            assert!(source.is_file(), "{}", source.display());
            assert!(sources.join("corpus").join(target).is_dir(), "{target}");
        }
    }
}
