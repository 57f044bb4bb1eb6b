//! What of us outlives us: hooks pinned in the BPF file system, in a folder for each cgroup and in it one for each
//! generation.
//!
//! Design: docs/decisions/0041-crash-and-upgrade.md. A generation is never used by another process but for its counters,
//! and those only if both come from the same BPF object.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use aya::programs::links::PinnedLink;
use proxy_ebpf::verdict::Verdict;
use rustix::fs::statfs;
use sha2::{Digest as _, Sha256};

use super::object::OBJECT;
use super::tables::Counters;
use crate::identify::ProcessId;
use crate::wire::text::hex;

/// Where everything is pinned that pgusher pins.
const PIN_ROOT: &str = "/sys/fs/bpf/pgusher";
/// `BPF_FS_MAGIC` of include/uapi/linux/magic.h.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
/// What a cgroup's folder is called, but for its number.
const CGROUP_PREFIX: &str = "cgroup-";
const COUNTERS: &str = "counters";
/// How much of the object's digest is in a name: enough to tell versions apart.
const DIGEST_BYTES: usize = 8;

/// Why hooks cannot be pinned, or taken away.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The BPF file system is not where it should be.
    #[error(
        "{0} is not on a BPF file system, which `when_down = \"closed\"` needs; mount it: mount -t bpf bpf /sys/fs/bpf"
    )]
    NotMounted(PathBuf),
    /// The kernel refuses to pin.
    #[error("cannot pin below {path}: {source}")]
    Pin {
        /// The generation's folder.
        path: PathBuf,
        /// The kernel's reason.
        source: aya::pin::PinError,
    },
    /// The folder cannot be read, made or removed.
    #[error("{path}: {source}")]
    Folder {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
}

impl PinError {
    fn folder(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Folder { path, source }
    }
}

/// What is pinned for one cgroup, and by whom it was.
#[derive(Clone, Debug)]
pub struct PinFolder {
    path: PathBuf,
    cgroup: u64,
}

/// What one process pinned.
#[derive(Debug)]
pub struct Generation {
    path: PathBuf,
}

impl PinFolder {
    /// The folder of the cgroup with this number; it need not be there.
    pub fn of(cgroup: u64) -> Self {
        Self::below(Path::new(PIN_ROOT), cgroup)
    }

    fn below(root: &Path, cgroup: u64) -> Self {
        Self {
            path: root.join(format!("{CGROUP_PREFIX}{cgroup}")),
            cgroup,
        }
    }

    /// Every cgroup's folder that is there.
    ///
    /// # Errors
    /// [`PinError::Folder`]
    pub fn all() -> Result<Vec<Self>, PinError> {
        let root = Path::new(PIN_ROOT);
        let number = |name: &OsStr| name.to_str()?.strip_prefix(CGROUP_PREFIX)?.parse().ok();
        let names = entries(root)?;
        let numbers = names.iter().filter_map(|name| number(name));
        Ok(numbers.map(Self::of).collect())
    }

    /// Checks that something can be pinned there.
    ///
    /// # Errors
    /// [`PinError::NotMounted`]
    pub fn check(&self) -> Result<(), PinError> {
        let there = self.path.ancestors().find(|path| path.exists());
        let is_bpf_fs = there.is_some_and(|path| {
            statfs(path).is_ok_and(|found| u64::try_from(found.f_type) == Ok(BPF_FS_MAGIC))
        });
        if is_bpf_fs {
            Ok(())
        } else {
            Err(PinError::NotMounted(self.path.clone()))
        }
    }

    /// The number of the cgroup.
    pub fn cgroup(&self) -> u64 {
        self.cgroup
    }

    /// What was pinned by processes that have ended.
    ///
    /// # Errors
    /// [`PinError::Folder`]
    pub fn abandoned(&self) -> Result<Vec<Generation>, PinError> {
        let mut generations = self.generations()?;
        generations.retain(|generation| !generation.is_served());
        Ok(generations)
    }

    /// What is pinned now.
    ///
    /// # Errors
    /// [`PinError::Folder`]
    pub fn generations(&self) -> Result<Vec<Generation>, PinError> {
        let names = entries(&self.path)?;
        let generation = |name| Generation {
            path: self.path.join(name),
        };
        Ok(names.into_iter().map(generation).collect())
    }

    /// Begins our own generation.
    ///
    /// # Errors
    /// [`PinError`]
    pub(super) fn begin(&self) -> Result<Generation, PinError> {
        self.check()?;
        let path = self.path.join(generation_name(ProcessId::own()));
        let mut builder = DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(&path);
        made.map_err(PinError::folder(&path))?;
        Ok(Generation { path })
    }

    /// Removes the folder if nothing is in it.
    ///
    /// # Errors
    /// [`PinError::Folder`]
    pub fn tidy(&self) -> Result<(), PinError> {
        match fs::remove_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            result => ignore_missing(result).map_err(PinError::folder(&self.path)),
        }
    }
}

