//! The BPF objects, built by the build script from `proxy-ebpf` and embedded here.

/// The hooks, as an ELF object aligned as its parser wants it.
pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/pgusher-ebpf"));

/// The fast path, likewise.
pub(super) static FAST_PATH_OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/pgusher-fast-path"));
