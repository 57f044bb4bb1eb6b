//! A process that cannot change under our hands: held by a pidfd, known by its start time.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use super::held::Held;

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

    /// Sends it SIGHUP, if it still runs.
    ///
    /// # Errors
    /// The operating system's reason.
    pub fn hang_up(self) -> io::Result<()> {
        if let Some(pidfd) = self.open()? {
            pidfd_send_signal(pidfd, Signal::HUP)?;
        }
        Ok(())
    }

    /// A descriptor of this very process, that can be read once it has ended; none if it has.
    ///
    /// # Errors
    /// The operating system's reason.
    pub fn open(self) -> io::Result<Option<OwnedFd>> {
        let number = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let Some(number) = number else {
            return Ok(None);
        };
        let pidfd = match pidfd_open(number, PidfdFlags::NONBLOCK) {
            Err(Errno::SRCH) => return Ok(None),
            opened => opened?,
        };
        // The number was its own when it was opened, if it still is.
        Ok(self.is_running().then_some(pidfd))
    }

    /// Whether this very process still runs.
    pub fn is_running(self) -> bool {
        Pinned::open(self.pid)
            .is_some_and(|now| now.started_at_ticks() == self.started_at_ticks && now.is_alive())
    }
}

/// What ties us to a process: while it can be read through this, its number is its own.
#[derive(Debug)]
pub(super) struct Hold {
    pidfd: OwnedFd,
    /// Its /proc/PID/stat: the kernel ties it to the process and never to the number.
    file: File,
    pid: u32,
    /// When we had both.
    since: Instant,
}

impl Hold {
    /// Takes hold of the process that has this number now.
    ///
    /// # Errors
    /// There is none, or it has exited; or we lack what it takes.
    pub(super) fn open(pid: u32) -> io::Result<Self> {
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let pidfd = pidfd_open(number.ok_or_else(gone)?, PidfdFlags::empty())?;
        let file = File::open(format!("/proc/{pid}/stat"))?;
        let hold = Self {
            pidfd,
            file,
            pid,
            since: Instant::now(),
        };
        // If it lives, the number was not another's when the file was opened: both are of one process.
        hold.is_alive().then_some(hold).ok_or_else(gone)
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    fn is_alive(&self) -> bool {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        matches!(poll(&mut fds, Some(&now)), Ok(0))
    }
}

/// A process that is held, and what its /proc/PID/stat said when it was pinned.
#[derive(Debug)]
pub(super) struct Pinned {
    hold: Arc<Hold>,
    stat: Stat,
    /// When we began to read it.
    read_at: Instant,
}

impl Pinned {
    /// Pins the process that has this number now. What is read of it counts once [`Pinned::is_alive`] says so
    /// afterwards: a number is not given away while its process lives.
    pub(super) fn open(pid: u32) -> Option<Self> {
        Self::through(Arc::new(Hold::open(pid).ok()?))
    }

    /// Pins the process that is held, if it has not been reaped.
    pub(super) fn through(hold: Arc<Hold>) -> Option<Self> {
        let read_at = Instant::now();
        let stat = Stat::read(&hold.file)?;
        Some(Self {
            hold,
            stat,
            read_at,
        })
    }

    /// Its parent, pinned as well, if that is one and still is, or was when this one was pinned.
    pub(super) fn parent(&self, held: &Held) -> Option<Self> {
        let number = self.stat.parent()?;
        let parent = held.pin(number)?;
        let is_parent = parent.had_its_number_at(self.read_at) || self.is_child_of(&parent);
        let is_older = parent.stat.started_at_ticks <= self.stat.started_at_ticks;
        (is_parent && is_older).then_some(parent)
    }

    /// Whether it was held at that time: it has been read since, so the number was its own throughout.
    fn had_its_number_at(&self, time: Instant) -> bool {
        self.hold.since < time && time < self.read_at
    }

    /// Reads its parent's number anew: that one may have exited before it was held, and its number be another's.
    fn is_child_of(&self, parent: &Self) -> bool {
        let now = Stat::read(&self.hold.file);
        now.and_then(|now| now.parent()) == Some(parent.pid())
            && parent.is_alive()
            && self.is_alive()
    }

    pub(super) fn is_alive(&self) -> bool {
        self.hold.is_alive()
    }

    #[cfg(test)]
    pub(super) fn shares_hold_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.hold, &other.hold)
    }

    pub(super) fn pid(&self) -> u32 {
        self.hold.pid
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
        let held = Held::default();
        assert_eq!(pinned.parent(&held).unwrap().pid(), std::process::id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!pinned.is_alive());
        assert_eq!(Stat::read(&pinned.hold.file), None);
        assert!(pinned.parent(&Held::default()).is_none());
    }

    /// A process that says that its parent has this number, although it has another.
    fn misled(parent: u32) -> Pinned {
        let mut own = Pinned::open(std::process::id()).unwrap();
        own.stat.parent = parent;
        own
    }

    #[test]
    fn a_number_that_may_have_been_given_away_before_it_was_held_is_asked_for_again() {
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let (younger, first) = (child.id(), std::process::id());
        // Held only after it was read who the parent is: it could be another by then.
        assert!(misled(first).parent(&Held::default()).is_none());
        // Held before: then nobody else had the number when it was read.
        let held = Held::default();
        held.pin(first).unwrap();
        assert_eq!(misled(first).parent(&held).unwrap().pid(), first);
        // But no parent is younger than its child.
        held.pin(younger).unwrap();
        let mut process = misled(younger);
        process.stat.started_at_ticks = 0;
        assert!(process.parent(&held).is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
