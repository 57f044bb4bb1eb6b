//! A server process that is ours: started, waited for, and stopped for certain.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

use crate::interrupt;

/// How long a server may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long a server may take to stop before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Lines of its log that an error shows.
const LOG_LINES_SHOWN: usize = 15;

/// A running server; dropping it stops it.
pub(super) struct Service {
    name: &'static str,
    child: Child,
    log: PathBuf,
    stop_signal: Signal,
}

impl Service {
    /// Starts the command with its output in a log file.
    ///
    /// It gets a process group of its own, so that Ctrl-C does not stop it ahead of its clients, and should be started through
    /// [`die_with_parent`].
    ///
    /// # Errors
    ///
    /// When the command or the log file cannot be started or made.
    pub(super) fn start(
        name: &'static str,
        mut command: Command,
        log: PathBuf,
        stop_signal: Signal,
    ) -> Result<Self> {
        let output =
            File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("cannot share the log file")?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self {
            name,
            child,
            log,
            stop_signal,
        })
    }

    /// Waits until `answers` is true.
    ///
    /// # Errors
    ///
    /// When the server ends instead, or takes too long; the text has the end of its log.
    pub(super) fn wait_until(&mut self, mut answers: impl FnMut() -> bool) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while !answers() {
            interrupt::check()?;
            if let Some(status) = self.child.try_wait().context("cannot wait for a child")? {
                bail!(
                    "{} ended at once ({status}):\n{}",
                    self.name,
                    self.end_of_log()
                );
            }
            if Instant::now() > deadline {
                let seconds = START_LIMIT.as_secs();
                bail!(
                    "{} does not answer after {seconds} s:\n{}",
                    self.name,
                    self.end_of_log()
                );
            }
            thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    /// Returns the processor time that its threads have used, in seconds.
    ///
    /// # Errors
    ///
    /// When it is gone, or the kernel does not tell.
    pub(super) fn cpu_seconds(&self) -> Result<f64> {
        // To the nanosecond, where /proc counts hundredths of a second.
        let clock = clock_getcpuclockid(self.pid()?)
            .and_then(clock_gettime)
            .with_context(|| format!("cannot read the processor time of {}", self.name))?;
        Ok(Duration::from(clock).as_secs_f64())
    }

    /// Returns the memory of its own that is in use, in KiB.
    ///
    /// # Errors
    ///
    /// When it is gone, or the kernel does not tell.
    pub(super) fn resident_kib(&self) -> Result<u32> {
        let path = format!("/proc/{}/status", self.child.id());
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        resident(&text).with_context(|| format!("{path} has no VmRSS"))
    }

    /// Asks the server to stop, and waits; kills it if it takes too long.
    ///
    /// # Errors
    ///
    /// When it ended otherwise than successfully, or had to be killed.
    pub(super) fn stop(&mut self) -> Result<()> {
        if self
            .child
            .try_wait()
            .context("cannot wait for a child")?
            .is_none()
        {
            self.signal(self.stop_signal)?;
        }
        let status = self.wait_for_end()?;
        if !status.success() {
            bail!(
                "{} did not end well ({status}):\n{}",
                self.name,
                self.end_of_log()
            );
        }
        Ok(())
    }

    fn wait_for_end(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + STOP_LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().context("cannot wait for a child")? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                self.child.kill().context("cannot kill a child")?;
                return self.child.wait().context("cannot wait for a child");
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid()?, signal).with_context(|| format!("cannot stop {}", self.name))
    }

    fn pid(&self) -> Result<Pid> {
        let pid = i32::try_from(self.child.id()).context("no process id")?;
        Ok(Pid::from_raw(pid))
    }

    /// Returns what became of it, if it has ended, and the last lines that it wrote.
    pub(super) fn last_words(&self) -> String {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let state = self.pid().and_then(|pid| Ok(waitid(Id::Pid(pid), flags)?));
        let log = self.end_of_log();
        match state {
            Ok(WaitStatus::StillAlive) => log,
            Ok(end) => format!("{log}\n{} has ended: {end:?}", self.name),
            Err(error) => format!("{log}\n{} cannot be asked: {error:#}", self.name),
        }
    }

    fn end_of_log(&self) -> String {
        last_lines(
            &fs::read_to_string(&self.log).unwrap_or_default(),
            LOG_LINES_SHOWN,
        )
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        if let Err(error) = self.stop() {
            eprintln!("warning: {error:#}");
        }
    }
}

/// Returns a command to which the program and its arguments are to be added: it ends when this process is killed.
pub(super) fn die_with_parent(signal: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", signal]);
    command
}

/// Reads `VmRSS` (proc_pid_status(5)).
fn resident(status: &str) -> Option<u32> {
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    value.trim().strip_suffix(" kB")?.parse().ok()
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.len().saturating_sub(count);
    lines.get(first..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, log: &std::path::Path) -> Service {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Service::start("the shell", command, log.join("log"), Signal::SIGTERM).unwrap()
    }

    #[test]
    fn a_service_that_ends_before_it_answers_shows_its_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let mut service = shell("echo port taken; exit 4", folder.path());
        let error = service.wait_until(|| false).unwrap_err().to_string();
        assert!(error.contains("port taken"), "{error}");
        assert!(error.contains("exit status: 4"), "{error}");
    }

    #[test]
    fn the_last_words_say_what_became_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let service = shell("echo alas; kill -9 $$", folder.path());
        let mut words = service.last_words();
        while !words.contains("has ended") {
            thread::yield_now();
            words = service.last_words();
        }
        assert!(
            words.starts_with("alas") && words.contains("SIGKILL"),
            "{words}"
        );
    }

    #[test]
    fn dropping_a_service_stops_it() {
        let folder = tempfile::tempdir().unwrap();
        let started = folder.path().join("started");
        let script = format!(
            "trap 'rm {0}; exit 0' TERM; : > {0}; while :; do :; done",
            started.display()
        );
        let mut service = shell(&script, folder.path());
        service.wait_until(|| started.exists()).unwrap();
        drop(service);
        assert!(!started.exists());
    }

    #[test]
    fn the_processor_time_is_that_of_the_service_and_grows_while_it_works() {
        let folder = tempfile::tempdir().unwrap();
        let started = folder.path().join("started");
        let script = format!(
            ": > {}; trap 'exit 0' TERM; while :; do :; done",
            started.display()
        );
        let mut service = shell(&script, folder.path());
        service.wait_until(|| started.exists()).unwrap();
        let before = service.cpu_seconds().unwrap();
        assert!(before > 0.0, "it has made a file");
        while service.cpu_seconds().unwrap() <= before {
            thread::yield_now();
        }
    }

    #[test]
    fn the_memory_is_the_resident_one() {
        let status = "VmHWM:\t   9000 kB\nVmRSS:\t   5124 kB\nRssAnon:\t 100 kB\n";
        assert_eq!(resident(status), Some(5_124));
        assert_eq!(resident("Name:\ta kernel thread\n"), None);
    }

    #[test]
    fn only_the_end_of_a_long_log_is_shown() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc");
        assert_eq!(last_lines("a\n", 2), "a");
        assert_eq!(last_lines("", 2), "");
    }
}
