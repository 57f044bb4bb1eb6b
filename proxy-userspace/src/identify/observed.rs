//! What the hook would capture of a process, read from /proc instead, for `pgusher explain`.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::sched::{CloneFlags, setns};
use proxy_ebpf::offsets::NANOSECONDS_PER_TICK;
use proxy_ebpf::origin::{COMM_LEN, Origin};
use proxy_ebpf::standing::Standing;

use super::held::Held;
use super::namespaces::Namespaces;
use super::pinned::Pinned;
use super::status::Status;
use super::{cgroup, executable};
use crate::socket;

/// Why a process could not be observed.
#[derive(Debug, thiserror::Error)]
pub enum UnknownProcess {
    /// There is no such process, or it ended while it was looked at.
    #[error("there is no process {0}")]
    Gone(u32),
    /// /proc does not show the process's ids.
    #[error("/proc/{0}/status cannot be read; run this as root")]
    Unreadable(u32),
    /// The cgroup of the process is not below the cgroup-v2 root.
    #[error("the cgroup of process {0} is not found below {1}")]
    NoCgroup(u32, std::path::PathBuf),
}

/// What the hook would capture if the process connected now from its first thread, and whether the network namespace
/// is part of it.
pub(super) struct Observed {
    pub(super) origin: Origin,
    pub(super) knows_netns: bool,
}

/// Observes the process with this number.
pub(super) fn observe(pid: u32, cgroup_root: &Path) -> Result<Observed, UnknownProcess> {
    let process = Pinned::open(pid).ok_or(UnknownProcess::Gone(pid))?;
    let unreadable = || UnknownProcess::Unreadable(pid);
    let status = Status::of(pid).ok_or_else(unreadable)?;
    let (uids, gids) = status.uids.zip(status.gids).ok_or_else(unreadable)?;
    let cgroup_id = cgroup::current_id(pid, cgroup_root)
        .ok_or_else(|| UnknownProcess::NoCgroup(pid, cgroup_root.to_path_buf()))?;
    let netns_cookie = netns_cookie(pid);
    let mut origin = Origin::new(
        pid,
        uids.real,
        gids.real,
        cgroup_id,
        netns_cookie.unwrap_or_default(),
    );
    origin.set_effective_ids(uids.effective, gids.effective);
    origin.set_start_time_ns(started_at_ns(&process));
    origin.set_comm(comm(process.comm()));
    if let Some(parent) = process.parent(&Held::default()) {
        origin.set_parent(parent.pid(), started_at_ns(&parent));
    }
    if let Some(login_uid) = number(&format!("/proc/{pid}/loginuid")) {
        origin.set_login_uid(login_uid);
    }
    if let Some((device, inode)) = running_file(pid) {
        origin.set_exe(device, inode);
    }
    set_standing(origin.standing_mut(), pid, &status);
    if !process.is_alive() {
        return Err(UnknownProcess::Gone(pid));
    }
    Ok(Observed {
        origin,
        knows_netns: netns_cookie.is_some(),
    })
}

fn set_standing(standing: &mut Standing, pid: u32, status: &Status) {
    if let Some(held) = status.capabilities {
        standing.set_capabilities(held.bits());
    }
    if let Some(is_set) = status.no_new_privs {
        standing.set_no_new_privs(is_set);
    }
    if let Some(seccomp) = status.seccomp {
        standing.set_seccomp_mode(seccomp.mode());
    }
    standing.set_tracer(status.tracer_pid.unwrap_or_default());
    let groups = status.groups.as_deref().unwrap_or_default();
    if let (Some(room), true) = (
        standing.groups_mut().get_mut(..groups.len()),
        status.groups.is_some(),
    ) {
        room.copy_from_slice(groups);
        standing.set_group_count(u32::try_from(groups.len()).unwrap_or_default());
    }
    if let Some(namespaces) = Namespaces::of(&pid.to_string()) {
        namespaces.show(standing);
    }
}

fn started_at_ns(process: &Pinned) -> u64 {
    process
        .started_at_ticks()
        .saturating_mul(NANOSECONDS_PER_TICK)
}

fn comm(name: &[u8]) -> [u8; COMM_LEN] {
    let mut comm = [0; COMM_LEN];
    // The last byte is the terminator.
    let room = comm.iter_mut().take(COMM_LEN - 1);
    room.zip(name).for_each(|(slot, byte)| *slot = *byte);
    comm
}

fn number(path: &str) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Device (in the kernel's encoding) and inode.
fn running_file(pid: u32) -> Option<(u32, u64)> {
    let file = fs::metadata(format!("/proc/{pid}/exe")).ok()?;
    let (major, minor) = executable::device(&file);
    Some((u32::try_from((major << 20) | minor).ok()?, file.ino()))
}

/// The cookie of the process's network namespace, asked for in there by a thread that ends with the answer.
fn netns_cookie(pid: u32) -> Option<u64> {
    let namespace = fs::File::open(format!("/proc/{pid}/ns/net")).ok()?;
    let asking = std::thread::spawn(move || {
        setns(&namespace, CloneFlags::CLONE_NEWNET).ok()?;
        let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
        socket::netns_cookie(&socket).ok()
    });
    asking.join().ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_observed_as_the_hook_would_see_it() {
        let root = crate::intercept::cgroup_root().unwrap();
        let observed = observe(std::process::id(), &root).unwrap();
        let origin = observed.origin;
        assert_eq!(origin.tgid(), std::process::id());
        assert_eq!(origin.uid(), nix::unistd::getuid().as_raw());
        let parent = origin.parent().map(|(tgid, _)| tgid);
        assert_eq!(parent, Some(std::os::unix::process::parent_id()));
        assert!(origin.exe().is_some() && origin.cgroup_id() != 0);
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let error = observe(child.id(), Path::new("/")).err().unwrap();
        assert!(matches!(error, UnknownProcess::Gone(_)), "{error}");
    }

    #[test]
    fn a_long_command_name_keeps_room_for_its_terminator() {
        assert_eq!(comm(b"psql").get(..5), Some(b"psql\0".as_slice()));
        assert_eq!(comm(b"abcdefghijklmnopqrst"), *b"abcdefghijklmno\0");
    }
}
