//! What the kernel knew about the calling process at the moment of connect().

use crate::standing::Standing;

/// The length of a task's command name, including its terminator (`TASK_COMM_LEN` in include/linux/sched.h).
pub const COMM_LEN: usize = 16;

/// The origin of a connect, captured inside the hook where the caller cannot change it.
///
/// Facts that need kernel structure offsets are absent when the kernel has no BTF; `present` says which are there.
/// Size: 280 bytes, alignment 8.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    start_time_ns: u64,
    cgroup_id: u64,
    netns_cookie: u64,
    exe_inode: u64,
    parent_start_time_ns: u64,
    tgid: u32,
    uid: u32,
    gid: u32,
    login_uid: u32,
    exe_device: u32,
    effective_uid: u32,
    effective_gid: u32,
    parent_tgid: u32,
    present: u32,
    reserved: u32,
    comm: [u8; COMM_LEN],
    standing: Standing,
}

const HAS_START_TIME: u32 = 1 << 0;
const HAS_EXE: u32 = 1 << 1;
const HAS_LOGIN_UID: u32 = 1 << 2;
const HAS_EFFECTIVE_IDS: u32 = 1 << 3;
const HAS_PARENT: u32 = 1 << 4;

/// The value of `task_struct::loginuid` while nobody has logged in (`INVALID_UID` in include/linux/uidgid.h).
const LOGIN_UID_UNSET: u32 = u32::MAX;

impl Origin {
    /// Makes an origin from what the helpers alone can tell: process, user, group and where it runs.
    #[inline(always)]
    pub const fn new(tgid: u32, uid: u32, gid: u32, cgroup_id: u64, netns_cookie: u64) -> Self {
        Self {
            start_time_ns: 0,
            cgroup_id,
            netns_cookie,
            exe_inode: 0,
            parent_start_time_ns: 0,
            tgid,
            uid,
            gid,
            login_uid: LOGIN_UID_UNSET,
            exe_device: 0,
            effective_uid: 0,
            effective_gid: 0,
            parent_tgid: 0,
            present: 0,
            reserved: 0,
            comm: [0; COMM_LEN],
            standing: Standing::UNKNOWN,
        }
    }

    /// Adds the calling thread's command name, as the kernel holds it.
    #[inline(always)]
    pub const fn set_comm(&mut self, comm: [u8; COMM_LEN]) {
        self.comm = comm;
    }

    /// Adds the start time of the thread group's leader, in nanoseconds since boot.
    #[inline(always)]
    pub const fn set_start_time_ns(&mut self, start_time_ns: u64) {
        self.start_time_ns = start_time_ns;
        self.present |= HAS_START_TIME;
    }

    /// Adds the executable, by its file system's device number (kernel encoding: major << 20 | minor) and inode.
    #[inline(always)]
    pub const fn set_exe(&mut self, device: u32, inode: u64) {
        self.exe_device = device;
        self.exe_inode = inode;
        self.present |= HAS_EXE;
    }

    /// Adds the audit login uid.
    #[inline(always)]
    pub const fn set_login_uid(&mut self, login_uid: u32) {
        self.login_uid = login_uid;
        self.present |= HAS_LOGIN_UID;
    }

    /// Adds the ids the calling thread acts with, in the initial user namespace.
    #[inline(always)]
    pub const fn set_effective_ids(&mut self, uid: u32, gid: u32) {
        self.effective_uid = uid;
        self.effective_gid = gid;
        self.present |= HAS_EFFECTIVE_IDS;
    }

    /// Adds the parent, by its process id in the initial pid namespace and its start time in nanoseconds since boot.
    #[inline(always)]
    pub const fn set_parent(&mut self, tgid: u32, start_time_ns: u64) {
        self.parent_tgid = tgid;
        self.parent_start_time_ns = start_time_ns;
        self.present |= HAS_PARENT;
    }

    /// What the calling thread may do and where it is, to be filled in.
    #[inline(always)]
    pub const fn standing_mut(&mut self) -> &mut Standing {
        &mut self.standing
    }

    /// What the calling thread may do and where it is.
    pub const fn standing(&self) -> &Standing {
        &self.standing
    }

    /// The process id (thread group id) in the initial pid namespace.
    pub const fn tgid(&self) -> u32 {
        self.tgid
    }

    /// The real user id in the initial user namespace.
    pub const fn uid(&self) -> u32 {
        self.uid
    }

