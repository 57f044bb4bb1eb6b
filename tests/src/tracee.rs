//! A thread of another process that makes system calls for a test: the only way to learn from outside what a running
//! program may do.
//!
//! The thread is stopped where it waits in the kernel. The instruction that brought it there is executed again with other
//! registers; then it goes back to waiting as if nothing had been.

use anyhow::{Context, Result, bail, ensure};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// The length of the instruction `syscall`.
const INSTRUCTION_BYTES: u64 = 2;
/// What `orig_rax` holds outside of system calls: no call is restarted.
const NO_CALL: u64 = u64::MAX;

/// A stopped thread; it goes on when this is dropped.
#[derive(Debug)]
pub struct Tracee {
    thread: Pid,
    /// As it was found.
    registers: libc::user_regs_struct,
}

impl Tracee {
    /// Stops a thread that waits in the kernel.
    ///
    /// # Errors
    /// When it cannot be traced, or does not wait in a system call.
    pub fn stop(thread: u32) -> Result<Self> {
        let thread = Pid::from_raw(i32::try_from(thread)?);
        ptrace::attach(thread).context("cannot trace the thread")?;
        wait_for_stop(thread)?;
        let registers = ptrace::getregs(thread)?;
        let tracee = Self { thread, registers };
        ensure!(
            registers.orig_rax != NO_CALL,
            "the thread was not waiting in a system call"
        );
        Ok(tracee)
    }

    /// Has it make a system call; returns what the kernel answers, errors as negative numbers.
    ///
    /// # Errors
    /// When the thread ends, or is stopped by something else.
    pub fn call(&self, number: libc::c_long, arguments: [u64; 3]) -> Result<i64> {
        let [first, second, third] = arguments;
        let asking = libc::user_regs_struct {
            rax: u64::try_from(number)?,
            orig_rax: NO_CALL,
            rdi: first,
            rsi: second,
            rdx: third,
            r10: 0,
            r8: 0,
            r9: 0,
            rip: self.registers.rip - INSTRUCTION_BYTES,
            ..self.registers
        };
        ptrace::setregs(self.thread, asking)?;
        ptrace::step(self.thread, None)?;
        wait_for_stop(self.thread)?;
        let answer = ptrace::getregs(self.thread)?.rax;
        ptrace::setregs(self.thread, self.registers)?;
        Ok(answer.cast_signed())
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        // A thread that is gone needs nothing any more.
        let _ = ptrace::setregs(self.thread, self.registers);
        let _ = ptrace::detach(self.thread, None);
    }
}

fn wait_for_stop(thread: Pid) -> Result<()> {
    match waitpid(thread, Some(WaitPidFlag::__WALL))? {
        WaitStatus::Stopped(..) => Ok(()),
        other => bail!("the thread has not stopped: {other:?}"),
    }
}
