//! The local authority of a test: made and exported with the commands an operator would use.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use tempfile::TempDir;

use crate::cluster::Cluster;
use crate::pgusher::binary;
use crate::process::run;

/// An authority made by `pgusher ca init`.
#[derive(Debug)]
pub struct LocalAuthority {
    directory: TempDir,
}

impl LocalAuthority {
    /// Makes one.
    ///
    /// # Errors
    /// When the command fails.
    pub fn init() -> Result<Self> {
        let directory = TempDir::new()?;
        let authority = Self { directory };
        run(Command::new(binary()?)
            .args(["ca", "init", "--directory"])
            .arg(authority.path()))?
        .success()?;
        Ok(authority)
    }

    /// Its directory: the value of the setting `ca`.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("ca")
    }

    /// Its certificate where the client programs of `cluster` can read it.
    ///
    /// # Errors
    /// When `pgusher ca export` fails.
    pub fn for_clients_of(&self, cluster: &Cluster) -> Result<String> {
        let exported = run(Command::new(binary()?)
            .args(["ca", "export", "--directory"])
            .arg(self.path()))?;
        let scratch = cluster.scratch()?;
        fs::write(scratch.outside.join("pgusher.crt"), exported.success()?)?;
        Ok(scratch.inside.join("pgusher.crt").display().to_string())
    }
}

/// Copies a file to where the client programs of `cluster` can read it.
///
/// # Errors
/// When it cannot be copied.
pub fn lend(cluster: &Cluster, file: &Path) -> Result<String> {
    let scratch = cluster.scratch()?;
    fs::copy(file, scratch.outside.join("lent.crt"))?;
    Ok(scratch.inside.join("lent.crt").display().to_string())
}
