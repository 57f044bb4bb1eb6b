//! Tests that run inside virtual machines, on other kernels than this one.
//!
//! `cargo xtask vm-test` boots a kernel with a file system in memory that holds this machine's programs, PostgreSQL and
//! the tests. Its first process is `src/bin/guest.rs`. The tests about kernels are in `tests/kernel/`; guests also run
//! those of `tests/suite` whose subject a kernel decides.
//!
//! | module | owns |
//! |---|---|
//! | [`machine`] | bringing up what a distribution would: mounts, modules, loopback; and the guest's environment |
//! | [`programs`] | running the programs of the plan as children of the first process |
//! | [`inventory`] | what tests could leave behind |
//! | [`exit_device`] | the last word: whether all is well |
//! | [`facts`] | what a test found out about the kernel, on its way into docs/kernels.md |
//! | [`foreign`] | a program of somebody else's on a hook of ours |

pub mod exit_device;
pub mod facts;
pub mod foreign;
pub mod inventory;
pub mod machine;
pub mod programs;
