//! Reads a process's /proc entry without being fooled by one that took its number or its place.
//!
//! A pidfd pins the process; its start time must be the captured one. Only then is what /proc says about the
//! process graded `verified`, and the executable only if it is the captured file: exec after connect() must not lend
//! the connection somebody else's name.

use std::ffi::OsStr;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::unistd::{Uid, User};
use procfs::process::Process;
use proxy_ebpf::origin::Origin;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::redact;
use super::{Fact, Grade};
use crate::wire::text::printable;

/// USER_HZ: the unit of start times in /proc/PID/stat is fixed for userspace on every architecture we support.
const NANOSECONDS_PER_TICK: u64 = 1_000_000_000 / 100;

/// How much of a command line is read.
const MAX_COMMAND_LINE_BYTES: u64 = 64 * 1024;

/// What /proc and the user database add to a capture.
#[derive(Debug, Default)]
pub(super) struct Enrichment {
    pub(super) user: Option<Fact<String>>,
    pub(super) exe: Option<Fact<String>>,
    pub(super) cmdline: Option<Fact<Vec<String>>>,
    pub(super) cgroup: Option<Fact<String>>,
}

/// Reads what can be read about the process behind `origin`. Blocks for as long as /proc does.
pub(super) fn enrich(origin: &Origin, cgroup_root: &Path) -> Enrichment {
    let mut enrichment = match open(origin) {
        Some((pidfd, process, grade)) => {
            let found = read(&process, origin, grade, cgroup_root);
            // Exited meanwhile: its number may have been taken, so none of it counts.
            if has_exited(&pidfd) {
                Enrichment::default()
            } else {
                found
            }
        }
        None => Enrichment::default(),
    };
    enrichment.user = user_name(origin.uid());
    enrichment
}

/// Pins the process and checks that it is the captured one.
fn open(origin: &Origin) -> Option<(rustix::fd::OwnedFd, Process, Grade)> {
    let pid = i32::try_from(origin.tgid()).ok()?;
    let pidfd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    let process = Process::new(pid).ok()?;
    let grade = match origin.start_time_ns() {
        None => Grade::Late,
        Some(captured) if process.stat().ok()?.starttime == captured / NANOSECONDS_PER_TICK => {
            Grade::Verified
        }
        Some(_) => return None,
    };
    Some((pidfd, process, grade))
}

fn read(process: &Process, origin: &Origin, grade: Grade, cgroup_root: &Path) -> Enrichment {
    Enrichment {
        user: None,
        exe: executable(process, origin, grade),
        // The process may rewrite its own arguments at any time: never better than late.
        cmdline: command_line(process.pid()).map(|arguments| Fact {
            value: redact::arguments(arguments),
            grade: Grade::Late,
        }),
        cgroup: cgroup_path(process).map(|path| Fact {
            grade: if is_captured_cgroup(cgroup_root, &path, origin) {
                grade
            } else {
                Grade::Late
            },
            value: path,
        }),
    }
}

/// The path of the executable: as good as the process's own grade if, in *our* mount namespace, that path is the very
/// file the hook saw. What the process sees under that name does not count (it may have mounted something over it),
/// and neither does what it runs by now.
fn executable(process: &Process, origin: &Origin, grade: Grade) -> Option<Fact<String>> {
    let path = process.exe().ok()?;
    let is_captured = std::fs::metadata(&path).is_ok_and(|file| is_captured_file(&file, origin));
    Some(Fact {
        value: printable(path.as_os_str().as_bytes()),
        grade: if is_captured { grade } else { Grade::Late },
    })
}

fn is_captured_file(file: &std::fs::Metadata, origin: &Origin) -> bool {
    let device = file.dev();
    origin.exe().is_some_and(|((major, minor), inode)| {
        file.ino() == inode
            && nix::sys::stat::major(device) == u64::from(major)
            && nix::sys::stat::minor(device) == u64::from(minor)
    })
}

/// The start of the process's command line. The process decides how long it is and where it lies, so no more than a
/// bounded part is ever read.
fn command_line(pid: i32) -> Option<Vec<String>> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(format!("/proc/{pid}/cmdline")).ok()?;
    file.take(MAX_COMMAND_LINE_BYTES)
        .read_to_end(&mut bytes)
        .ok()?;
    let arguments = bytes
        .strip_suffix(b"\0")
        .unwrap_or(&bytes)
        .split(|byte| *byte == 0);
    Some(arguments.map(printable).collect())
}

/// The path of the process in the cgroup-v2 hierarchy.
fn cgroup_path(process: &Process) -> Option<String> {
    let groups = process.cgroups().ok()?;
    groups
        .into_iter()
        .find(|group| group.hierarchy == 0)
        .map(|group| group.pathname)
}

/// Whether `path` is the cgroup the kernel saw: a cgroup's id is its directory's inode number.
fn is_captured_cgroup(cgroup_root: &Path, path: &str, origin: &Origin) -> bool {
    let directory = cgroup_root.join(OsStr::new(path.trim_start_matches('/')));
    std::fs::metadata(directory).is_ok_and(|metadata| metadata.ino() == origin.cgroup_id())
}

fn has_exited(pidfd: &rustix::fd::OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    !matches!(poll(&mut fds, Some(&now)), Ok(0))
}

/// The name of a user id in this host's user database, whatever a container's own says.
fn user_name(uid: u32) -> Option<Fact<String>> {
    let user = User::from_uid(Uid::from_raw(uid)).ok()??;
    Some(Fact {
        value: user.name,
        grade: Grade::Late,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own_start_time_ns() -> u64 {
        Process::myself().unwrap().stat().unwrap().starttime * NANOSECONDS_PER_TICK
    }

    fn own_origin() -> Origin {
        Origin::new(std::process::id(), Uid::current().as_raw(), 0, 0, 0)
    }

    #[test]
    fn a_process_with_the_captured_start_time_and_file_is_verified() {
        let mut origin = own_origin();
        origin.set_start_time_ns(own_start_time_ns() + 5_000_000);
        let exe = std::fs::metadata("/proc/self/exe").unwrap();
        let device = u32::try_from(
            (nix::sys::stat::major(exe.dev()) << 20) | nix::sys::stat::minor(exe.dev()),
        );
        origin.set_exe(device.unwrap(), exe.ino());
        let found = enrich(&origin, Path::new("/nonexistent"));
        let expected = std::env::current_exe().unwrap();
        assert_eq!(
            found.exe.unwrap(),
            Fact {
                value: expected.display().to_string(),
                grade: Grade::Verified
            }
        );
        assert_eq!(found.cgroup.unwrap().grade(), Grade::Late);
    }

    #[test]
    fn another_executable_by_now_is_only_late() {
        let mut origin = own_origin();
        origin.set_start_time_ns(own_start_time_ns());
        origin.set_exe(0, 1);
        assert_eq!(
            enrich(&origin, Path::new("/")).exe.unwrap().grade(),
            Grade::Late
        );
    }

    #[test]
    fn a_process_that_took_the_number_lends_nothing() {
        let mut origin = own_origin();
        origin.set_start_time_ns(own_start_time_ns() + 1_000_000_000);
        let found = enrich(&origin, Path::new("/"));
        assert_eq!((found.exe, found.cmdline, found.cgroup), (None, None, None));
    }

    #[test]
    fn a_process_that_has_gone_lends_nothing() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let origin = Origin::new(child.id(), 0, 0, 0, 0);
        child.wait().unwrap();
        assert_eq!(enrich(&origin, Path::new("/")).exe, None);
    }
}
