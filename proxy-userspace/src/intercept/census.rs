//! Which network namespaces there are: those that processes live in, and those that are mounted somewhere.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use procfs::process::{MountInfo, Process};

/// The namespaces by the number the kernel shows for them, each with a path it can be opened by.
pub(super) type Census = HashMap<u64, PathBuf>;

/// Those of all processes' first threads, and those that are mounted (`ip netns add`, container runtimes).
///
/// # Errors
/// The operating system's reason, such as a lack of descriptors: an incomplete answer would be taken for the truth.
pub(super) fn take() -> io::Result<Census> {
    let mounts = Process::myself().and_then(|process| process.mountinfo());
    let mounts = mounts.map_err(io::Error::other)?;
    let mut found = Census::new();
    for process in numbered(Path::new("/proc"))? {
        let path = process.join("ns/net");
        if let Some(number) = number_of(&path) {
            // The first of them, which is the oldest: the last may be a client that is gone before its path is opened.
            found.entry(number).or_insert(path);
        }
    }
    for (number, path) in mounts.into_iter().filter_map(mounted_namespace) {
        found.entry(number).or_insert(path);
    }
    Ok(found)
}

/// Which of `missing` other threads of any process are in: a thread can enter a namespace alone. Our own are not
/// counted, whose errands there are short.
///
/// # Errors
/// As [`take`].
pub(super) fn entered_by_threads(missing: &HashSet<u64>) -> io::Result<HashSet<u64>> {
    let own = PathBuf::from(format!("/proc/{}", std::process::id()));
    let mut found = HashSet::new();
    for process in numbered(Path::new("/proc"))? {
        if process != own {
            let threads = numbered(&process.join("task"))?;
            let numbers = threads
                .iter()
                .filter_map(|thread| number_of(&thread.join("ns/net")));
            found.extend(numbers.filter(|number| missing.contains(number)));
        }
    }
    Ok(found)
}

/// The directories of a directory of /proc that have a number for a name; none if its process has gone.
pub(super) fn numbered(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        match entry {
            Ok(entry) => found.push(entry.path()),
            Err(error) if is_gone(&error) => break,
            Err(error) => return Err(error),
        }
    }
    found.retain(|path| has_number_for_name(path).unwrap_or_default());
    Ok(found)
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

fn has_number_for_name(path: &Path) -> Option<bool> {
    let name = path.file_name()?.to_str()?;
    Some(name.bytes().all(|byte| byte.is_ascii_digit()))
}

fn mounted_namespace(mount: MountInfo) -> Option<(u64, PathBuf)> {
    let number = number_in(&mount.root).filter(|_| mount.fs_type == "nsfs")?;
    Some((number, mount.mount_point))
}

fn number_of(link: &Path) -> Option<u64> {
    number_in(fs::read_link(link).ok()?.to_str()?)
}

/// `net:[4026531833]` → 4026531833
fn number_in(name: &str) -> Option<u64> {
    let number = name.strip_prefix("net:[")?.strip_suffix(']')?;
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use procfs::FromRead as _;

    #[test]
    fn our_own_namespace_is_found_with_a_path_that_leads_to_it() {
        let own = number_of(Path::new("/proc/self/ns/net")).unwrap();
        let found = take().unwrap();
        assert_eq!(number_of(found.get(&own).unwrap()), Some(own));
    }

    #[test]
    fn mounted_network_namespaces_are_told_from_other_mounts() {
        let table = "40 30 0:4 net:[4026532300] /run/netns/blue rw - nsfs nsfs rw\n\
                     41 30 0:4 mnt:[4026532301] /run/snapd/ns/x.mnt rw - nsfs nsfs rw\n\
                     42 30 0:5 /net:[7] /mnt rw - tmpfs tmpfs rw\n";
        let mounts = procfs::process::MountInfos::from_read(table.as_bytes()).unwrap();
        let found: Vec<_> = mounts.into_iter().filter_map(mounted_namespace).collect();
        assert_eq!(found, [(4_026_532_300, PathBuf::from("/run/netns/blue"))]);
    }

    #[test]
    fn nobody_is_in_a_namespace_that_does_not_exist() {
        assert!(entered_by_threads(&HashSet::from([1])).unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_an_error_and_what_has_gone_is_nothing() {
        assert_eq!(
            numbered(Path::new("/proc/0/task")).unwrap(),
            [""; 0].map(PathBuf::from)
        );
        assert!(numbered(Path::new("/proc/self/status")).is_err());
    }
}
