//! A process that cannot change under our hands: held by a pidfd, known by its start time.

use procfs::process::{Process, Stat};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

/// A process as nobody else can be called: its number, in our pid namespace, and when it was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// The number, which is used again.
    pub pid: u32,
    /// In clock ticks since boot, as /proc/PID/stat has it; 0 where that cannot be read.
    pub started_at_ticks: u64,
}

impl ProcessId {
    /// Our own.
    pub fn own() -> Self {
        let pid = std::process::id();
        Self {
            pid,
            started_at_ticks: Pinned::open(pid).map_or(0, |own| own.started_at_ticks()),
        }
    }

    /// Whether this very process still runs.
    pub fn is_running(self) -> bool {
        Pinned::open(self.pid)
            .is_some_and(|now| now.started_at_ticks() == self.started_at_ticks && now.is_alive())
    }
}

/// A process, and what its /proc/PID/stat said when it was opened.
#[derive(Debug)]
pub(super) struct Pinned {
    pidfd: OwnedFd,
    process: Process,
    pid: u32,
    stat: Stat,
}

impl Pinned {
    /// Pins the process that has this number now. What is read of it counts once [`Pinned::is_alive`] says so
    /// afterwards: a number is not given away while its process lives.
    pub(super) fn open(pid: u32) -> Option<Self> {
        let number = i32::try_from(pid).ok()?;
        let pidfd = pidfd_open(Pid::from_raw(number)?, PidfdFlags::empty()).ok()?;
        let process = Process::new(number).ok()?;
        let stat = process.stat().ok()?;
        Some(Self {
            pidfd,
            process,
            pid,
            stat,
        })
    }

    /// Its parent, pinned as well, if that is one and still is.
    pub(super) fn parent(&self) -> Option<Self> {
        let number = parent_number(&self.stat)?;
        let parent = Self::open(number)?;
        // Read anew: it may have exited before it was pinned, and its number be another's.
        let now = self.process.stat().ok()?;
        let is_parent = parent_number(&now) == Some(number)
            && parent.is_alive()
            && self.is_alive()
            && parent.stat.starttime <= self.stat.starttime;
        is_parent.then_some(parent)
    }

    pub(super) fn is_alive(&self) -> bool {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        matches!(poll(&mut fds, Some(&now)), Ok(0))
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn comm(&self) -> &str {
        &self.stat.comm
    }

    pub(super) fn started_at_ticks(&self) -> u64 {
        self.stat.starttime
    }
}

/// The number of a process's parent; what the kernel itself started has none.
fn parent_number(stat: &Stat) -> Option<u32> {
    u32::try_from(stat.ppid).ok().filter(|parent| *parent != 0)
}
