//! Running a guest: QEMU, its console, and a deadline.
//!
//! Every number here was found by measurement: see docs/decisions/0050-vm-harness.md.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::{display, find_program};
use crate::{interrupt, workspace};

const QEMU: &str = "qemu-system-x86_64";
/// What a guest has: its file system is in it, and 400 MiB of that are taken before anything runs.
const MEMORY_MIB: u32 = 3072;
/// The longest that a guest may run what every guest does.
const DEADLINE: Duration = Duration::from_secs(40 * 60);
/// The longest that one may run what somebody has chosen.
const CHOSEN_DEADLINE: Duration = Duration::from_secs(2 * 60 * 60);
/// The longest that a guest may say nothing: more than a test takes on a busy machine.
const SILENCE: Duration = Duration::from_secs(10 * 60);
/// What a guest that only shows that it boots may take: software needs a tenth of it.
const PROBE: Duration = Duration::from_secs(30);
/// How often an interruption is looked for.
const INTERVAL: Duration = Duration::from_millis(500);
/// QEMU's exit status when the guest wrote zero to its exit device. A panic ends with 0, other errors are even or above.
const SUCCESS: i32 = 1;

/// What runs a guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accelerator {
    /// The processor itself.
    Kvm,
    /// QEMU, translating.
    Tcg,
}

impl Accelerator {
    /// Finds out what works here: KVM is believed when a guest came up with it.
    ///
    /// # Errors
    ///
    /// When QEMU is missing.
    pub(super) fn probe(guest: &Guest<'_>) -> Result<Self> {
        if File::options().write(true).open("/dev/kvm").is_err() {
            return Ok(Self::Tcg);
        }
        // The answer of a machine is asked for once: where KVM does not work, it is waited for.
        let answer = workspace::virtual_machines().join("accelerator");
        let known = fs::read_to_string(&answer).unwrap_or_default();
        if let Some(known) = [Self::Kvm, Self::Tcg]
            .into_iter()
            .find(|it| it.name() == known)
        {
            return Ok(known);
        }
        eprintln!("Looking whether KVM works here (half a minute if it does not):");
        let end = guest.boot(Self::Kvm, &["pgusher.probe"], PROBE, |_| ())?;
        let found = match end.objection() {
            None => Self::Kvm,
            Some(_) => Self::Tcg,
        };
        fs::write(answer, found.name())?;
        Ok(found)
    }

    /// What a person and QEMU call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            // Threads of TCG's own corrupt a guest that patches its code, which attaching eBPF does.
            Self::Tcg => ["-accel", "tcg,thread=single", "-cpu", "max"],
        }
    }
}

/// How a guest ended.
#[derive(Debug)]
pub(super) enum End {
    /// By itself.
    Exited(ExitStatus),
    /// It was killed: it ran too long.
    TooLong(Duration),
    /// It was killed: it said nothing for too long.
    Silent(Duration),
}

impl End {
    /// Returns why this is no success, or `None` if it is one.
    pub(super) fn objection(&self) -> Option<String> {
        match self {
            Self::Exited(status) if status.code() == Some(SUCCESS) => None,
            Self::Exited(status) if status.code() == Some(0) => {
                Some("the guest's kernel panicked, or it powered off without a verdict".to_owned())
            }
            Self::Exited(status) if status.code() == Some(SUCCESS | 2) => {
                Some("the guest says that a test failed".to_owned())
            }
            Self::Exited(status) => Some(format!("QEMU ended with {status}")),
            Self::TooLong(limit) => Some(format!("killed: it ran for {} s", limit.as_secs())),
            Self::Silent(limit) => {
                Some(format!("killed: it said nothing for {} s", limit.as_secs()))
            }
        }
    }
}

/// A kernel and its file system.
pub(super) struct Guest<'a> {
    pub(super) kernel: &'a Path,
    pub(super) initramfs: &'a Path,
    /// Whether somebody has chosen what it runs.
    pub(super) is_chosen: bool,
}

