//! Tests that run inside virtual machines, on other kernels than this one.
//!
//! The programs and the harness that boots the kernels belong together; until the harness is there this crate holds
//! nothing but its place in the workspace.
