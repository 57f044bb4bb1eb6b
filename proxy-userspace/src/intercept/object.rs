//! The BPF object, built by the build script from `proxy-ebpf` and embedded here.

/// The ELF object, aligned as its parser wants it.
pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/pgusher-ebpf"));
