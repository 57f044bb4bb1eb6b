//! The check at the end of a guest, which every test of it relies on.

use std::fs;
use std::process::Command;

use anyhow::{Result, ensure};
use pgusher_tests::process::run;
use vm_tests::inventory::Inventory;

/// Where something is left for a moment.
const PIN: &str = "/sys/fs/bpf/left_behind";

#[test]
fn what_a_test_leaves_behind_is_named() -> Result<()> {
    let before = Inventory::take()?;
    let map = ["type", "array", "key", "4", "value", "4", "entries", "1"];
    let mut command = Command::new("bpftool");
    command.args(["map", "create", PIN]).args(map);
    run(command.args(["name", "left_behind"]))?.success()?;
    let after = Inventory::take()?;
    fs::remove_file(PIN)?;
    let added = after.added_to(&before);
    let is_named = |thing: &dyn Fn(&str) -> bool| added.iter().any(|added| thing(added));
    ensure!(is_named(&|added| added == PIN), "{added:?}");
    ensure!(
        is_named(&|added| added.starts_with("map ") && added.contains("left_behind")),
        "{added:?}"
    );
    Ok(())
}
