//! The file a process runs: its path, whether it is still there, and whether it is the one the hook saw.

use std::fs::{self, File, Metadata};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use proxy_ebpf::origin::Origin;

use super::fact::{Fact, Grade};
use crate::wire::text::printable;

/// What the kernel appends to the path of a file that is no longer at it (fs/d_path.c).
const DELETED: &[u8] = b" (deleted)";

/// What is known of the executable's path.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Executable {
    pub(super) path: Fact<String>,
    pub(super) is_deleted: Fact<bool>,
}

/// The path as the kernel tells it. The process itself decides nothing here, and no file system is asked.
pub(super) fn link(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe")).ok()
}

/// What the path alone tells, before anything is compared.
pub(super) fn unchecked(link: &Path) -> Executable {
    match without_suffix(link) {
        Some(path) => Executable {
            path: Fact::late(path),
            is_deleted: Fact::late(true),
        },
        None => Executable {
            path: Fact::late(shown(link)),
            is_deleted: Fact::late(false),
        },
    }
}

/// The path compared with the capture: as good as the process's own grade if, in *our* mount namespace, that path is
/// the very file the hook saw. What the process sees under that name does not count (it may have mounted something
/// over it), and neither does what it runs by now. Blocks for as long as the path's file system does.
pub(super) fn checked(link: &Path, origin: &Origin, grade: Grade) -> Executable {
    // A file may be called "x (deleted)": only if that is the captured one does the suffix belong to its name.
    if fs::metadata(link).is_ok_and(|file| is_captured(&file, origin)) {
        return Executable {
            path: Fact::new(shown(link), grade),
            is_deleted: Fact::new(false, grade),
        };
    }
    unchecked(link)
}

/// Opens the file the process runs, in whatever mount namespace it lies, if it is the captured one.
pub(super) fn open(pid: u32, origin: &Origin) -> Option<(File, Metadata)> {
    let file = File::open(format!("/proc/{pid}/exe")).ok()?;
    let metadata = file.metadata().ok()?;
    is_captured(&metadata, origin).then_some((file, metadata))
}

/// Whether the process still runs the captured file.
pub(super) fn runs_captured(pid: u32, origin: &Origin) -> bool {
    fs::metadata(format!("/proc/{pid}/exe")).is_ok_and(|file| is_captured(&file, origin))
}

/// Major and minor number of the device a file lies on.
pub(super) fn device(file: &Metadata) -> (u64, u64) {
    let device = file.dev();
    (nix::sys::stat::major(device), nix::sys::stat::minor(device))
}

fn is_captured(file: &Metadata, origin: &Origin) -> bool {
    origin.exe().is_some_and(|((major, minor), inode)| {
        file.ino() == inode && device(file) == (u64::from(major), u64::from(minor))
    })
}

fn without_suffix(link: &Path) -> Option<String> {
    let bytes = link.as_os_str().as_bytes();
    bytes.strip_suffix(DELETED).map(printable)
}

fn shown(path: &Path) -> String {
    printable(path.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An origin whose executable is the file at `path`.
    fn running(path: &Path) -> Origin {
        let file = fs::metadata(path).unwrap();
        let (major, minor) = device(&file);
        let mut origin = Origin::new(7, 0, 0, 0, 0);
        origin.set_exe(u32::try_from((major << 20) | minor).unwrap(), file.ino());
        origin
    }

    #[test]
    fn the_suffix_is_the_kernels_only_where_it_is_not_part_of_the_name() {
        let directory = tempfile::tempdir().unwrap();
        let plain = directory.path().join("app");
        let misleading = directory.path().join("app (deleted)");
        fs::write(&plain, "1").unwrap();
        fs::write(&misleading, "2").unwrap();

        let found = checked(&misleading, &running(&misleading), Grade::Verified);
        assert_eq!(found.path, Fact::new(shown(&misleading), Grade::Verified));
        assert_eq!(found.is_deleted, Fact::new(false, Grade::Verified));

        // The name is taken, but by another file.
        let found = checked(&misleading, &running(&plain), Grade::Verified);
        assert_eq!(found.path, Fact::late(shown(&plain)));
        assert_eq!(found.is_deleted, Fact::late(true));
    }

    #[test]
    fn a_file_that_took_the_path_is_never_verified() {
        let directory = tempfile::tempdir().unwrap();
        let (old, new) = (directory.path().join("old"), directory.path().join("new"));
        fs::write(&old, "1").unwrap();
        fs::write(&new, "2").unwrap();
        let origin = running(&old);
        assert_eq!(
            checked(&old, &origin, Grade::Verified).path.grade(),
            Grade::Verified
        );
        fs::rename(&new, &old).unwrap();
        assert_eq!(
            checked(&old, &origin, Grade::Verified).path.grade(),
            Grade::Late
        );
    }
}
