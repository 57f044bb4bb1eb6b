//! What the kernel side and the userspace side of pgusher must agree on: the shapes of map keys and values, the
//! names of maps and programs, and the one decision whether a connect is redirected.
//!
//! The crate has no dependencies and no `std`, so that the same code is compiled into the BPF objects, linked into
//! the binary, and unit-tested on the host; but for `kernel`, which the programs alone have.
//!
//! **Invariant:** every type that crosses the kernel boundary is `repr(C)` without implicit padding, keeps its
//! fields private, and owns its byte order; `layout` asserts the sizes.

#![no_std]

pub mod decision;
pub mod endpoint;
pub mod fast_path;
pub mod handover;
pub mod interception;
#[cfg(target_arch = "bpf")]
pub mod kernel;
mod layout;
pub mod names;
pub mod offsets;
pub mod origin;
#[cfg(feature = "user")]
mod pod;
pub mod refusals;
pub mod serving;
pub mod standing;
pub mod unix;
pub mod verdict;
pub mod wanted;
