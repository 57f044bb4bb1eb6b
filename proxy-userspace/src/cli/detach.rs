//! `pgusher detach`: takes away what a stopped instance left attached.

use std::path::Path;

use anyhow::{Result, bail};

use super::tell;
use crate::intercept::{Cgroup, Claim, PinFolder};

/// Removes what is pinned for this cgroup, or for every one, unless an instance runs there.
pub(super) fn run(cgroup: Option<&Path>) -> Result<()> {
    let folders = match cgroup {
        Some(path) => vec![PinFolder::of(Cgroup::open(Some(path))?.number())],
        None => PinFolder::all()?,
    };
    let (mut removed, mut running) = (0_usize, Vec::new());
    for folder in folders {
        let generations = folder.generations()?;
        // Held until all of it is gone: nobody starts in between.
        let Some(_claim) = Claim::take(folder.cgroup())? else {
            running.push(folder.cgroup().to_string());
            continue;
        };
        for generation in generations {
            generation.remove()?;
            removed += 1;
        }
        folder.tidy()?;
    }
    if !running.is_empty() {
        bail!(
            "a pgusher runs on cgroup {}; stop it first, and detach when it has ended, which takes as long as its sessions or drain_timeout (the number is the inode of the cgroup's directory)",
            running.join(", ")
        );
    }
    match removed {
        0 => tell("nothing was left attached"),
        _ => tell("detached: connects go direct from now on"),
    }
}
