//! Loading a program and attaching it to a cgroup with attach types that aya does not know: bpf(2) itself.
#![expect(
    unsafe_code,
    reason = "bpf(2) takes addresses, and has no wrapper for these attach types"
)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use aya::pin::PinError;
use aya::sys::SyscallError;
use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_insn, bpf_prog_type};

/// The room for the verifier's reasons, in bytes.
const LOG_BYTES: usize = 64 * 1024;
/// How much of its end is told.
const TOLD_BYTES: usize = 2 * 1024;

/// A program as the object has it.
#[derive(Clone, Copy)]
pub(super) struct Program<'a> {
    /// Its name; the kernel keeps the first 15 bytes of it (`BPF_OBJ_NAME_LEN`).
    pub(super) name: &'a str,
    pub(super) instructions: &'a [bpf_insn],
    pub(super) license: &'a CStr,
    pub(super) attach_type: bpf_attach_type,
}

/// Loads a socket-address program for its attach type.
///
/// # Errors
/// The kernel's reason, with the end of the verifier's log if it has one.
pub(super) fn load(program: Program<'_>) -> io::Result<OwnedFd> {
    // Without a log at first: with one the kernel writes down everything it does.
    let refused = match try_to_load(program, &mut []) {
        Ok(program) => return Ok(program),
        Err(error) => error,
    };
    let mut log = vec![0; LOG_BYTES];
    let error = match try_to_load(program, &mut log) {
        Ok(program) => return Ok(program),
        Err(_) => refused,
    };
    let written = log.iter().position(|byte| *byte == 0).unwrap_or(LOG_BYTES);
    let told = log.get(written.saturating_sub(TOLD_BYTES)..written);
    let told = String::from_utf8_lossy(told.unwrap_or_default());
    Err(io::Error::new(error.kind(), format!("{error}: {told}")))
}

fn try_to_load(program: Program<'_>, log: &mut [u8]) -> io::Result<OwnedFd> {
    // SAFETY: a union of plain numbers; all zero is what the kernel wants of fields that are not set.
    let mut attributes: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the variant that BPF_PROG_LOAD reads.
    let load = unsafe { &mut attributes.__bindgen_anon_3 };
    load.prog_type = bpf_prog_type::BPF_PROG_TYPE_CGROUP_SOCK_ADDR as u32;
    load.insn_cnt = u32::try_from(program.instructions.len()).map_err(io::Error::other)?;
    load.insns = program.instructions.as_ptr() as u64;
    load.license = program.license.as_ptr() as u64;
    load.expected_attach_type = program.attach_type as u32;
    // The last byte of the room is a zero.
    let name = program.name.bytes().take(load.prog_name.len() - 1);
    for (place, byte) in load.prog_name.iter_mut().zip(name) {
        *place = libc::c_char::from_ne_bytes([byte]);
    }
    if !log.is_empty() {
        load.log_level = 1;
        load.log_size = u32::try_from(log.len()).map_err(io::Error::other)?;
        load.log_buf = log.as_mut_ptr() as u64;
    }
    descriptor(bpf_cmd::BPF_PROG_LOAD, &attributes)
}

/// Attaches a program to a cgroup, besides those that are attached already, for as long as the link is kept.
///
/// # Errors
/// The kernel's reason.
pub(super) fn attach(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: bpf_attach_type,
) -> io::Result<OwnedFd> {
    let number = |descriptor: BorrowedFd<'_>| u32::try_from(descriptor.as_raw_fd());
    // SAFETY: as above.
    let mut attributes: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the variant that BPF_LINK_CREATE reads.
    let create = unsafe { &mut attributes.link_create };
    create.__bindgen_anon_1.prog_fd = number(program).map_err(io::Error::other)?;
    create.__bindgen_anon_2.target_fd = number(cgroup).map_err(io::Error::other)?;
    create.attach_type = attach_type as u32;
    descriptor(bpf_cmd::BPF_LINK_CREATE, &attributes)
}

/// Pins a link at a path in the BPF file system: what it attaches stays attached while the pin is there.
///
/// # Errors
/// As aya's own links.
pub(in crate::intercept) fn pin(link: &OwnedFd, path: &Path) -> Result<(), PinError> {
    let invalid = |error| PinError::InvalidPinPath {
        path: path.to_path_buf(),
        error,
    };
    let name = CString::new(path.as_os_str().as_bytes()).map_err(invalid)?;
    // SAFETY: as above.
    let mut attributes: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the variant that BPF_OBJ_PIN reads.
    let object = unsafe { &mut attributes.__bindgen_anon_4 };
    object.pathname = name.as_ptr() as u64;
    object.bpf_fd = link.as_raw_fd().unsigned_abs();
    let pinned = call(bpf_cmd::BPF_OBJ_PIN, &attributes);
    pinned.map(drop).map_err(|io_error| {
        PinError::SyscallError(SyscallError {
            call: "BPF_OBJ_PIN",
            io_error,
        })
    })
}

/// Calls bpf(2) for a command that answers with a descriptor, which is closed on exec as all of them are.
fn descriptor(command: bpf_cmd, attributes: &bpf_attr) -> io::Result<OwnedFd> {
    let number = call(command, attributes)?;
    // SAFETY: a descriptor that the kernel made just now, and nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn call(command: bpf_cmd, attributes: &bpf_attr) -> io::Result<RawFd> {
    // SAFETY: the kernel reads the attributes, and what their addresses point to, which lives through the call; it
    // writes to the log, which is as long as it says.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            std::ptr::from_ref(attributes),
            size_of::<bpf_attr>(),
        )
    };
    match i32::try_from(answer) {
        Ok(number @ 0..) => Ok(number),
        _ => Err(io::Error::last_os_error()),
    }
}
