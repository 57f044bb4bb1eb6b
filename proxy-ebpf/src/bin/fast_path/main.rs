//! The BPF object of the fast path: a program that decides about each message of the sockets that take part, and two run
//! by userspace, one that joins sockets and one that tells whether a peer has read what was redirected to it.
//!
//! An object of its own, because not every kernel has the maps it needs, and because nothing of it is loaded where it is
//! switched off.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    target_arch = "bpf",
    expect(
        unsafe_code,
        reason = "BPF contexts, sockets and map values are raw pointers the verifier checks"
    )
)]

#[cfg(target_arch = "bpf")]
mod ask;
#[cfg(target_arch = "bpf")]
mod join;
#[cfg(target_arch = "bpf")]
mod send;
#[cfg(target_arch = "bpf")]
mod sockets;

/// Helpers such as `bpf_probe_read_kernel` are for GPL-compatible programs only.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(target_arch = "bpf"))]
fn main() {
    eprintln!("pgusher-fast-path is a BPF object, not a program; run `pgusher` instead");
    std::process::exit(2);
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
