//! A document's commands, one by one, as its reader would type them.
//!
//! Files are those whose name stands in a block's first line; what follows a command are lines of its output, or the
//! beginning of them. Paths, port and admin socket are this test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::bpf_fs;
use crate::cgroup::TestCgroup;
use crate::cluster::{Cluster, Version};
use crate::kernel;
use crate::pgusher::{Pgusher, arguments, binary, detach};
use crate::process::run;

/// A reader at the keyboard.
struct Reader {
    pgusher: Option<Pgusher>,
    cgroup: TestCgroup,
    cluster: &'static Cluster,
    directory: TempDir,
}

/// A fenced block.
pub struct Block<'a> {
    /// The word behind its fence.
    pub language: &'a str,
    /// What is in it.
    pub lines: Vec<&'a str>,
}

/// Follows a part of a document, from the line that begins with `begin` up to one that begins with `end`; returns how many
/// commands there were.
///
/// # Errors
/// The first command that does not do what the document says.
pub fn follow(document: &str, begin: &str, end: &str) -> Result<usize> {
    let documents = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let text = fs::read_to_string(documents.join(document))?;
    let begin = text.find(&format!("\n{begin}")).context("no beginning")?;
    let part = text.get(begin + 1..).unwrap_or_default();
    let end = part.find(&format!("\n{end}")).context("no end")?;
    let mut reader = Reader::sit_down()?;
    let mut commands = 0;
    for block in blocks(part.get(..end).unwrap_or_default()) {
        match block.language {
            "console" => commands += reader.type_in(&block.lines)?,
            "toml" | "cedar" => reader.edit(&block.lines)?,
            // For the service manager, and for a machine of one's own.
            "sh" => {}
            language => bail!("a block of {language}"),
        }
    }
    reader.get_up()?;
    Ok(commands)
}

/// The fenced blocks of a text.
pub fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let body = lines.by_ref().take_while(|line| *line != "```");
            blocks.push(Block {
                language,
                lines: body.collect(),
            });
        }
    }
    blocks
}

impl Reader {
    fn sit_down() -> Result<Self> {
        let directory = TempDir::new()?;
        for folder in ["etc", "log", "bin"] {
            fs::create_dir(directory.path().join(folder))?;
        }
        // So that `pgusher` is the one under test.
        std::os::unix::fs::symlink(binary()?, directory.path().join("bin/pgusher"))?;
        Ok(Self {
            pgusher: None,
            cgroup: TestCgroup::create()?,
            cluster: Cluster::shared(Version::V15)?,
            directory,
        })
    }

    /// A text with this test's own places in it.
    fn located(&self, text: &str) -> String {
        let at = |name: &str| self.directory.path().join(name).display().to_string();
        text.replace("/etc/pgusher", &at("etc"))
            .replace("/var/log/pgusher", &at("log"))
            .replace("5432", &self.cluster.port.to_string())
    }

    fn edit(&self, lines: &[&str]) -> Result<()> {
        let (first, body) = lines.split_first().context("an empty file")?;
        let name = first.trim_start_matches(['#', '/', ' ']);
        let path = PathBuf::from(self.located(&format!("/{name}")));
        fs::write(path, self.located(&body.join("\n")))?;
        Ok(())
    }

    /// Types every command and compares what comes; returns how many there were.
    fn type_in(&mut self, lines: &[&str]) -> Result<usize> {
        let mut commands: Vec<(&str, Vec<&str>)> = Vec::new();
        for line in lines {
            match (line.strip_prefix("$ "), commands.last_mut()) {
                (Some(command), _) => commands.push((command, Vec::new())),
                (None, Some((_, expected))) => expected.push(line),
                (None, None) => bail!("output without a command: {line}"),
            }
        }
        for (command, expected) in &commands {
            if command.starts_with("pgusher run ") {
                self.start(command)?;
            } else if command.starts_with("kill ") {
                self.kill(command)?;
            } else {
                self.execute(command, expected)
                    .with_context(|| format!("$ {command}"))?;
                // A session's record comes a moment after its client has ended; a reader's fingers are slower.
                self.pgusher.as_ref().map_or(Ok(()), Pgusher::settle)?;
            }
        }
        Ok(commands.len())
    }

    fn start(&mut self, command: &str) -> Result<()> {
        let words = self.located(command);
        let more = words.split_whitespace().skip(2).map(str::to_owned);
        // The settings file says where records go.
        let own = arguments(&self.cgroup, &[self.cluster.port], self.directory.path())
            .into_iter()
            .filter(|argument| !argument.starts_with("--audit-sink"));
        let mut run = self.cgroup.command(binary()?)?;
        run.args(own).args(more);
        match self
            .pgusher
            .as_mut()
            .filter(|_| command.contains("--takeover"))
        {
            Some(running) => {
                let finished = running.replace_by(&mut run)?.wait_for_end()?;
                ensure!(finished.status.success(), "{finished:?}");
            }
            None => {
                self.stop()?;
                bpf_fs::ensure_mounted()?;
                self.pgusher = Some(Pgusher::start_command(&mut run, self.directory.path())?);
            }
        }
        Ok(())
    }

    /// Ends pgusher as the command would.
    fn kill(&mut self, command: &str) -> Result<()> {
        let mut pgusher = self.pgusher.take().context("pgusher does not run")?;
        pgusher.signal(match command {
            "kill $(pidof pgusher)" => Signal::SIGTERM,
            "kill -9 $(pidof pgusher)" => Signal::SIGKILL,
            _ => bail!("an unknown way to kill"),
        })?;
        pgusher.wait_for_end()?;
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        if let Some(mut pgusher) = self.pgusher.take() {
            pgusher.signal(Signal::SIGTERM)?;
            let finished = pgusher.wait_for_end()?;
            ensure!(finished.status.success(), "{finished:?}");
        }
        Ok(())
    }

    fn execute(&self, command: &str, expected: &[&str]) -> Result<()> {
        let is_expected_to_fail = command.starts_with("! ");
        let mut line = self.located(command.trim_start_matches("! "));
        // A command that asks the running instance has to find it.
        if line.starts_with("pgusher status") || line.starts_with("pgusher policy reload") {
            let socket = self.directory.path().join("admin.sock");
            line = format!("{line} --admin-socket {}", socket.display());
        }
        // Others run beside this one.
        if line == "pgusher detach" {
            line = format!("{line} --cgroup {}", self.cgroup.path().display());
        }
        let mut shell: Command = self.cgroup.command("sh")?;
        self.cluster.point_at(&mut shell);
        let psql = self.cluster.program_path("psql");
        let programs = psql.parent().context("psql is in no folder")?;
        let path = format!(
            "{}:{}:/usr/bin:/bin",
            self.directory.path().join("bin").display(),
            programs.display()
        );
        let finished = run(shell.args(["-c", &line]).env("PATH", path))?;
        ensure!(
            finished.status.success() != is_expected_to_fail,
            "{finished:?}"
        );
        let told = format!("{}\n{}", finished.stdout, finished.stderr);
        for wanted in expected {
            let wanted = self.located(wanted);
            ensure!(told.contains(wanted.trim()), "`{wanted}` is not in: {told}");
        }
        Ok(())
    }

    fn get_up(mut self) -> Result<()> {
        self.stop()?;
        detach(self.cgroup.path())?.success()?;
        kernel::wait_until_nothing_attached(self.cgroup.path())
    }
}
