//! What the kernel holds for a process under test: loaded programs, maps and links, and what is attached to a cgroup.
//!
//! Read from the kernel, never from pgusher: the point is to find what pgusher forgot.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::condition::{Seen, wait_until};
use crate::process::run;

/// The eBPF objects a process holds, each as `bpftool` addresses it: kind and id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    objects: Vec<(&'static str, String)>,
}

impl Held {
    /// Reads what the process holds from its descriptors.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn by(pid: u32) -> Result<Self> {
        let mut objects = Vec::new();
        for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
            // A descriptor may be closed while the directory is read.
            let Ok(text) = fs::read_to_string(entry?.path()) else {
                continue;
            };
            objects.extend(text.lines().filter_map(object));
        }
        objects.sort();
        objects.dedup();
        Ok(Self { objects })
    }

    /// How many objects of `kind` (`prog`, `map`, `link`) are held.
    #[must_use]
    pub fn count(&self, kind: &str) -> usize {
        self.objects
            .iter()
            .filter(|(held, _)| *held == kind)
            .count()
    }

    /// How many entries the map of this name has.
    ///
    /// # Errors
    /// When none of the maps has the name.
    pub fn entries(&self, name: &str) -> Result<usize> {
        for (_, id) in self.objects.iter().filter(|(kind, _)| *kind == "map") {
            let shown = run(bpftool().args(["--json", "map", "show", "id", id]))?;
            let map: serde_json::Value = serde_json::from_str(shown.success()?)?;
            if map.get("name").is_some_and(|found| found == name) {
                let dumped = run(bpftool().args(["--json", "map", "dump", "id", id]))?;
                let entries: Vec<serde_json::Value> = serde_json::from_str(dumped.success()?)?;
                return Ok(entries.len());
            }
        }
        anyhow::bail!("no map {name} in {self:?}")
    }

    /// Waits until none of them exists any more; the kernel frees them a moment after the last descriptor closes.
    ///
    /// # Errors
    /// When one stays.
    pub fn wait_until_gone(&self) -> Result<()> {
        for (kind, id) in &self.objects {
            wait_until(&format!("eBPF {kind} {id} is gone"), || {
                let shown = run(bpftool().args([*kind, "show", "id", id]))?;
                Ok(Seen::when(!shown.status.success(), || shown.stdout.clone()))
            })?;
        }
        Ok(())
    }
}

fn object(line: &str) -> Option<(&'static str, String)> {
    let (key, value) = line.split_once(':')?;
    let kind = match key {
        "prog_id" => "prog",
        "map_id" => "map",
        "link_id" => "link",
        _ => return None,
    };
    Some((kind, value.trim().to_owned()))
}

/// The names of the programs attached to the cgroup itself.
///
/// # Errors
/// When `bpftool` is missing.
pub fn attached(cgroup: &Path) -> Result<Vec<String>> {
    let shown =
        run(bpftool().args(["--json", "cgroup", "show"]).arg(cgroup)).context("install bpftool")?;
    let text = shown.success()?;
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let programs: Vec<serde_json::Value> =
        serde_json::from_str(text).with_context(|| text.to_owned())?;
    Ok(programs
        .iter()
        .map(|program| program["attach_type"].to_string())
        .collect())
}

/// Waits until nothing is attached to the cgroup.
///
/// # Errors
/// When something stays.
pub fn wait_until_nothing_attached(cgroup: &Path) -> Result<()> {
    wait_until("nothing is attached to the cgroup", || {
        let attached = attached(cgroup)?;
        Ok(Seen::when(attached.is_empty(), || format!("{attached:?}")))
    })
}

/// Waits until no hook on connect is attached to the cgroup; what serves open sessions may still be.
///
/// # Errors
/// When one stays.
pub fn wait_until_no_connect_is_intercepted(cgroup: &Path) -> Result<()> {
    wait_until("no connect is intercepted", || {
        let attached = attached(cgroup)?;
        let intercepts = attached.iter().any(|hook| hook.contains("connect"));
        Ok(Seen::when(!intercepts, || format!("{attached:?}")))
    })
}

fn bpftool() -> Command {
    Command::new("bpftool")
}
