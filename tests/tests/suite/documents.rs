//! What the documents tell a reader to type, typed.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use pgusher_tests::pgusher::binary;
use pgusher_tests::process::run;
use pgusher_tests::reader::{blocks, follow};
use tempfile::TempDir;

#[test]
fn the_tutorial_on_policies_works_as_it_is_written() -> Result<()> {
    let commands = follow("policy.md", "## From nothing", "## What a policy can say")?;
    ensure!(commands > 10, "only {commands} commands were found");
    Ok(())
}

#[test]
fn operations_work_from_installing_to_removing_as_they_are_written() -> Result<()> {
    let commands = follow("operations.md", "## Install", "## What to watch")?;
    ensure!(commands > 10, "only {commands} commands were found");
    Ok(())
}

/// Settings and policies that are not part of what a reader types; with the files that they name.
#[test]
fn every_example_of_settings_and_policies_is_accepted() -> Result<()> {
    let directory = TempDir::new()?;
    let at = |name: &str| directory.path().join(name);
    let authority = at("ca");
    run(Command::new(binary()?)
        .args(["ca", "init", "--directory"])
        .arg(&authority))?
    .success()?;
    let root = authority.join("ca.crt").display().to_string();
    let (settings, policy) = (at("pgusher.toml"), at("policy.cedar"));
    let mut checked = 0;
    for (document, text) in documents()? {
        for block in blocks(&text) {
            let text = block.lines.join("\n");
            let text = text
                .replace("/var/lib/pgusher/ca", &authority.display().to_string())
                .replace("/etc/pgusher/db-root.crt", &root);
            let is_table = text.contains("[[case]]");
            fs::write(&settings, if block.language == "toml" { &text } else { "" })?;
            fs::write(&policy, if block.language == "cedar" { &text } else { "" })?;
            if is_table || !matches!(block.language, "toml" | "cedar") {
                continue;
            }
            let mut check = Command::new(binary()?);
            check.args(["policy", "check", "--config"]).arg(&settings);
            let finished = run(check.arg("--policy").arg(&policy))?;
            let outcome = finished.success();
            outcome.with_context(|| format!("{document}:\n{text}"))?;
            checked += 1;
        }
    }
    ensure!(checked > 10, "only {checked} examples were found");
    Ok(())
}

/// The README and everything in `docs`, by name.
fn documents() -> Result<Vec<(String, String)>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut paths = vec![root.join("README.md")];
    for entry in fs::read_dir(root.join("docs"))? {
        let path = entry?.path();
        paths.extend(
            path.extension()
                .is_some_and(|it| it == "md")
                .then_some(path.clone()),
        );
    }
    let read = |path: std::path::PathBuf| -> Result<_> {
        Ok((path.display().to_string(), fs::read_to_string(path)?))
    };
    paths.into_iter().map(read).collect()
}
