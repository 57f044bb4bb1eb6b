//! The process's place in the cgroup-v2 hierarchy, and how much of that place somebody privileged chose.
//!
//! A path is read from the root on: slices are systemd's own, and so is the service or scope directly below them.
//! What lies deeper belongs to whom that unit is delegated to, a user's own manager for example, who may give it any
//! name. Nothing is concluded from it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use proxy_ebpf::origin::Origin;

use super::entry;
use super::fact::{Fact, Grade};
use crate::wire::text::printable;

/// A line for each hierarchy, none longer than `PATH_MAX` and some.
const MAX_TABLE_BYTES: usize = 128 * 1024;

/// Reads the path of the process in the cgroup-v2 hierarchy: as good as the process's own grade if that directory is
/// the cgroup the kernel saw.
pub(super) fn path(pid: u32, origin: &Origin, grade: Grade, root: &Path) -> Option<Fact<String>> {
    let table = entry::read(pid, "cgroup", MAX_TABLE_BYTES)?;
    let path = unified(&table)?;
    let id = id(root, path);
    let is_captured = id.is_some_and(|id| id == origin.cgroup_id());
    let grade = if is_captured { grade } else { Grade::Late };
    Some(Fact::new(printable(path), grade))
}

/// The id of the cgroup that the process is in now.
pub(super) fn current_id(pid: u32, root: &Path) -> Option<u64> {
    let table = entry::read(pid, "cgroup", MAX_TABLE_BYTES)?;
    id(root, unified(&table)?)
}

/// A cgroup's id is its directory's inode number.
fn id(root: &Path, path: &[u8]) -> Option<u64> {
    let below = path.strip_prefix(b"/")?;
    let directory = root.join(OsStr::from_bytes(below));
    std::fs::metadata(directory).ok().map(|found| found.ino())
}

/// The line of the unified hierarchy has number 0 and no controllers.
fn unified(table: &[u8]) -> Option<&[u8]> {
    let mut lines = table.split(|byte| *byte == b'\n');
    lines.find_map(|line| line.strip_prefix(b"0::"))
}

/// A cgroup path, split where systemd's own part of it ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place<'path> {
    /// The slices it begins with.
    pub(super) slices: Vec<&'path str>,
    /// What comes below them.
    pub(super) below: Vec<&'path str>,
}

impl<'path> Place<'path> {
    /// Splits a path. One that leads out of pgusher's own cgroup namespace does not begin at the root and says nothing.
    pub(super) fn of(path: &'path str) -> Option<Self> {
        let mut parts: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        parts.retain(|part| !part.is_empty());
        if parts.contains(&"..") {
            return None;
        }
        let end = parts.iter().position(|part| !part.ends_with(".slice"));
        let below = parts.split_off(end.unwrap_or(parts.len()));
        Some(Self {
            slices: parts,
            below,
        })
    }

    /// The service or scope that systemd itself put the process into (its own rule, `cg_path_decode_unit`).
    pub(super) fn unit(&self) -> Option<&'path str> {
        let first = self.below.first().map(|part| unescaped(part));
        first.filter(|part| part.ends_with(".service") || part.ends_with(".scope"))
    }

    /// The innermost slice of systemd's own.
    pub(super) fn slice(&self) -> Option<&'path str> {
        self.slices.last().map(|part| unescaped(part))
    }
}

/// The name of the unit whose directory this is. One that could be a file of the kernel's (`memory.service`, like
/// `memory.max`) or begins with `_` or `.` has `_` before it (`cg_escape` in systemd's src/basic/cgroup-util.c).
fn unescaped(directory: &str) -> &str {
    directory.strip_prefix('_').unwrap_or(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_and_slice_are_systemds_own_and_nothing_below_them() {
        let user = "/user.slice/user-1000.slice/user@1000.service";
        let delegated = |below: &str| format!("{user}/{below}");
        let cases: [(String, Option<&str>, Option<&str>); 16] = [
            (
                "/system.slice/nginx.service".to_owned(),
                Some("nginx.service"),
                Some("system.slice"),
            ),
            (
                "/system.slice/app.service/workers".to_owned(),
                Some("app.service"),
                Some("system.slice"),
            ),
            (
                "/system.slice/system-postgresql.slice/postgresql@15-main.service".to_owned(),
                Some("postgresql@15-main.service"),
                Some("system-postgresql.slice"),
            ),
            (
                "/user.slice/user-1000.slice/session-3.scope".to_owned(),
                Some("session-3.scope"),
                Some("user-1000.slice"),
            ),
            (
                delegated("app.slice/psql.scope"),
                Some("user@1000.service"),
                Some("user-1000.slice"),
            ),
            (
                delegated("system.slice/nginx.service"),
                Some("user@1000.service"),
                Some("user-1000.slice"),
            ),
            (
                delegated("nginx.service"),
                Some("user@1000.service"),
                Some("user-1000.slice"),
            ),
            ("/init.scope".to_owned(), Some("init.scope"), None),
            ("/elsewhere/nginx.service".to_owned(), None, None),
            (
                "/elsewhere/system.slice/nginx.service".to_owned(),
                None,
                None,
            ),
            ("/user.slice".to_owned(), None, Some("user.slice")),
            ("/../system.slice/nginx.service".to_owned(), None, None),
            ("/".to_owned(), None, None),
            (
                "/_memory.slice/_memory.service".to_owned(),
                Some("memory.service"),
                Some("memory.slice"),
            ),
            (
                "/system.slice/__own.scope".to_owned(),
                Some("_own.scope"),
                Some("system.slice"),
            ),
            ("/_cpu.service/_x".to_owned(), Some("cpu.service"), None),
        ];
        for (path, unit, slice) in cases {
            let place = Place::of(&path);
            let found = place.as_ref().and_then(Place::unit);
            assert_eq!(found, unit, "{path}");
            assert_eq!(place.as_ref().and_then(Place::slice), slice, "{path}");
        }
    }

    #[test]
    fn only_the_unified_hierarchy_counts() {
        let table = b"9:name=systemd:/x\n1:cpu:/0::/y\n0::/system.slice/a.service\n";
        assert_eq!(unified(table), Some(b"/system.slice/a.service".as_slice()));
        assert_eq!(unified(b"1:cpu:/\n"), None);
    }
}
