//! Where the running kernel keeps the task fields that helpers do not return.
//!
//! Rust programs have no CO-RE field relocations, so userspace reads these offsets from the kernel's BTF and sets
//! them as a global before the programs are loaded.

/// A clock tick in nanoseconds, the unit of a process's start time in /proc/PID/stat: `USER_HZ` is 100 on every architecture
/// that pgusher is built for (include/asm-generic/param.h).
pub const NANOSECONDS_PER_TICK: u64 = 1_000_000_000 / 100;

/// A byte offset inside a kernel structure, or "this kernel did not say".
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldOffset(u32);

impl FieldOffset {
    /// The field was not found; what depends on it is reported absent.
    pub const ABSENT: Self = Self(u32::MAX);

    /// Makes an offset of `bytes` from the start of the structure.
    pub const fn new(bytes: u32) -> Self {
        Self(bytes)
    }

    /// The offset in bytes, if the field is there.
    #[inline(always)]
    pub const fn get(self) -> Option<usize> {
        if self.0 == u32::MAX {
            None
        } else {
            Some(self.0 as usize)
        }
    }
}

/// The offsets the connect hooks follow from the calling task.
///
/// Size: 172 bytes, alignment 4. Field paths are those of include/linux/sched.h, cred.h, mm_types.h, fs.h, filter.h and
/// include/net/af_unix.h.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelOffsets {
    /// `task_struct::group_leader`
    pub task_group_leader: FieldOffset,
    /// `task_struct::start_boottime` (`real_start_time` before Linux 5.5)
    pub task_start_boottime: FieldOffset,
    /// `task_struct::tgid`
    pub task_tgid: FieldOffset,
    /// `task_struct::real_parent`: who started it, also while a debugger stands in as `parent`
    pub task_real_parent: FieldOffset,
    /// `task_struct::cred`: what the task acts with
    pub task_cred: FieldOffset,
    /// `cred::euid`
    pub cred_euid: FieldOffset,
    /// `cred::egid`
    pub cred_egid: FieldOffset,
    /// `task_struct::loginuid`
    pub task_loginuid: FieldOffset,
    /// `task_struct::mm`
    pub task_mm: FieldOffset,
    /// `mm_struct::exe_file`
    pub mm_exe_file: FieldOffset,
    /// `file::f_inode`
    pub file_inode: FieldOffset,
    /// `inode::i_ino`
    pub inode_number: FieldOffset,
    /// `inode::i_sb`
    pub inode_super_block: FieldOffset,
    /// `super_block::s_dev`
    pub super_block_device: FieldOffset,
    /// `bpf_sock_addr_kern::uaddr`: the address in a socket-address hook
    pub sock_addr_uaddr: FieldOffset,
    /// `bpf_sock_addr_kern::uaddrlen`
    pub sock_addr_uaddrlen: FieldOffset,
    /// `unix_sock::peer`
    pub unix_sock_peer: FieldOffset,
    /// What the task may do, and where it is.
    pub standing: StandingOffsets,
}

