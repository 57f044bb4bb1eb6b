//! The tutorial of docs/policy.md, command by command, as a reader would type it.
//!
//! Files are those whose name stands in a block's first line; what follows a command are lines of its output, or the
//! beginning of them. Paths, port and admin socket are this test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use pgusher_tests::cgroup::TestCgroup;
use pgusher_tests::cluster::{Cluster, Version};
use pgusher_tests::kernel;
use pgusher_tests::pgusher::{Pgusher, arguments, binary};
use pgusher_tests::process::run;
use tempfile::TempDir;

/// A reader at the keyboard.
struct Reader {
    pgusher: Option<Pgusher>,
    cgroup: TestCgroup,
    cluster: &'static Cluster,
    directory: TempDir,
}

/// A fenced block: its language and its lines.
struct Block<'a> {
    language: &'a str,
    lines: Vec<&'a str>,
}

#[test]
fn the_tutorial_works_as_it_is_written() -> Result<()> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/policy.md"))?;
    let begin = text.find("\n## From nothing").context("no tutorial")?;
    let tutorial = text.get(begin + 1..).unwrap_or_default();
    let end = tutorial
        .find("\n## ")
        .context("the tutorial does not end")?;
    let mut reader = Reader::sit_down()?;
    let mut commands = 0;
    for block in blocks(tutorial.get(..end).unwrap_or_default()) {
        match block.language {
            "console" => commands += reader.type_in(&block.lines)?,
            "toml" | "cedar" => reader.edit(&block.lines)?,
            language => bail!("a block of {language}"),
        }
    }
    ensure!(commands > 10, "only {commands} commands were found");
    reader.get_up()
}

fn blocks(text: &str) -> Vec<Block<'_>> {
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
            } else {
                self.execute(command, expected)
                    .with_context(|| format!("$ {command}"))?;
            }
        }
        Ok(commands.len())
    }

    fn start(&mut self, command: &str) -> Result<()> {
        self.stop()?;
        let words = self.located(command);
        let more = words.split_whitespace().skip(2).map(str::to_owned);
        // The settings file says where records go.
        let own = arguments(&self.cgroup, &[self.cluster.port], self.directory.path())
            .into_iter()
            .filter(|argument| !argument.starts_with("--audit-sink"));
        let mut command = self.cgroup.command(binary()?)?;
        command.args(own).args(more);
        self.pgusher = Some(Pgusher::start_command(&mut command, self.directory.path())?);
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
            let pgusher = self.pgusher.as_ref().context("pgusher does not run")?;
            line = format!("{line} --admin-socket {}", pgusher.admin_socket().display());
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
        kernel::wait_until_nothing_attached(self.cgroup.path())
    }
}
