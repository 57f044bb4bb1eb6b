//! Captures who is calling, from the task that runs connect().

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::bpf_get_current_comm;
use aya_ebpf::helpers::generated::{bpf_get_current_cgroup_id, bpf_get_current_task};
use aya_ebpf::programs::SockAddrContext;
use proxy_ebpf::kernel::read;
use proxy_ebpf::offsets::NANOSECONDS_PER_TICK;
use proxy_ebpf::origin::Origin;

use super::maps::offset;
use super::standing;

/// Captures the calling process. A field whose offset is unknown or whose read faults stays absent.
#[inline(always)]
pub(super) fn capture(context: &SockAddrContext, netns_cookie: u64, origin: &mut Origin) {
    // SAFETY: helpers without preconditions.
    let (cgroup_id, task) = unsafe { (bpf_get_current_cgroup_id(), bpf_get_current_task()) };
    *origin = Origin::new(
        context.tgid(),
        context.uid(),
        context.gid(),
        cgroup_id,
        netns_cookie,
    );
    if let Ok(comm) = bpf_get_current_comm() {
        origin.set_comm(comm);
    }
    let task = Task { address: task };
    if let Some(start_time) = task.start_time_ns() {
        origin.set_start_time_ns(start_time);
    }
    if let Some(login_uid) = read(task.address, offset!(task_loginuid)) {
        origin.set_login_uid(login_uid);
    }
    if let Some((uid, gid)) = task.effective_ids() {
        origin.set_effective_ids(uid, gid);
    }
    if let Some((tgid, start_time)) = task.parent() {
        origin.set_parent(tgid, start_time);
    }
    if let Some((device, inode)) = task.executable() {
        origin.set_exe(device, inode);
    }
    standing::capture(task.address, origin.standing_mut());
}

/// When the calling process was started, in clock ticks since boot as /proc/PID/stat has it.
#[inline(always)]
pub(super) fn started_at_ticks() -> Option<u64> {
    let task = Task {
        // SAFETY: a helper without preconditions.
        address: unsafe { bpf_get_current_task() },
    };
    Some(task.start_time_ns()? / NANOSECONDS_PER_TICK)
}

/// A task in kernel memory.
struct Task {
    address: u64,
}

impl Task {
    /// Start time of the thread group's leader: a thread's own start time would not match /proc/PID/stat.
    #[inline(always)]
    fn start_time_ns(&self) -> Option<u64> {
        let leader: u64 = read(self.address, offset!(task_group_leader))?;
        read(leader, offset!(task_start_boottime))
    }

    /// The ids of the calling thread itself: its threads may act with different ones.
    #[inline(always)]
    fn effective_ids(&self) -> Option<(u32, u32)> {
        let credentials: u64 = read(self.address, offset!(task_cred))?;
        let uid = read(credentials, offset!(cred_euid))?;
        let gid = read(credentials, offset!(cred_egid))?;
        Some((uid, gid))
    }

    /// Process id and start time of the parent. It is the thread that forked which the kernel calls the parent; the
    /// start time is its leader's, as for the process itself.
    #[inline(always)]
    fn parent(&self) -> Option<(u32, u64)> {
        let parent = Self {
            address: read(self.address, offset!(task_real_parent))?,
        };
        let tgid = read(parent.address, offset!(task_tgid))?;
        Some((tgid, parent.start_time_ns()?))
    }

    /// Device and inode of the file the process runs.
    #[inline(always)]
    fn executable(&self) -> Option<(u32, u64)> {
        let mm: u64 = read(self.address, offset!(task_mm))?;
        let file: u64 = read(mm, offset!(mm_exe_file))?;
        let inode: u64 = read(file, offset!(file_inode))?;
        let number: u64 = read(inode, offset!(inode_number))?;
        let super_block: u64 = read(inode, offset!(inode_super_block))?;
        let device: u32 = read(super_block, offset!(super_block_device))?;
        Some((device, number))
    }
}
