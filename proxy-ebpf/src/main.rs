//! The BPF object: eight programs, around the shared decision of the library part.
//!
//! Built for `bpfel-unknown-none` by the build script of `proxy-userspace`, which embeds it. On the host this is a
//! stub, so that `cargo build --workspace` works without a BPF toolchain.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod programs;

#[cfg(not(target_arch = "bpf"))]
fn main() {
    eprintln!("pgusher-ebpf is a BPF object, not a program; run `pgusher` instead");
    std::process::exit(2);
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
