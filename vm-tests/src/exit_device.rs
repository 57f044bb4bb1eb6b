//! QEMU's `isa-debug-exit`: what is written to its port ends the machine and becomes QEMU's exit status.

#![expect(
    unsafe_code,
    reason = "a port is written with an instruction that only assembly has, after asking the kernel for leave"
)]

use std::io;

/// Where `cargo xtask vm-test` puts the device.
const PORT: u16 = 0xf4;

/// Ends the machine. QEMU exits with 1 when all is well and with 3 otherwise: twice what is written, plus one.
///
/// # Errors
/// When the kernel gives no leave, as anywhere but in the first process of a guest; with the device missing, the
/// caller is still there and gets `Ok`.
#[cfg(target_arch = "x86_64")]
pub fn leave(is_success: bool) -> io::Result<()> {
    // SAFETY: asks for one port of this process's own; nothing in memory is touched.
    if unsafe { libc::ioperm(PORT.into(), 4, 1) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let value = u32::from(!is_success);
    // SAFETY: the port was granted above; the instruction touches neither memory nor the stack.
    unsafe {
        std::arch::asm!("out dx, eax", in("dx") PORT, in("eax") value, options(nomem, nostack, preserves_flags));
    }
    Ok(())
}

/// There is no such device on other machines than a PC.
///
/// # Errors
/// Always.
#[cfg(not(target_arch = "x86_64"))]
pub fn leave(_is_success: bool) -> io::Result<()> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}
