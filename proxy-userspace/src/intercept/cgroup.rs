//! Finds the cgroup to attach to: the operator's, or the root of the cgroup-v2 hierarchy.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use procfs::process::{MountInfo, Process};
use rustix::fs::{FlockOperation, flock, fstatfs};
use rustix::io::Errno;

/// Where locks are kept, for root alone.
const RUNTIME_FOLDER: &str = "/run/pgusher";
/// `CGROUP2_SUPER_MAGIC` of include/uapi/linux/magic.h.
const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// Why there is no cgroup to attach to.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The mount table cannot be read.
    #[error("cannot read the mount table: {0}")]
    MountTable(#[from] procfs::ProcError),
    /// No cgroup-v2 hierarchy is mounted.
    #[error(
        "no cgroup v2 hierarchy is mounted; mount one: mkdir -p /sys/fs/cgroup/unified && \
         mount -t cgroup2 none /sys/fs/cgroup/unified"
    )]
    NotMounted,
    /// The cgroup cannot be opened.
    #[error("cannot open cgroup {path}: {source}")]
    Open {
        /// The cgroup's directory.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The path is something else than a cgroup-v2 directory.
    #[error("{0} is not a cgroup v2 directory; see the lines with `cgroup2` in /proc/self/mounts")]
    NotCgroup2(PathBuf),
    /// The lock cannot be taken.
    #[error("cannot lock the cgroup for this instance below {RUNTIME_FOLDER}: {0}")]
    Claim(io::Error),
    /// Another instance intercepts there: the two would intercept each other's connections in a circle.
    #[error(
        "another pgusher is attached to cgroup {0}; stop it first, or take over from it: pgusher run --takeover with its --admin-socket"
    )]
    Claimed(PathBuf),
}

/// A cgroup that no other instance may attach to, for as long as this lives.
#[derive(Debug)]
pub struct Claim {
    lock: File,
}

/// An open cgroup-v2 directory.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    number: u64,
    directory: File,
}

impl Cgroup {
    /// Opens the cgroup at `path`, or the root of the hierarchy.
    ///
    /// # Errors
    /// [`CgroupError`] says what is not there and what to do.
    pub fn open(path: Option<&Path>) -> Result<Self, CgroupError> {
        let path = match path {
            Some(path) => path.to_path_buf(),
            None => root()?,
        };
        let open = |source| CgroupError::Open {
            path: path.clone(),
            source,
        };
        let directory = File::open(&path).map_err(open)?;
        let kind = fstatfs(&directory).map_err(|error| open(error.into()))?;
        if u64::try_from(kind.f_type) != Ok(CGROUP2_MAGIC) {
            return Err(CgroupError::NotCgroup2(path));
        }
        let number = directory.metadata().map_err(open)?.ino();
        Ok(Self {
            path,
            number,
            directory,
        })
    }

    /// Claims the cgroup for this process. The lock is a file only root can open: a lock on the directory itself could
    /// be taken by anybody who can read it.
    ///
    /// # Errors
    /// [`CgroupError::Claimed`] when another instance has it.
    pub fn claim(&self) -> Result<Claim, CgroupError> {
        Claim::take(self.number)?.ok_or_else(|| CgroupError::Claimed(self.path.clone()))
    }

    /// Its number, the same for as long as it is there.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open directory, as the attach call wants it.
    pub fn directory(&self) -> &File {
        &self.directory
    }
}

impl Claim {
    /// Claims the cgroup with this number; none if another instance has it.
    ///
    /// # Errors
    /// [`CgroupError::Claim`]
    pub fn take(cgroup: u64) -> Result<Option<Self>, CgroupError> {
        let lock = || -> io::Result<File> {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(RUNTIME_FOLDER)?;
            let path = Path::new(RUNTIME_FOLDER).join(format!("cgroup-{cgroup}.lock"));
            OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)
        };
        let lock = lock().map_err(CgroupError::Claim)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { lock })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(CgroupError::Claim(error.into())),
        }
    }

    /// One that another process held and has handed over.
    pub fn inherited(lock: OwnedFd) -> Self {
        Self { lock: lock.into() }
    }

    /// What to hand over: whoever has it has the claim, and it lasts until the last of them lets go.
    pub fn lock(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }
}

/// The mount point of the whole cgroup-v2 hierarchy; on hybrid hosts it is not /sys/fs/cgroup.
///
/// # Errors
/// [`CgroupError`] when the mount table cannot be read or has none.
pub fn root() -> Result<PathBuf, CgroupError> {
    let mounts = Process::myself()?.mountinfo()?;
    root_among(mounts.into_iter()).ok_or(CgroupError::NotMounted)
}

fn root_among(mounts: impl Iterator<Item = MountInfo>) -> Option<PathBuf> {
    let mut mounts = mounts.filter(|mount| mount.fs_type == "cgroup2");
    mounts
        .find(|mount| mount.root == "/")
        .map(|mount| mount.mount_point)
}

#[cfg(test)]
mod tests {
    use super::*;
    use procfs::FromRead as _;

    fn root_of(table: &str) -> Option<PathBuf> {
        let mounts = procfs::process::MountInfos::from_read(table.as_bytes()).unwrap();
        root_among(mounts.into_iter())
    }

    #[test]
    fn the_hierarchy_is_found_wherever_it_is_mounted() {
        let unified = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let hybrid = "29 23 0:25 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      30 29 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                      31 29 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
        let only_a_part = "30 23 0:26 /machine.slice /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(root_of(unified), Some("/sys/fs/cgroup".into()));
        assert_eq!(root_of(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(root_of(only_a_part), None);
    }

    #[test]
    fn a_directory_that_is_no_cgroup_is_refused() {
        let error = Cgroup::open(Some(Path::new("/tmp"))).unwrap_err();
        assert!(matches!(error, CgroupError::NotCgroup2(_)), "{error}");
    }
}
