//! Stage 1, intercept: the BPF programs, the listeners they redirect to, and the hand-over between the two.
//!
//! Owns everything attached to the kernel and detaches it when dropped. Must never guess: a connection whose entry
//! is not found has no original destination, and the next stage refuses it. Next stage: [`crate::identify`].

mod attached;
mod btf;
mod census;
mod cgroup;
mod clock;
mod coverage;
mod doors;
mod existing;
mod fast_path;
mod handover;
mod heartbeat;
mod hooks;
mod intake;
mod listener;
mod log;
mod namespace;
mod namespaces;
mod object;
mod pins;
mod porter;
mod tables;
mod unix;
mod wanted;
mod watched;

pub use attached::Attached;
pub use btf::{BtfError, KERNEL_BTF, kernel_offsets};
pub use cgroup::{Cgroup, CgroupError, Claim, root as cgroup_root};
pub use coverage::{Coverage, uncovered};
pub use doors::{Accepted, Ends};
pub use existing::{Existing, Holder, Outcome, Search, Settled, settle};
pub use fast_path::{
    Connections, FastPath, FastPathCounts, FastPathError, Joined, JoinedSocket, NoFastPath, Reach,
};
pub use handover::{Handover, HandoverError, MAX_ENTRY_AGE, Taken, sweep_forever};
pub use heartbeat::{Heartbeat, MIN_STALL_TIMEOUT, beat_forever};
pub use hooks::{HookError, Loaded, Terms};
pub use intake::Intake;
pub(crate) use listener::is_lack_of_ours;
pub use listener::{ListenAddress, try_to_listen};
pub use log::{HookLog, forward_log};
pub use namespace::Namespace;
pub use namespaces::{NamespaceCounts, Namespaces, OpenError, look_forever};
pub use pins::{Generation, PinError, PinFolder, abandoned};
pub(crate) use porter::apart_and_wait;
pub use porter::{ERRAND_NAME, PORTER_NAME, Porter};
pub use tables::{Counters, ListenerTable, OwnProcesses};
pub use unix::{Guise, UnixHookError};
pub use wanted::{WantedQueue, answer_forever};
pub(crate) use watched::watch;
