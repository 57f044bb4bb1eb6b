//! Running programs: to their end with everything they wrote, or in the background while a test plays.
//!
//! Output goes to unnamed files, not pipes: no program ever blocks because a test does not read.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::condition::{Seen, wait_until, wait_until_within};

/// Longest a client program may run: bulk transfers in an emulated guest on a busy machine included.
const PROGRAM_DEADLINE: Duration = Duration::from_secs(540);

/// What a program left behind.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output; bytes that are no UTF-8 are replaced.
    pub stdout: String,
    /// Standard error; bytes that are no UTF-8 are replaced.
    pub stderr: String,
}

impl Finished {
    /// Returns standard output without surrounding white space when the program succeeded.
    ///
    /// # Errors
    /// When it failed; the message holds everything it wrote.
    pub fn success(&self) -> Result<&str> {
        ensure!(self.status.success(), "program failed: {self:?}");
        Ok(self.stdout.trim())
    }

    /// Returns standard error when the program failed with an exit code.
    ///
    /// # Errors
    /// When it succeeded or a signal ended it.
    pub fn failure(&self) -> Result<&str> {
        ensure!(
            self.status.code().is_some_and(|code| code != 0),
            "program did not fail: {self:?}"
        );
        Ok(self.stderr.trim())
    }

    /// Returns the value of the line `key=value` of standard output.
    ///
    /// # Errors
    /// When there is no such line.
    pub fn value(&self, key: &str) -> Result<&str> {
        value_of(&self.stdout, key).with_context(|| format!("no line {key}=… in {self:?}"))
    }
}

/// A program in the background; killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    input: Option<ChildStdin>,
    stdout: File,
    stderr: File,
    description: String,
}

impl Running {
    /// Starts `command`; standard input is a pipe that [`Running::say`] writes to.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        let stdout = tempfile::tempfile()?;
        let stderr = tempfile::tempfile()?;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(stdout.try_clone()?)
            .stderr(stderr.try_clone()?)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let input = child.stdin.take();
        Ok(Self {
            child,
            input,
            stdout,
            stderr,
            description: format!("{command:?}"),
        })
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal; if it is to stop, waits until every thread has.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid())?);
        kill(pid, signal)
            .with_context(|| format!("cannot send {signal} to {}", self.description))?;
        if signal != Signal::SIGSTOP {
            return Ok(());
        }
        wait_until("every thread has stopped", || {
            let states = thread_states(self.pid())?;
            // Stopped, or in the kernel's hands and about to be.
            let is_over = states.chars().all(|state| matches!(state, 'T' | 'D'));
            Ok(Seen::when(is_over, || states.clone()))
        })
    }

    /// Writes a line to the program's standard input.
    ///
    /// # Errors
    /// When the program has closed it.
    pub fn say(&mut self, line: &str) -> Result<()> {
        let input = self
            .input
            .as_mut()
            .context("standard input is closed already")?;
        writeln!(input, "{line}")?;
        Ok(input.flush()?)
    }

    /// Everything written to standard output so far.
    ///
    /// # Errors
    /// When the output file cannot be read.
    pub fn stdout(&self) -> Result<String> {
        contents(&self.stdout)
    }

    /// Everything written to standard error so far.
    ///
    /// # Errors
    /// When the output file cannot be read.
    pub fn stderr(&self) -> Result<String> {
        contents(&self.stderr)
    }

    /// Waits until the program has written the line `key=value` and returns the value.
    ///
    /// # Errors
    /// When it ends or the deadline passes before.
    pub fn wait_for_value(&mut self, key: &str) -> Result<String> {
        wait_until_within(
            PROGRAM_DEADLINE,
            &format!("{} prints {key}=…", self.description),
            || {
                let ended = self.child.try_wait()?;
                let stdout = contents(&self.stdout)?;
                if let Some(value) = value_of(&stdout, key) {
                    return Ok(Seen::Holds(value.to_owned()));
                }
                let state = format!(
                    "ended: {ended:?}, stdout: {stdout}, stderr: {}",
                    contents(&self.stderr)?
                );
                ensure!(ended.is_none(), "no line {key}=…: {state}");
                Ok(Seen::NotYet(state))
            },
        )
    }

    /// Waits until a line of standard output is `line`, also from a child that outlives the program.
    ///
    /// # Errors
    /// When the deadline passes before.
    pub fn wait_for_line(&self, line: &str) -> Result<()> {
        wait_until_within(
            PROGRAM_DEADLINE,
            &format!("{} prints {line}", self.description),
            || {
                let stdout = contents(&self.stdout)?;
                Ok(Seen::when(
                    stdout.lines().any(|found| found == line),
                    || stdout.clone(),
                ))
            },
        )
    }

    /// Whether the program still runs.
    ///
    /// # Errors
    /// When the process cannot be asked.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Closes standard input and waits for the end.
    ///
    /// # Errors
    /// When the deadline passes before.
    pub fn finish(mut self) -> Result<Finished> {
        self.end()
    }

    /// [`Running::finish`] for owners that keep the value; asking again returns the same.
    ///
    /// # Errors
    /// As [`Running::finish`].
    pub fn end(&mut self) -> Result<Finished> {
        drop(self.input.take());
        let status = wait_until_within(
            PROGRAM_DEADLINE,
            &format!("{} ends", self.description),
            || {
                let status = self.child.try_wait()?;
                Ok(Seen::some_or(status, || "still running".to_owned()))
            },
        )?;
        Ok(Finished {
            status,
            stdout: self.stdout()?,
            stderr: self.stderr()?,
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A process that is gone already is what this wants.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `command` to its end.
///
/// # Errors
/// When it cannot be started or does not end in time; a failing exit status is not an error here.
pub fn run(command: &mut Command) -> Result<Finished> {
    Running::start(command)?.finish()
}

/// Whether a program was ended by `signal`.
#[must_use]
pub fn ended_by(finished: &Finished, signal: Signal) -> bool {
    finished.status.signal() == Some(signal as i32)
}

fn value_of<'text>(text: &'text str, key: &str) -> Option<&'text str> {
    text.lines()
        .find_map(|line| Some(line.strip_prefix(key)?.strip_prefix('=')?.trim_end()))
}

fn contents(file: &File) -> Result<String> {
    // A second description of the same file: the program's own write offset stays where it is.
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file));
    let mut reader = File::open(path)?;
    reader.seek(SeekFrom::Start(0))?;
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A letter for the state of each thread of a process, as proc(5) has them.
fn thread_states(pid: u32) -> Result<String> {
    let mut states = String::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = fs::read_to_string(thread?.path().join("stat"))?;
        let (_, behind_name) = stat.rsplit_once(')').context("a thread has a name")?;
        states.extend(behind_name.trim_start().chars().next());
    }
    Ok(states)
}
