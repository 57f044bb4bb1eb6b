//! The system calls that are given up. A list of what is refused, not of what is allowed: a proxy in front of databases
//! must not die because libc begins to use another call.
//!
//! Refused calls fail with EPERM, but for clone3: its flags are in memory, where no filter can look, so it fails with
//! ENOSYS, and libc takes clone.

use std::collections::BTreeMap;
use std::env::consts::ARCH;

use libc::{
    AF_INET, AF_INET6, AF_NETLINK, AF_UNIX, CLONE_NEWNET, CLONE_THREAD, ENOSYS, EPERM, SOCK_RAW,
};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter, sock_filter,
};

use super::{FenceError, Role};

/// Refused whatever the arguments.
const REFUSED: [libc::c_long; 56] = [
    // Other programs.
    libc::SYS_execve,
    libc::SYS_execveat,
    // Other processes' memory and descriptors.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    // Mounts, roots and namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_unshare,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    // Files by other ways than their path.
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_mknodat,
    libc::SYS_fanotify_init,
    // The kernel itself, and the machine.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    // Keys.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // What the kernel was most often attacked through, and pgusher has no use for.
    libc::SYS_userfaultfd,
    libc::SYS_perf_event_open,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_personality,
    libc::SYS_vmsplice,
    libc::SYS_remap_file_pages,
    libc::SYS_io_setup,
];

/// Those that only x86-64 has.
#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[libc::c_long] = &[
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_mknod,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[libc::c_long] = &[];

/// How many calls are refused whatever their arguments.
pub const REFUSED_CALLS: usize = REFUSED.len() + REFUSED_HERE.len();

/// What may be done to eBPF objects that are there already: `BPF_MAP_LOOKUP_ELEM`, `_UPDATE_ELEM`, `_DELETE_ELEM`,
/// `_GET_NEXT_KEY`, `BPF_PROG_TEST_RUN` (which joins sockets for the fast path), `BPF_OBJ_GET_INFO_BY_FD` and
/// `BPF_MAP_LOOKUP_AND_DELETE_ELEM` (include/uapi/linux/bpf.h).
const BPF_COMMANDS: [u64; 7] = [1, 2, 3, 4, 10, 15, 21];
/// Netlink is how libc finds out which address families there are.
const FAMILIES: [libc::c_int; 4] = [AF_UNIX, AF_INET, AF_INET6, AF_NETLINK];
/// The bits of a socket's type that are no flags (`SOCK_TYPE_MASK`, include/linux/net.h).
const SOCKET_TYPE: u64 = 0xf;
/// What distinguishes calls of the x32 ABI, which no filter by numbers would see.
#[cfg(target_arch = "x86_64")]
const X32_BIT: u32 = 0x4000_0000;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Gives the calls up for the calling thread and all that it starts.
///
/// # Errors
/// [`FenceError`]
pub(super) fn give_up(role: Role) -> Result<(), FenceError> {
    let refusing = |rules, errno: libc::c_int| -> Result<BpfProgram, BackendError> {
        let errno = SeccompAction::Errno(errno.unsigned_abs());
        let target = TargetArch::try_from(ARCH)?;
        SeccompFilter::new(rules, SeccompAction::Allow, errno, target)?.try_into()
    };
    apply_filter(&refusing(refused(role)?, EPERM)?)?;
    let no_clone3 = Rules::from([(libc::SYS_clone3, Vec::new())]);
    apply_filter(&refusing(no_clone3, ENOSYS)?)?;
    #[cfg(target_arch = "x86_64")]
    apply_filter(&no_x32())?;
    Ok(())
}

fn refused(role: Role) -> Result<Rules, BackendError> {
    let always = REFUSED.iter().chain(REFUSED_HERE);
    let mut rules: Rules = always.map(|call| (*call, Vec::new())).collect();
    let thread = flag(CLONE_THREAD);
    let is_process = argument(0, SeccompCmpOp::MaskedEq(thread), 0)?;
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![is_process])?]);
    rules.insert(libc::SYS_bpf, vec![none_of(0, &BPF_COMMANDS)?]);
    rules.insert(libc::SYS_socket, refused_sockets()?);
    let setns = match role {
        // An envoy has the porter's filter besides.
        Role::Relay | Role::Envoy => Vec::new(),
        Role::Porter => vec![none_of(1, &[flag(CLONE_NEWNET)])?],
    };
    rules.insert(libc::SYS_setns, setns);
    Ok(rules)
}

/// Sockets of other families, and raw ones: CAP_NET_RAW is there for marks.
fn refused_sockets() -> Result<Vec<SeccompRule>, BackendError> {
    let mut rules = vec![none_of(0, &FAMILIES.map(flag))?];
    for family in [AF_INET, AF_INET6] {
        rules.push(SeccompRule::new(vec![
            argument(0, SeccompCmpOp::Eq, flag(family))?,
            argument(1, SeccompCmpOp::MaskedEq(SOCKET_TYPE), flag(SOCK_RAW))?,
        ])?);
    }
    Ok(rules)
}

/// Applies where the argument is none of these.
fn none_of(number: u8, values: &[u64]) -> Result<SeccompRule, BackendError> {
    let values = values.iter();
    let conditions = values.map(|value| argument(number, SeccompCmpOp::Ne, *value));
    SeccompRule::new(conditions.collect::<Result<_, _>>()?)
}

/// The kernel takes the lower half of each argument that is looked at here.
fn argument(number: u8, is: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(number, SeccompCmpArgLen::Dword, is, value)
}

fn flag(value: libc::c_int) -> u64 {
    value.unsigned_abs().into()
}

/// Refuses every call whose number has the x32 bit: load it, compare, answer.
#[cfg(target_arch = "x86_64")]
fn no_x32() -> BpfProgram {
    const LOAD: u16 = 0x20;
    const JUMP_IF_ANY_BIT: u16 = 0x45;
    const RETURN: u16 = 0x06;
    let instruction = |code, jt, k| sock_filter { code, jt, jf: 0, k };
    vec![
        instruction(LOAD, 0, 0),
        instruction(JUMP_IF_ANY_BIT, 1, X32_BIT),
        instruction(RETURN, 0, libc::SECCOMP_RET_ALLOW),
        instruction(RETURN, 0, libc::SECCOMP_RET_ERRNO | EPERM.unsigned_abs()),
    ]
}

#[cfg(test)]
mod tests;
