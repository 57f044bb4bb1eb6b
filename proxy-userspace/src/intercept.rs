//! Stage 1, intercept: the BPF programs, the listeners they redirect to, and the hand-over between the two.
//!
//! Owns everything attached to the kernel and detaches it when dropped. Must never guess: a connection whose entry
//! is not found has no original destination, and the next stage refuses it. Next stage: [`crate::identify`].

mod btf;
mod cgroup;
mod coverage;
mod handover;
mod hooks;
mod listener;
mod log;
mod object;

pub use btf::{BtfError, KERNEL_BTF, kernel_offsets};
pub use cgroup::{Cgroup, CgroupError, Claim, root as cgroup_root};
pub use coverage::{Coverage, uncovered};
pub use handover::{Handover, HandoverError, MAX_ENTRY_AGE, sweep_forever};
pub use hooks::{Attached, Counters, HookError, Loaded, Targets};
pub use listener::{Accepted, ListenAddress, Listeners};
pub use log::{HookLog, forward_log};
