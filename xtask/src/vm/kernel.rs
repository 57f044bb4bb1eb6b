//! Kernels: which ones, and getting them.
//!
//! A kernel is a Debian package of one of the suites Debian keeps alive, unpacked below `target` and never installed. apt
//! looks for it with lists of its own, so this machine's sources stay as they are. A kernel that is there is used again
//! without asking anybody; removing `target/vm` fetches newer ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::archive::Archive;
use crate::{process, workspace};

/// Written last: a kernel without it was interrupted and is fetched anew. Its text is the package's name.
const STAMP: &str = "pgusher-complete";
/// What a cloud kernel's package is called after its version: no drivers for hardware, hence the smallest.
const FLAVOUR: &str = "-cloud-amd64";

/// A kernel that guests run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// What a person calls it, on the command line and in the table.
    pub(crate) name: &'static str,
    /// Debian's suite that has it.
    suite: &'static str,
    /// How the version in the package's name begins; the newest that begins so is taken.
    version: &'static str,
    /// Whether pgusher is to work there. Where it is not, what is tested is that it says so.
    pub(crate) is_supported: bool,
}

/// From the oldest to the newest.
pub(crate) const KERNELS: [Kernel; 5] = [
    Kernel::new("5.10", "bullseye-security", "5.10.").too_old(),
    Kernel::new("6.1", "bookworm-security", "6.1."),
    Kernel::new("6.12", "bookworm-security", "6.12."),
    Kernel::new("6.18", "trixie-backports", "6.18."),
    Kernel::new("7.x", "trixie-backports", "7."),
];

/// Those that `cargo xtask test` boots: the oldest one that is supported, and the newest.
pub(crate) const FOR_EVERY_CHANGE: [&str; 2] = ["6.1", "7.x"];

/// A kernel on this machine.
#[derive(Debug)]
pub(crate) struct Unpacked {
    /// The image that QEMU boots.
    pub(crate) image: PathBuf,
    /// The folder of its modules.
    pub(crate) modules: PathBuf,
}

impl Kernel {
    const fn new(name: &'static str, suite: &'static str, version: &'static str) -> Self {
        Self {
            name,
            suite,
            version,
            is_supported: true,
        }
    }

    const fn too_old(mut self) -> Self {
        self.is_supported = false;
        self
    }

    /// Returns the kernel of that name.
    ///
    /// # Errors
    ///
    /// When there is none; the text has all names.
    pub(crate) fn named(name: &str) -> Result<&'static Self> {
        let found = KERNELS.iter().find(|kernel| kernel.name == name);
        found.with_context(|| {
            let names: Vec<&str> = KERNELS.iter().map(|kernel| kernel.name).collect();
            format!(
                "there is no kernel `{name}` to test on: take one of {} or `all`",
                names.join(", ")
            )
        })
    }

    /// Fetches and unpacks the kernel unless it is there.
    ///
    /// # Errors
    ///
    /// When apt does not have it, or it cannot be unpacked.
    pub(crate) fn prepare(&self) -> Result<Unpacked> {
        let folder = workspace::virtual_machines()
            .join("kernels")
            .join(self.name);
        if !folder.join(STAMP).exists() {
            self.fetch(&folder)
                .with_context(|| format!("cannot get kernel {}", self.name))?;
        }
        unpacked(&folder)
    }

    fn fetch(&self, folder: &Path) -> Result<()> {
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        fs::create_dir_all(folder)?;
        let archive = Archive::of(self.suite)?;
        let prefix = format!("linux-image-{}", self.version);
        let image = newest(&archive.names(&prefix)?).with_context(|| {
            format!(
                "Debian's {} has no package {prefix}…{FLAVOUR} any more",
                self.suite
            )
        })?;
        eprintln!("Fetching {image} of Debian's {}:", self.suite);
        for package in archive.download(&parts(&image, &archive)?, folder)? {
            process::run(
                Command::new("dpkg-deb")
                    .arg("--extract")
                    .args([&package, folder]),
            )
            .context("dpkg-deb belongs to Debian's package dpkg")?;
            fs::remove_file(package)?;
        }
        Ok(fs::write(folder.join(STAMP), image)?)
    }
}

/// The package, and those of the same build that hold what it does not: since Linux 7.2 image and modules are packages
/// of their own.
fn parts(image: &str, archive: &Archive) -> Result<Vec<String>> {
    let release = image.trim_start_matches("linux-image-");
    let mut packages = vec![image.to_owned()];
    for kind in ["linux-binary-", "linux-modules-"] {
        let name = format!("{kind}{release}");
        if archive.names(&name)?.contains(&name) {
            packages.push(name);
        }
    }
    Ok(packages)
}

/// The newest of these packages that is a cloud kernel. Numbers in the names count as numbers.
fn newest(names: &[String]) -> Option<String> {
    let numbers = |name: &str| -> Vec<u32> {
        name.split(|c: char| !c.is_ascii_digit())
            .filter_map(|digits| digits.parse().ok())
            .collect()
    };
    names
        .iter()
        .filter(|name| name.ends_with(FLAVOUR))
        .max_by_key(|name| numbers(name))
        .cloned()
}

/// Finds image and modules, which move about between versions of the package.
fn unpacked(folder: &Path) -> Result<Unpacked> {
    let modules = ["lib/modules", "usr/lib/modules"]
        .iter()
        .filter_map(|place| only_entry(&folder.join(place), ""))
        .next()
        .with_context(|| format!("no modules below {}", folder.display()))?;
    let image =
        only_entry(&folder.join("boot"), "vmlinuz-").unwrap_or_else(|| modules.join("vmlinuz"));
    ensure!(image.is_file(), "there is no {}", image.display());
    Ok(Unpacked { image, modules })
}

fn only_entry(folder: &Path, prefix: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.flatten();
    entries.map(|entry| entry.path()).find(|path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_package_is_the_one_with_the_highest_numbers() {
        let names = [
            "linux-image-6.12.9+deb12-cloud-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64",
            "linux-image-6.12.118+deb12-amd64",
            "linux-image-6.12.90+deb12.1-cloud-amd64",
        ]
        .map(str::to_owned);
        assert_eq!(newest(&names).as_deref(), Some(names[1].as_str()));
        assert_eq!(newest(&names[2..3]), None);
    }

    #[test]
    fn an_unknown_kernel_is_answered_with_those_there_are() {
        let error = Kernel::named("4.19").unwrap_err().to_string();
        assert!(error.contains("5.10, 6.1, 6.12, 6.18, 7.x"), "{error}");
        for name in FOR_EVERY_CHANGE {
            assert_eq!(Kernel::named(name).unwrap().name, name);
        }
    }
}
