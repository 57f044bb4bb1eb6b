//! A process that cannot change under our hands: held by a pidfd, known by its start time.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

/// Room for the line: a name of 64 bytes at most, and some fifty numbers of up to 20 digits.
const MAX_STAT_BYTES: usize = 2048;

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
    /// Its /proc/PID/stat: the kernel ties it to the process and never to the number.
    file: File,
    pid: u32,
    stat: Stat,
}

impl Pinned {
    /// Pins the process that has this number now. What is read of it counts once [`Pinned::is_alive`] says so
    /// afterwards: a number is not given away while its process lives.
    pub(super) fn open(pid: u32) -> Option<Self> {
        let number = i32::try_from(pid).ok()?;
        let pidfd = pidfd_open(Pid::from_raw(number)?, PidfdFlags::empty()).ok()?;
        let file = File::open(format!("/proc/{pid}/stat")).ok()?;
        let stat = Stat::read(&file)?;
        Some(Self {
            pidfd,
            file,
            pid,
            stat,
        })
    }

    /// Its parent, pinned as well, if that is one and still is.
    pub(super) fn parent(&self) -> Option<Self> {
        let number = self.stat.parent()?;
        let parent = Self::open(number)?;
        // Read anew: it may have exited before it was pinned, and its number be another's.
        let now = Stat::read(&self.file)?;
        let is_parent = now.parent() == Some(number)
            && parent.is_alive()
            && self.is_alive()
            && parent.stat.started_at_ticks <= self.stat.started_at_ticks;
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

    pub(super) fn comm(&self) -> &[u8] {
        &self.stat.comm
    }

    pub(super) fn started_at_ticks(&self) -> u64 {
        self.stat.started_at_ticks
    }
}

/// What counts of /proc/PID/stat (proc_pid_stat(5)).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    comm: Vec<u8>,
    /// 0 of what the kernel itself started.
    parent: u32,
    started_at_ticks: u64,
}

impl Stat {
    /// Reads it as it is now: the kernel writes the line anew for every read from the start.
    fn read(file: &File) -> Option<Self> {
        let mut line = [0; MAX_STAT_BYTES];
        let read = file.read_at(&mut line, 0).ok()?;
        Self::parse(line.get(..read)?)
    }

    /// The name is whatever the process likes, brackets among it; behind the last one come numbers alone.
    fn parse(line: &[u8]) -> Option<Self> {
        let begin = line.iter().position(|byte| *byte == b'(')?;
        let end = line.iter().rposition(|byte| *byte == b')')?;
        let comm = line.get(begin + 1..end)?.to_vec();
        let numbers = std::str::from_utf8(line.get(end + 1..)?).ok()?;
        let mut numbers = numbers.split_ascii_whitespace();
        // The third field is the state, the fourth the parent, the 22nd when it started.
        let parent = numbers.nth(1)?.parse().ok()?;
        let started_at_ticks = numbers.nth(17)?.parse().ok()?;
        Some(Self {
            comm,
            parent,
            started_at_ticks,
        })
    }

    /// The number of the parent, if there is one.
    fn parent(&self) -> Option<u32> {
        Some(self.parent).filter(|parent| *parent != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_numbers_in_it_pretends_nothing() {
        let line =
            b"7 (x) S 1 (1) \xff) R 42 7 7 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 98765 1 2\n";
        let expected = Stat {
            comm: b"x) S 1 (1) \xff".to_vec(),
            parent: 42,
            started_at_ticks: 98765,
        };
        assert_eq!(Stat::parse(line), Some(expected));
    }

    #[test]
    fn a_line_without_all_that_counts_is_none() {
        for line in ["", "7 (x", "7 (x)", "7 x) (R 1", "7 (x) R 42 7 7 0 -1 4"] {
            assert_eq!(Stat::parse(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn what_is_read_again_is_read_anew() {
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pinned = Pinned::open(child.id()).unwrap();
        assert_eq!(pinned.parent().unwrap().pid(), std::process::id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!pinned.is_alive());
        assert_eq!(Stat::read(&pinned.file), None);
        assert!(pinned.parent().is_none());
    }
}
