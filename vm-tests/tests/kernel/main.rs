//! What is about kernels: what each of them gives pgusher, who else may be on its hooks, and which are refused.
//!
//! Run inside virtual machines by `cargo xtask vm-test`; which of the two modules depends on the kernel.

mod supported;
mod too_old;
