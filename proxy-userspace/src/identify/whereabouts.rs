//! Where a process looks up paths: its root and its working directory. Both may change at any time; what is read here
//! decides which file a path leads to, and the file is what counts from then on.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use proxy_ebpf::offsets::NANOSECONDS_PER_TICK;
use proxy_ebpf::origin::Origin;

use super::pinned::Pinned;

/// The number that /proc shows for a namespace.
const MOUNT_NAMESPACE: &str = "ns/mnt";

/// Where the process that connected looks up paths.
#[derive(Debug)]
pub(crate) struct Whereabouts {
    /// Its root directory.
    pub(crate) root: OwnedFd,
    /// Its working directory, from its root; none where it is outside.
    pub(crate) directory: Option<PathBuf>,
    /// Its mount namespace, as /proc names it: `mnt:[4026531841]`.
    pub(crate) mounts: String,
}

impl Whereabouts {
    /// Those of the captured process; none if it has gone.
    ///
    /// # Errors
    /// The operating system's reason.
    pub(crate) fn of(origin: &Origin) -> io::Result<Self> {
        let gone = || io::Error::new(io::ErrorKind::NotFound, "the process has gone");
        let captured = origin.start_time_ns().ok_or_else(gone)?;
        let process = Pinned::open(origin.tgid()).ok_or_else(gone)?;
        if process.started_at_ticks() != captured / NANOSECONDS_PER_TICK {
            return Err(gone());
        }
        let entry = PathBuf::from(format!("/proc/{}", process.pid()));
        let mut options = OpenOptions::new();
        let options = options
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY);
        let found = Self {
            root: options.open(entry.join("root"))?.into(),
            directory: directory_in_root(&entry),
            mounts: fs::read_link(entry.join(MOUNT_NAMESPACE))?
                .to_string_lossy()
                .into_owned(),
        };
        // What was read may have been another's.
        if process.is_alive() {
            Ok(found)
        } else {
            Err(gone())
        }
    }
}

/// Both links are told from where we are; what is left of the one behind the other is the way from the root.
fn directory_in_root(entry: &Path) -> Option<PathBuf> {
    let (root, directory) = (
        fs::read_link(entry.join("root")).ok()?,
        fs::read_link(entry.join("cwd")).ok()?,
    );
    Some(Path::new("/").join(directory.strip_prefix(root).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_looks_paths_up_from_its_own_root_and_directory() {
        let own = Pinned::open(std::process::id()).unwrap();
        let mut origin = Origin::new(std::process::id(), 0, 0, 0, 0);
        assert!(Whereabouts::of(&origin).is_err());
        origin.set_start_time_ns(own.started_at_ticks() * NANOSECONDS_PER_TICK);
        let found = Whereabouts::of(&origin).unwrap();
        assert_eq!(found.directory, Some(std::env::current_dir().unwrap()));
        assert!(found.mounts.starts_with("mnt:["), "{}", found.mounts);
        origin.set_start_time_ns(0);
        assert!(Whereabouts::of(&origin).is_err());
    }
}
