//! What belongs to the whole process: its memory is neither dumped nor made executable.
#![expect(unsafe_code, reason = "no crate wraps PR_SET_MDWE")]

use std::io;

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use tracing::debug;

use super::FenceError;

/// Switches core dumps off, which would have passwords and keys in them, and with them ptrace by whoever has the same
/// user without CAP_SYS_PTRACE. From Linux 6.3 on no memory becomes executable any more that was writable.
///
/// # Errors
/// [`FenceError::Dumps`]
pub fn enclose_process() -> Result<(), FenceError> {
    stay_private().map_err(FenceError::Dumps)?;
    if let Err(error) = deny_write_execute() {
        debug!(%error, "memory may become executable: the kernel has no PR_SET_MDWE");
    }
    Ok(())
}

/// Says once more that the process is not to be dumped. A thread that takes another user makes the kernel forget it for
/// all of them (`commit_creds`), as far as `fs.suid_dumpable` goes.
///
/// # Errors
/// The operating system's reason.
pub fn stay_private() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

fn deny_write_execute() -> io::Result<()> {
    let refuse = libc::c_ulong::from(libc::PR_MDWE_REFUSE_EXEC_GAIN);
    let unused: libc::c_ulong = 0;
    // SAFETY: this request takes numbers and touches no memory of ours.
    let result = unsafe { libc::prctl(libc::PR_SET_MDWE, refuse, unused, unused, unused) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