impl Guest<'_> {
    /// Runs the guest to its end, with its console in a log; `line` sees each line of it.
    ///
    /// # Errors
    ///
    /// When QEMU is missing or cannot be started, or this command is interrupted.
    pub(super) fn run(
        &self,
        accelerator: Accelerator,
        log: &Path,
        mut line: impl FnMut(&str),
    ) -> Result<End> {
        let mut file =
            File::create(log).with_context(|| format!("cannot make {}", log.display()))?;
        let mut written = Ok(());
        let deadline = if self.is_chosen {
            CHOSEN_DEADLINE
        } else {
            DEADLINE
        };
        let end = self.boot(accelerator, &[], deadline, |text| {
            if written.is_ok() {
                written = writeln!(file, "{text}");
            }
            line(text);
        })?;
        written.with_context(|| format!("cannot write {}", log.display()))?;
        Ok(end)
    }

    /// Runs the guest with this terminal as its console.
    ///
    /// # Errors
    ///
    /// As [`Guest::run`].
    pub(super) fn attend(&self, accelerator: Accelerator) -> Result<()> {
        let mut command = self.command(accelerator, &["pgusher.shell"])?;
        // Ctrl-C belongs to the guest's shell.
        command.args([
            "-chardev",
            "stdio,id=console,signal=off",
            "-serial",
            "chardev:console",
        ]);
        command
            .status()
            .with_context(|| format!("cannot start {QEMU}"))?;
        Ok(())
    }

    fn boot(
        &self,
        accelerator: Accelerator,
        words: &[&str],
        limit: Duration,
        mut line: impl FnMut(&str),
    ) -> Result<End> {
        let mut command = self.command(accelerator, words)?;
        command
            .args(["-serial", "stdio"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        if limit == PROBE {
            // What QEMU says of a KVM that does not work is long and of no use.
            command.stderr(Stdio::null());
        }
        let child = command
            .spawn()
            .with_context(|| format!("cannot start `{}`", display(&command)))?;
        let mut running = Running(child);
        let lines = running.lines()?;
        let begun = Instant::now();
        let mut heard = begun;
        loop {
            match lines.recv_timeout(INTERVAL) {
                Ok(text) => {
                    heard = Instant::now();
                    line(&text);
                }
                Err(RecvTimeoutError::Timeout) => interrupt::check()?,
                Err(RecvTimeoutError::Disconnected) => return Ok(End::Exited(running.0.wait()?)),
            }
            if begun.elapsed() > limit {
                return Ok(End::TooLong(limit));
            }
            if heard.elapsed() > SILENCE {
                return Ok(End::Silent(SILENCE));
            }
        }
    }

    fn command(&self, accelerator: Accelerator, words: &[&str]) -> Result<Command> {
        let mut command = Command::new(qemu()?);
        let boot = ["console=ttyS0", "quiet", "panic=-1"];
        let line: Vec<&str> = boot.iter().chain(words).copied().collect();
        command
            .args(accelerator.arguments())
            .args([
                "-machine",
                "q35",
                "-smp",
                "1",
                "-m",
                &MEMORY_MIB.to_string(),
            ])
            .args([
                "-nodefaults",
                "-no-user-config",
                "-no-reboot",
                "-display",
                "none",
            ])
            .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x4"])
            .arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.initramfs)
            .args(["-append", &line.join(" ")]);
        Ok(command)
    }
}

fn qemu() -> Result<PathBuf> {
    let Some(program) = find_program(QEMU) else {
        bail!("{QEMU} is missing: install Debian's qemu-system-x86");
    };
    Ok(program)
}

/// A QEMU that is killed when nobody waits for it any more.
struct Running(Child);

impl Running {
    /// What it writes, line by line, read by a thread of its own until QEMU is gone.
    fn lines(&mut self) -> Result<Receiver<String>> {
        let output = self.0.stdout.take().context("the console is a pipe")?;
        let (sender, receiver) = channel();
        thread::spawn(move || {
            // What is no text is shown all the same; the console ends with QEMU.
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let text = String::from_utf8_lossy(&line);
                if sender.send(text.trim_end_matches('\r').to_owned()).is_err() {
                    break;
                }
            }
        });
        Ok(receiver)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended is what this wants.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn only_the_guests_own_word_is_a_success() {
        let exited = |code: i32| End::Exited(ExitStatus::from_raw(code << 8));
        assert_eq!(exited(1).objection(), None);
        let cases = [
            (exited(0), "panicked"),
            (exited(3), "a test failed"),
            (exited(2), "exit status: 2"),
            (End::TooLong(DEADLINE), "ran for 2400 s"),
            (End::Silent(SILENCE), "said nothing for 600 s"),
        ];
        for (end, expected) in cases {
            let objection = end.objection().unwrap();
            assert!(objection.contains(expected), "{objection}");
        }
    }
}
