//! One suite of Debian's, asked through apt with lists and state of its own.
//!
//! Where Debian is comes from this machine's own sources: another suite lies beside the one that is configured.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{process, workspace};

/// How the suites with security updates are told from the others; they lie in an archive of their own.
const SECURITY: &str = "-security";
/// Debian's keys, where the package debian-archive-keyring puts them.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A suite whose package lists are on this machine.
pub(super) struct Archive {
    folder: PathBuf,
}

impl Archive {
    /// Fetches the lists of a suite.
    ///
    /// # Errors
    ///
    /// When this machine's apt has no source of Debian's, or the suite cannot be read.
    pub(super) fn of(suite: &str) -> Result<Self> {
        let folder = workspace::virtual_machines().join("apt").join(suite);
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let targets = process::capture(Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(REPO_URI) $(RELEASE)",
            "Created-By: Packages",
        ]))
        .context("kernels are Debian packages, and Debian's apt-get is needed to get them")?;
        let address = address(&targets, suite).with_context(|| {
            format!("no source of this machine's apt has a suite like Debian's {suite}")
        })?;
        ensure!(
            Path::new(KEYRING).exists(),
            "{KEYRING} is missing: install debian-archive-keyring"
        );
        fs::write(
            folder.join("sources.list"),
            format!("deb [signed-by={KEYRING}] {address} {suite} main\n"),
        )?;
        let archive = Self { folder };
        process::capture(archive.apt("apt-get").arg("update"))
            .with_context(|| format!("cannot read Debian's {suite}"))?;
        Ok(archive)
    }

    /// Returns the names of all packages that begin so.
    ///
    /// # Errors
    ///
    /// When apt fails.
    pub(super) fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let listing = process::capture(self.apt("apt-cache").args(["pkgnames", prefix]))?;
        Ok(listing.lines().map(str::to_owned).collect())
    }

    /// Puts packages into a folder and returns their paths.
    ///
    /// # Errors
    ///
    /// When apt cannot get them.
    pub(super) fn download(&self, packages: &[String], folder: &Path) -> Result<Vec<PathBuf>> {
        process::run(
            self.apt("apt-get")
                .args(["--quiet", "download"])
                .args(packages)
                .current_dir(folder),
        )?;
        let entries = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
        Ok(entries
            .filter(|path| path.extension().is_some_and(|end| end == "deb"))
            .collect())
    }

    /// A command of apt's that knows this suite and no other.
    fn apt(&self, program: &str) -> Command {
        let set = |name: &str, part: &str| format!("{name}={}", self.folder.join(part).display());
        let mut command = Command::new(program);
        for option in [
            set("Dir::Etc::SourceList", "sources.list"),
            set("Dir::State::Lists", "lists"),
            set("Dir::Cache", "cache"),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            // apt's own user may not read below a home folder.
            "APT::Sandbox::User=".to_owned(),
            // What else is done after an update on this machine is none of our business.
            "APT::Update::Post-Invoke-Success=".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command
    }
}

/// The address that this machine has Debian's suites of the same kind from. `targets` has an address and a suite a line.
fn address<'text>(targets: &'text str, suite: &str) -> Option<&'text str> {
    let is_security = suite.ends_with(SECURITY);
    targets
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(address, known)| {
            let is_debian = address.trim_end_matches('/').ends_with(match is_security {
                true => "/debian-security",
                false => "/debian",
            });
            is_debian && known.ends_with(SECURITY) == is_security
        })
        .map(|(address, _)| address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_suite_lies_where_this_machine_has_the_one_of_its_kind() {
        let targets = "http://one.example/apt/ stable\n\
                       http://mirror.example/debian/ bookworm\n\
                       http://mirror.example/debian/ bookworm-updates\n\
                       http://other.example/debian-security/ bookworm-security\n";
        let cases = [
            ("trixie-backports", Some("http://mirror.example/debian/")),
            (
                "bullseye-security",
                Some("http://other.example/debian-security/"),
            ),
        ];
        for (suite, expected) in cases {
            assert_eq!(address(targets, suite), expected, "{suite}");
        }
        assert_eq!(address("http://one.example/apt/ stable\n", "sid"), None);
    }
}
