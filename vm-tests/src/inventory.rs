//! What is in the kernel that tests could leave behind: eBPF objects, pins, cgroups.
//!
//! A guest is nobody else's, so all of it is counted, whoever made it.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use pgusher_tests::bpf_fs::PINS;
use pgusher_tests::condition::{Seen, wait_until};
use pgusher_tests::process::run;
use serde_json::Value;

use crate::machine::set_environment;

const KINDS: [&str; 3] = ["prog", "map", "link"];
/// Where objects are pinned, pgusher's own among them, and where tests make their cgroups.
const FOLDERS: [&str; 3] = ["/sys/fs/bpf", PINS, "/sys/fs/cgroup"];

/// Everything there is at a time, each by kind and number or by path.
#[derive(Debug)]
pub struct Inventory(BTreeSet<String>);

impl Inventory {
    /// Lists everything.
    ///
    /// # Errors
    /// When `bpftool` fails.
    pub fn take() -> Result<Self> {
        let mut found = BTreeSet::new();
        for kind in KINDS {
            let mut command = Command::new("bpftool");
            let shown = run(set_environment(command.args(["--json", kind, "show"])))?;
            let text = shown.success()?;
            // With nothing to show, some versions say nothing.
            let objects: Vec<Value> = match text {
                "" => Vec::new(),
                _ => serde_json::from_str(text).with_context(|| text.to_owned())?,
            };
            found.extend(
                objects
                    .iter()
                    .map(|it| format!("{kind} {} {}", it["id"], it["name"])),
            );
        }
        for folder in FOLDERS {
            for entry in fs::read_dir(folder)? {
                found.insert(entry?.path().display().to_string());
            }
        }
        Ok(Self(found))
    }

    /// Waits until nothing is there that was not; the kernel frees objects a moment after their last user is gone.
    ///
    /// # Errors
    /// When something stays.
    pub fn wait_until_restored(&self) -> Result<()> {
        wait_until("nothing of the tests is left in the kernel", || {
            let now = Self::take()?;
            let added = now.added_to(self);
            Ok(Seen::when(added.is_empty(), || format!("{added:?}")))
        })
    }

    /// What is here and was not there.
    #[must_use]
    pub fn added_to<'a>(&'a self, before: &'a Self) -> Vec<&'a String> {
        self.0.difference(&before.0).collect()
    }
}