    /// The real group id in the initial user namespace.
    pub const fn gid(&self) -> u32 {
        self.gid
    }

    /// The cgroup-v2 id: the inode number of the cgroup's directory.
    pub const fn cgroup_id(&self) -> u64 {
        self.cgroup_id
    }

    /// The cookie of the socket's network namespace (what `SO_NETNS_COOKIE` returns).
    pub const fn netns_cookie(&self) -> u64 {
        self.netns_cookie
    }

    /// The leader's start time in nanoseconds since boot, where the kernel could give it.
    pub const fn start_time_ns(&self) -> Option<u64> {
        if self.present & HAS_START_TIME != 0 {
            Some(self.start_time_ns)
        } else {
            None
        }
    }

    /// The executable's device as (major, minor) and its inode, where the kernel could give them.
    pub const fn exe(&self) -> Option<((u32, u32), u64)> {
        if self.present & HAS_EXE != 0 {
            let device = (self.exe_device >> 20, self.exe_device & 0xf_ffff);
            Some((device, self.exe_inode))
        } else {
            None
        }
    }

    /// The audit login uid, where the kernel could give it and somebody has logged in.
    pub const fn login_uid(&self) -> Option<u32> {
        if self.present & HAS_LOGIN_UID != 0 && self.login_uid != LOGIN_UID_UNSET {
            Some(self.login_uid)
        } else {
            None
        }
    }

    /// The effective user and group id in the initial user namespace, where the kernel could give them.
    pub const fn effective_ids(&self) -> Option<(u32, u32)> {
        if self.present & HAS_EFFECTIVE_IDS != 0 {
            Some((self.effective_uid, self.effective_gid))
        } else {
            None
        }
    }

    /// The parent's process id and start time, where the kernel could give them and there is a parent.
    pub const fn parent(&self) -> Option<(u32, u64)> {
        if self.present & HAS_PARENT != 0 && self.parent_tgid != 0 {
            Some((self.parent_tgid, self.parent_start_time_ns))
        } else {
            None
        }
    }

    /// The thread's command name up to its terminator; any process may set it to anything.
    pub fn comm(&self) -> &[u8] {
        self.comm.split(|byte| *byte == 0).next().unwrap_or(&[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_that_were_not_captured_are_absent_not_zero() {
        let origin = Origin::new(7, 1000, 1000, 42, 1);
        assert_eq!(origin.start_time_ns(), None);
        assert_eq!(origin.exe(), None);
        assert_eq!(origin.login_uid(), None);
        assert_eq!(origin.effective_ids(), None);
        assert_eq!(origin.parent(), None);
    }

    #[test]
    fn a_process_without_a_parent_has_none_even_when_captured() {
        let mut origin = Origin::new(1, 0, 0, 42, 1);
        origin.set_parent(0, 5);
        assert_eq!(origin.parent(), None);
        origin.set_parent(7, 5);
        assert_eq!(origin.parent(), Some((7, 5)));
    }

    #[test]
    fn root_as_effective_user_is_told_from_an_absent_one() {
        let mut origin = Origin::new(7, 1000, 1000, 42, 1);
        origin.set_effective_ids(0, 1000);
        assert_eq!(origin.effective_ids(), Some((0, 1000)));
    }

    #[test]
    fn an_unset_login_uid_is_absent_even_when_captured() {
        let mut origin = Origin::new(7, 1000, 1000, 42, 1);
        origin.set_login_uid(LOGIN_UID_UNSET);
        assert_eq!(origin.login_uid(), None);
        origin.set_login_uid(0);
        assert_eq!(origin.login_uid(), Some(0));
    }

    #[test]
    fn the_kernels_device_number_is_split_at_twenty_bits() {
        let mut origin = Origin::new(7, 1000, 1000, 42, 1);
        origin.set_exe((254 << 20) | 3, 99);
        assert_eq!(origin.exe(), Some(((254, 3), 99)));
    }

    #[test]
    fn the_command_name_ends_at_its_terminator() {
        let mut origin = Origin::new(7, 0, 0, 0, 0);
        origin.set_comm(*b"psql\0leftover\0\0\0");
        assert_eq!(origin.comm(), b"psql");
        origin.set_comm([b'x'; COMM_LEN]);
        assert_eq!(origin.comm(), [b'x'; COMM_LEN]);
    }
}
