//! Captures what the calling task may do and where it is. All of it is the calling thread's own, but for the tracer.

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use proxy_ebpf::kernel::read;
use proxy_ebpf::offsets::FieldOffset;
use proxy_ebpf::standing::{MAX_GROUPS, Namespace, Standing};

use super::maps::offset;

/// `PFA_NO_NEW_PRIVS` among `task_struct::atomic_flags` (include/linux/sched.h)
const NO_NEW_PRIVS: u64 = 1;
const POINTER_BYTES: u64 = 8;
const GID_BYTES: u32 = 4;

/// Captures the standing of the task at this address. What cannot be read stays absent.
#[inline(always)]
pub(super) fn capture(task: u64, standing: &mut Standing) {
    if let Some(flags) = read::<u64>(task, offset!(standing.task_atomic_flags)) {
        standing.set_no_new_privs(flags & NO_NEW_PRIVS != 0);
    }
    if let Some(mode) = read(task, offset!(standing.task_seccomp_mode)) {
        standing.set_seccomp_mode(mode);
    }
    if let Some(tgid) = tracer(task) {
        standing.set_tracer(tgid);
    }
    if let Some(credentials) = read(task, offset!(task_cred)) {
        capture_credentials(credentials, standing);
    }
    if let Some(nsproxy) = read(task, offset!(standing.task_nsproxy)) {
        capture_namespaces(nsproxy, standing);
    }
    if let Some(number) = pid_namespace(task) {
        standing.set_namespace(Namespace::Pid, number);
    }
}

/// The process that traces the calling thread, or else the first of its process: a thread that nobody traces may have
/// been put there by who traces another. 0 if neither is traced.
#[inline(always)]
fn tracer(task: u64) -> Option<u32> {
    match tracer_of(task)? {
        0 => tracer_of(read(task, offset!(task_group_leader))?),
        tgid => Some(tgid),
    }
}

#[inline(always)]
fn tracer_of(task: u64) -> Option<u32> {
    let traced: u32 = read(task, offset!(standing.task_ptrace))?;
    if traced == 0 {
        return Some(0);
    }
    let tracer = read(task, offset!(standing.task_parent))?;
    read(tracer, offset!(task_tgid))
}

#[inline(always)]
fn capture_credentials(credentials: u64, standing: &mut Standing) {
    if let Some(mask) = read(credentials, offset!(standing.cred_cap_effective)) {
        standing.set_capabilities(mask);
    }
    let user = (
        offset!(standing.cred_user_ns),
        offset!(standing.user_number),
    );
    if let Some(number) = namespace(credentials, user) {
        standing.set_namespace(Namespace::User, number);
    }
    if let Some(count) = read_groups(credentials, standing.groups_mut()) {
        standing.set_group_count(count);
    }
}

/// Reads the supplementary groups and tells how many there are; none where there are too many.
#[inline(always)]
fn read_groups(credentials: u64, groups: &mut [u32; MAX_GROUPS]) -> Option<u32> {
    let info: u64 = read(credentials, offset!(standing.cred_group_info))?;
    let count: u32 = read(info, offset!(standing.group_info_count))?;
    let first = info.wrapping_add(offset!(standing.group_info_ids).get()? as u64);
    if count > MAX_GROUPS as u32 {
        return None;
    }
    // SAFETY: as many bytes as were counted, at most all of `groups`; the helper checks the source.
    let result = unsafe {
        bpf_probe_read_kernel(
            groups.as_mut_ptr().cast(),
            count * GID_BYTES,
            first as *const _,
        )
    };
    (result == 0).then_some(count)
}

#[inline(always)]
fn capture_namespaces(nsproxy: u64, standing: &mut Standing) {
    let mut take = |kind, place| {
        if let Some(number) = namespace(nsproxy, place) {
            standing.set_namespace(kind, number);
        }
    };
    take(
        Namespace::Mnt,
        (offset!(standing.nsproxy_mnt), offset!(standing.mnt_number)),
    );
    take(
        Namespace::Net,
        (offset!(standing.nsproxy_net), offset!(standing.net_number)),
    );
    take(
        Namespace::Uts,
        (offset!(standing.nsproxy_uts), offset!(standing.uts_number)),
    );
    take(
        Namespace::Ipc,
        (offset!(standing.nsproxy_ipc), offset!(standing.ipc_number)),
    );
    take(
        Namespace::Cgroup,
        (
            offset!(standing.nsproxy_cgroup),
            offset!(standing.cgroup_number),
        ),
    );
}

/// The number of a namespace that `holder` points to: where the pointer is, and in the namespace the number.
#[inline(always)]
fn namespace(holder: u64, (pointer, number): (FieldOffset, FieldOffset)) -> Option<u32> {
    read(read(holder, pointer)?, number)
}

/// The namespace of the innermost number that the task has (`task_active_pid_ns` in kernel/pid.c).
#[inline(always)]
fn pid_namespace(task: u64) -> Option<u32> {
    let pid: u64 = read(task, offset!(standing.task_thread_pid))?;
    let level: u32 = read(pid, offset!(standing.pid_level))?;
    let in_number = offset!(standing.upid_ns);
    let number_bytes = in_number.get()? as u64 + POINTER_BYTES;
    let numbers = pid.wrapping_add(offset!(standing.pid_numbers).get()? as u64);
    let innermost = numbers.wrapping_add(u64::from(level) * number_bytes);
    namespace(innermost, (in_number, offset!(standing.pid_number)))
}
