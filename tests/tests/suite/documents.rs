//! What the documents tell a reader to type, typed.

use anyhow::{Result, ensure};
use pgusher_tests::reader::follow;

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