impl Generation {
    /// Detaches what is pinned, unless somebody has it open. What is no folder with pins in it is left alone.
    ///
    /// # Errors
    /// [`PinError::Folder`]
    pub fn remove(&self) -> Result<(), PinError> {
        for name in entries(&self.path)? {
            let pin = self.path.join(name);
            // A link whose last reference is a pin goes a moment later, in the kernel's own time (`bpf_link_put`); one whose
            // last reference is a descriptor goes as that is closed (`bpf_link_put_direct`). Who may not open it waits.
            let opened = PinnedLink::from_pin(&pin);
            ignore_missing(fs::remove_file(&pin)).map_err(PinError::folder(&pin))?;
            drop(opened);
        }
        ignore_missing(fs::remove_dir(&self.path)).map_err(PinError::folder(&self.path))
    }

    /// Its name: version and digest of what is pinned, and the process that did it.
    pub fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// Whether the process that pinned it still runs.
    fn is_served(&self) -> bool {
        let name = self.name();
        let mut numbers = name.rsplit('-');
        let mut process = || {
            Some(ProcessId {
                started_at_ticks: numbers.next()?.parse().ok()?,
                pid: numbers.next()?.parse().ok()?,
            })
        };
        process().is_some_and(ProcessId::is_running)
    }

    /// How many connects found nobody serving, if it counts as we do.
    pub fn unserved(&self) -> Option<u64> {
        let is_ours = self.name().starts_with(&version_prefix());
        let counters = is_ours.then(|| Counters::from_pin(&self.counters()))?;
        counters.ok()?.read(Verdict::Unserved).ok()
    }

    pub(super) fn counters(&self) -> PathBuf {
        self.path.join(COUNTERS)
    }

    pub(super) fn hook(&self, program: &str) -> PathBuf {
        self.path.join(program)
    }

    pub(super) fn failed(&self, source: aya::pin::PinError) -> PinError {
        PinError::Pin {
            path: self.path.clone(),
            source,
        }
    }
}

/// What is attached although whoever pinned it has ended, in words that say what to do; none if nothing is.
///
/// # Errors
/// [`PinError::Folder`]
pub fn abandoned() -> Result<Option<String>, PinError> {
    let mut names = Vec::new();
    for folder in PinFolder::all()? {
        let generations = folder.generations()?;
        if !generations.is_empty() && !generations.iter().any(Generation::is_served) {
            names.push(format!("{CGROUP_PREFIX}{}", folder.cgroup));
        }
    }
    Ok((!names.is_empty()).then(|| {
        format!(
            "hooks of a pgusher that has ended are still pinned below {PIN_ROOT} ({}): connects fail until one is started, or `pgusher detach` removes them",
            names.join(", ")
        )
    }))
}

/// The file system allows no dots in names.
fn version_prefix() -> String {
    let digest: [u8; 32] = Sha256::digest(OBJECT).into();
    let digest = hex(digest.get(..DIGEST_BYTES).unwrap_or_default());
    let version = env!("CARGO_PKG_VERSION").replace('.', "_");
    format!("v{version}-{digest}-")
}

fn generation_name(process: ProcessId) -> String {
    let prefix = version_prefix();
    format!("{prefix}{}-{}", process.pid, process.started_at_ticks)
}

/// The names in a folder; none if there is no folder.
fn entries(folder: &Path) -> Result<Vec<std::ffi::OsString>, PinError> {
    let listed = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.map_err(PinError::folder(folder))?,
    };
    let names = listed.map(|entry| Ok(entry?.file_name()));
    names
        .collect::<io::Result<_>>()
        .map_err(PinError::folder(folder))
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_on_a_bpf_file_system_is_refused_and_named() {
        let root = tempfile::tempdir().unwrap();
        let folder = PinFolder::below(root.path(), 7);
        let error = folder.begin().unwrap_err();
        assert!(matches!(error, PinError::NotMounted(_)), "{error}");
        assert!(folder.generations().unwrap().is_empty());
        folder.tidy().unwrap();
    }

    #[test]
    fn a_generation_of_another_version_is_recognised_and_removed_whole() {
        let root = tempfile::tempdir().unwrap();
        let folder = PinFolder::below(root.path(), 7);
        let own_name = generation_name(ProcessId::own());
        for name in ["v0_0_1-0123456789abcdef-7-9", "ours", &own_name] {
            let path = folder.path.join(name);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("pgusher_connect4"), "").unwrap();
        }
        let generations = folder.generations().unwrap();
        assert_eq!(generations.len(), 3);
        for generation in generations {
            assert_eq!(
                generation.is_served(),
                generation.name().ends_with(&own_name)
            );
            // Whatever the name says, this is no map.
            assert_eq!(generation.unserved(), None);
            generation.remove().unwrap();
            generation.remove().unwrap();
        }
        folder.tidy().unwrap();
        assert!(!folder.path.exists());
    }

    #[test]
    fn names_have_no_dots_and_tell_versions_apart() {
        let name = generation_name(ProcessId::own());
        assert!(!name.contains('.'), "{name}");
        assert!(name.starts_with(&format!(
            "v{}-",
            env!("CARGO_PKG_VERSION").replace('.', "_")
        )));
    }
}
