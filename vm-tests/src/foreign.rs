//! A program of somebody else's on a hook of ours: two instructions that let every connect go on.
//!
//! Loaded and attached with bpf(2) itself, so that nothing of what pgusher does it with takes part.

#![expect(
    unsafe_code,
    reason = "bpf(2) has no safe wrapper that takes instructions"
)]

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result};

/// Commands, types and attach types of include/uapi/linux/bpf.h.
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_CGROUP_SOCK_ADDR: u32 = 18;
const BPF_CGROUP_INET4_CONNECT: u32 = 10;

/// `r0 = 1; exit`: the connect goes on.
const PROCEED: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 1, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];
const LICENSE: &[u8] = b"GPL\0";

/// `union bpf_attr` as BPF_PROG_LOAD has it, up to the attach type.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// The same as BPF_LINK_CREATE has it.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
}

/// A program attached to `cgroup/connect4`; detached when dropped.
#[derive(Debug)]
pub struct Foreign {
    program: OwnedFd,
    _link: OwnedFd,
}

impl Foreign {
    /// Loads the program and attaches it to a cgroup.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn attach(cgroup: &Path) -> Result<Self> {
        let mut load = ProgLoad {
            prog_type: BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
            insn_cnt: u32::try_from(PROCEED.len())?,
            insns: PROCEED.as_ptr() as u64,
            license: LICENSE.as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log_buf: 0,
            kern_version: 0,
            prog_flags: 0,
            prog_name: *b"foreign\0\0\0\0\0\0\0\0\0",
            prog_ifindex: 0,
            expected_attach_type: BPF_CGROUP_INET4_CONNECT,
        };
        let program = bpf(BPF_PROG_LOAD, &mut load).context("cannot load the program")?;
        let directory = File::open(cgroup)?;
        let mut create = LinkCreate {
            prog_fd: u32::try_from(program.as_raw_fd())?,
            target_fd: u32::try_from(directory.as_raw_fd())?,
            attach_type: BPF_CGROUP_INET4_CONNECT,
            flags: 0,
        };
        let link = bpf(BPF_LINK_CREATE, &mut create).context("cannot attach the program")?;
        Ok(Self {
            program,
            _link: link,
        })
    }

    /// How often it ran; the kernel counts while `kernel.bpf_stats_enabled` is 1.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn runs(&self) -> Result<u64> {
        let path = format!("/proc/self/fdinfo/{}", self.program.as_raw_fd());
        let text = fs::read_to_string(path)?;
        let count = text.lines().find_map(|line| line.strip_prefix("run_cnt:"));
        Ok(count
            .with_context(|| format!("no count in {text}"))?
            .trim()
            .parse()?)
    }
}

/// A command of bpf(2) that makes a descriptor.
fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: `T` is one of the two structures above, laid out as the kernel wants it, and its size is passed on; the
    // pointers in it are to constants that outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let descriptor = i32::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made it, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