/// The offsets by which a [`Standing`](crate::standing::Standing) is found.
///
/// Size: 104 bytes, alignment 4. Field paths are those of include/linux/sched.h, cred.h, seccomp.h, nsproxy.h, pid.h,
/// ns_common.h and of the namespaces' own headers.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StandingOffsets {
    /// `task_struct::parent`: a tracer, while there is one
    pub task_parent: FieldOffset,
    /// `task_struct::ptrace`
    pub task_ptrace: FieldOffset,
    /// `task_struct::atomic_flags`
    pub task_atomic_flags: FieldOffset,
    /// `task_struct::seccomp.mode`
    pub task_seccomp_mode: FieldOffset,
    /// `task_struct::nsproxy`
    pub task_nsproxy: FieldOffset,
    /// `task_struct::thread_pid`
    pub task_thread_pid: FieldOffset,
    /// `cred::cap_effective`
    pub cred_cap_effective: FieldOffset,
    /// `cred::user_ns`
    pub cred_user_ns: FieldOffset,
    /// `cred::group_info`
    pub cred_group_info: FieldOffset,
    /// `group_info::ngroups`
    pub group_info_count: FieldOffset,
    /// `group_info::gid`
    pub group_info_ids: FieldOffset,
    /// `nsproxy::mnt_ns`
    pub nsproxy_mnt: FieldOffset,
    /// `nsproxy::net_ns`
    pub nsproxy_net: FieldOffset,
    /// `nsproxy::uts_ns`
    pub nsproxy_uts: FieldOffset,
    /// `nsproxy::ipc_ns`
    pub nsproxy_ipc: FieldOffset,
    /// `nsproxy::cgroup_ns`
    pub nsproxy_cgroup: FieldOffset,
    /// `mnt_namespace::ns.inum`
    pub mnt_number: FieldOffset,
    /// `net::ns.inum`
    pub net_number: FieldOffset,
    /// `uts_namespace::ns.inum`
    pub uts_number: FieldOffset,
    /// `ipc_namespace::ns.inum`
    pub ipc_number: FieldOffset,
    /// `cgroup_namespace::ns.inum`
    pub cgroup_number: FieldOffset,
    /// `user_namespace::ns.inum`
    pub user_number: FieldOffset,
    /// `pid_namespace::ns.inum`
    pub pid_number: FieldOffset,
    /// `pid::level`
    pub pid_level: FieldOffset,
    /// `pid::numbers`: one `upid` for each namespace that the task has a number in, outermost first
    pub pid_numbers: FieldOffset,
    /// `upid::ns`, its last member
    pub upid_ns: FieldOffset,
}

impl StandingOffsets {
    /// No offset known.
    pub const ABSENT: Self = Self {
        task_parent: FieldOffset::ABSENT,
        task_ptrace: FieldOffset::ABSENT,
        task_atomic_flags: FieldOffset::ABSENT,
        task_seccomp_mode: FieldOffset::ABSENT,
        task_nsproxy: FieldOffset::ABSENT,
        task_thread_pid: FieldOffset::ABSENT,
        cred_cap_effective: FieldOffset::ABSENT,
        cred_user_ns: FieldOffset::ABSENT,
        cred_group_info: FieldOffset::ABSENT,
        group_info_count: FieldOffset::ABSENT,
        group_info_ids: FieldOffset::ABSENT,
        nsproxy_mnt: FieldOffset::ABSENT,
        nsproxy_net: FieldOffset::ABSENT,
        nsproxy_uts: FieldOffset::ABSENT,
        nsproxy_ipc: FieldOffset::ABSENT,
        nsproxy_cgroup: FieldOffset::ABSENT,
        mnt_number: FieldOffset::ABSENT,
        net_number: FieldOffset::ABSENT,
        uts_number: FieldOffset::ABSENT,
        ipc_number: FieldOffset::ABSENT,
        cgroup_number: FieldOffset::ABSENT,
        user_number: FieldOffset::ABSENT,
        pid_number: FieldOffset::ABSENT,
        pid_level: FieldOffset::ABSENT,
        pid_numbers: FieldOffset::ABSENT,
        upid_ns: FieldOffset::ABSENT,
    };
}

impl KernelOffsets {
    /// No offset known: only what helpers return is captured.
    pub const ABSENT: Self = Self {
        task_group_leader: FieldOffset::ABSENT,
        task_start_boottime: FieldOffset::ABSENT,
        task_tgid: FieldOffset::ABSENT,
        task_real_parent: FieldOffset::ABSENT,
        task_cred: FieldOffset::ABSENT,
        cred_euid: FieldOffset::ABSENT,
        cred_egid: FieldOffset::ABSENT,
        task_loginuid: FieldOffset::ABSENT,
        task_mm: FieldOffset::ABSENT,
        mm_exe_file: FieldOffset::ABSENT,
        file_inode: FieldOffset::ABSENT,
        inode_number: FieldOffset::ABSENT,
        inode_super_block: FieldOffset::ABSENT,
        super_block_device: FieldOffset::ABSENT,
        sock_addr_uaddr: FieldOffset::ABSENT,
        sock_addr_uaddrlen: FieldOffset::ABSENT,
        unix_sock_peer: FieldOffset::ABSENT,
        standing: StandingOffsets::ABSENT,
    };
}
