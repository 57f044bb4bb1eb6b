//! The hooks: read the context, decide, write the maps, one match from outcome to return value.
#![expect(
    unsafe_code,
    reason = "BPF contexts and map values are raw pointers the verifier checks"
)]

mod connect;
mod context;
mod getpeername;
mod maps;
mod origin;
mod serving;
mod sock_ops;
mod standing;
mod unix;

/// Helpers such as `bpf_probe_read_kernel` are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
