//! Which network namespaces there are: those that processes live in, and those that are mounted somewhere.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use procfs::process::{MountInfo, Process};
use tracing::warn;

/// The namespaces by the number the kernel shows for them, each with a path it can be opened by.
pub(super) type Census = HashMap<u64, PathBuf>;

/// Those of all processes' first threads, and those that are mounted (`ip netns add`, container runtimes).
pub(super) fn take() -> Census {
    let mut found: Census = mounted().collect();
    for process in numbered(Path::new("/proc")) {
        let path = process.join("ns/net");
        if let Some(number) = number_of(&path) {
            found.insert(number, path);
        }
    }
    found
}

/// Which of `missing` other threads of any process are in: a thread can enter a namespace alone. Our own are not
/// counted, whose errands there are short.
pub(super) fn entered_by_threads(missing: &HashSet<u64>) -> HashSet<u64> {
    let own = std::process::id().to_string();
    numbered(Path::new("/proc"))
        .filter(|process| process.file_name().is_none_or(|name| *name != *own))
        .flat_map(|process| numbered(&process.join("task")).collect::<Vec<_>>())
        .filter_map(|thread| number_of(&thread.join("ns/net")))
        .filter(|number| missing.contains(number))
        .collect()
}

/// The directories of a directory of /proc that have a number for a name.
fn numbered(directory: &Path) -> impl Iterator<Item = PathBuf> {
    // A process that is gone has none.
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.filter_map(Result::ok).filter_map(|entry| {
        let name = entry.file_name();
        let is_number = name.to_str()?.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| entry.path())
    })
}

fn mounted() -> impl Iterator<Item = (u64, PathBuf)> {
    let mounts = Process::myself().and_then(|process| process.mountinfo());
    let mounts = mounts.inspect_err(|error| {
        warn!(%error, "cannot read the mount table: mounted network namespaces are not seen");
    });
    mounts.into_iter().flatten().filter_map(mounted_namespace)
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
        let found = take();
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
        assert!(entered_by_threads(&HashSet::from([1])).is_empty());
    }
}
