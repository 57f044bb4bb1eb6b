//! Which processes hold a socket: found by its inode among all their descriptors.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;

use super::super::census::numbered;

/// The most processes named for one connection; a pre-forking server's children inherit its sockets.
const MAX_HOLDERS: usize = 16;
/// The most bytes of an executable's path that are kept.
const MAX_PATH_BYTES: usize = 512;

/// A process that holds a connection that pgusher came too late for.
#[derive(Clone, Debug, Serialize)]
pub struct Holder {
    pub(super) pid: u32,
    pub(super) comm: Option<String>,
    pub(super) exe: Option<String>,
}

/// Processes by the inodes of the sockets they hold.
pub(super) type Holders = HashMap<u32, Vec<u32>>;

/// Looks for these inodes among the descriptors of all processes; those of `sure` have to be readable.
///
/// # Errors
/// The operating system's reason if /proc, or one of `sure` that still runs, cannot be read.
pub(super) fn of(inodes: &HashSet<u32>, sure: &[u32]) -> io::Result<Holders> {
    let mut found = Holders::new();
    if inodes.is_empty() {
        return Ok(found);
    }
    for process in numbered(Path::new("/proc"))? {
        let name = process.file_name().and_then(|name| name.to_str());
        let Some(pid) = name.and_then(|name| name.parse().ok()) else {
            continue;
        };
        let descriptors = match numbered(&process.join("fd")) {
            Ok(descriptors) => descriptors,
            Err(error) if sure.contains(&pid) => return Err(error),
            Err(_) => continue,
        };
        for descriptor in descriptors {
            let inode = fs::read_link(descriptor).ok().and_then(|to| socket_in(&to));
            if let Some(inode) = inode.filter(|inode| inodes.contains(inode)) {
                let holders = found.entry(inode).or_default();
                if holders.last() != Some(&pid) {
                    holders.push(pid);
                }
            }
        }
    }
    Ok(found)
}

/// What is to be said of the first of these processes.
pub(super) fn describe(pids: &[u32]) -> Vec<Holder> {
    let named = pids.iter().take(MAX_HOLDERS);
    named.map(|pid| Holder::read(*pid)).collect()
}

impl Holder {
    /// How long its texts are.
    pub(super) fn bytes(&self) -> usize {
        let texts = [&self.comm, &self.exe].into_iter().flatten();
        texts.map(String::len).sum()
    }

    fn read(pid: u32) -> Self {
        let comm = fs::read(format!("/proc/{pid}/comm")).ok();
        let exe = fs::read_link(format!("/proc/{pid}/exe")).ok();
        Self {
            pid,
            comm: comm.map(|comm| String::from_utf8_lossy(comm.trim_ascii_end()).into_owned()),
            exe: exe.map(|exe| {
                let mut exe = exe.to_string_lossy().into_owned();
                exe.truncate(exe.floor_char_boundary(MAX_PATH_BYTES));
                exe
            }),
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Quoted: a process chooses its own name, and could choose one that looks like another line of the log.
        write!(
            out,
            "pid {} {:?}",
            self.pid,
            self.comm.as_deref().unwrap_or("?")
        )
    }
}

/// `socket:[12345]` → 12345
fn socket_in(link: &Path) -> Option<u32> {
    let number = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn a_socket_is_found_in_every_process_that_holds_it_and_once() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let twice = listener.try_clone().unwrap();
        let descriptor = std::os::fd::AsRawFd::as_raw_fd(&twice);
        let inode = fs::metadata(format!("/proc/self/fd/{descriptor}"))
            .unwrap()
            .ino();
        let inode = u32::try_from(inode).unwrap();
        let own = std::process::id();
        let found = of(&HashSet::from([inode]), &[own]).unwrap();
        assert_eq!(found.get(&inode), Some(&vec![own]));
        let [holder] = &describe(&found[&inode])[..] else {
            panic!("one process");
        };
        assert_eq!(
            holder.exe,
            std::env::current_exe().unwrap().to_str().map(str::to_owned)
        );
    }

    #[test]
    fn no_more_processes_are_described_than_the_limit_says() {
        let pids = vec![std::process::id(); MAX_HOLDERS + 1];
        assert_eq!(describe(&pids).len(), MAX_HOLDERS);
        assert_eq!(describe(&pids[..MAX_HOLDERS]).len(), MAX_HOLDERS);
    }

    #[test]
    fn only_sockets_have_a_sockets_name() {
        let cases = [
            ("socket:[7]", Some(7)),
            ("pipe:[7]", None),
            ("/tmp/socket:[7]", None),
        ];
        for (link, inode) in cases {
            assert_eq!(socket_in(Path::new(link)), inode, "{link}");
        }
    }
}
