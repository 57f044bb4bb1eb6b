//! Reading the mount table. Owns its syntax; mounts nothing.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

const MOUNT_TABLE: &str = "/proc/self/mounts";

/// Returns where the cgroup-v2 hierarchy is mounted.
///
/// It is `/sys/fs/cgroup` on most machines and a folder below it on those that still have version 1 as well.
///
/// # Errors
///
/// When the mount table cannot be read or has no such line.
pub(crate) fn cgroup_root() -> Result<PathBuf> {
    first_of_type(&read_table()?, "cgroup2").context(
        "no cgroup-v2 hierarchy is mounted: run `mount -t cgroup2 none /sys/fs/cgroup` as root",
    )
}

/// Returns what is mounted below a folder, the deepest first, as they can be unmounted one by one.
///
/// # Errors
///
/// When the mount table cannot be read.
pub(crate) fn below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut points: Vec<PathBuf> = entries(&read_table()?)
        .map(|(point, _)| point)
        .filter(|point| point.starts_with(folder) && point != folder)
        .collect();
    points.reverse();
    Ok(points)
}

fn read_table() -> Result<String> {
    fs::read_to_string(MOUNT_TABLE).with_context(|| format!("cannot read {MOUNT_TABLE}"))
}

fn first_of_type(table: &str, wanted: &str) -> Option<PathBuf> {
    entries(table).find_map(|(point, kind)| (kind == wanted).then_some(point))
}

/// Yields mount point and file system type of every line.
fn entries(table: &str) -> impl Iterator<Item = (PathBuf, &str)> {
    table.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((PathBuf::from(unescape(fields.next()?)), fields.next()?))
    })
}

/// Undoes the four octal escapes of `proc(5)`: space, tab, newline and backslash.
fn unescape(field: &str) -> String {
    // The backslash comes last: what it uncovers is no escape any more.
    [
        (r"\040", " "),
        (r"\011", "\t"),
        (r"\012", "\n"),
        (r"\134", "\\"),
    ]
    .into_iter()
    .fold(field.to_owned(), |text, (escape, plain)| {
        text.replace(escape, plain)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_2_hierarchy_is_found_beside_version_1() {
        let cases = [
            (
                "hybrid",
                "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                 cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                 cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n",
                Some("/sys/fs/cgroup/unified"),
            ),
            (
                "unified",
                "cgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n",
                Some("/sys/fs/cgroup"),
            ),
            (
                "version 1 only",
                "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n",
                None,
            ),
            ("cut short", "cgroup2 /sys/fs/cgroup", None),
        ];
        for (case, table, expected) in cases {
            let found = first_of_type(table, "cgroup2");
            assert_eq!(found.as_deref(), expected.map(Path::new), "{case}");
        }
    }

    #[test]
    fn escapes_in_a_mount_point_are_undone_once() {
        assert_eq!(unescape(r"/a\040b\134040c"), r"/a b\040c");
    }
}
