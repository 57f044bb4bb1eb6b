//! What is made for guests ahead: pgusher, the test programs, the first process, the C clients, a data directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{build, process, workspace};

/// The test programs that a guest runs, as their crates name them.
pub(super) const TESTS: [&str; 2] = ["kernel", "suite"];
/// Compiled programs, without the descriptions for debuggers that would fill a guest's memory.
pub(super) struct Programs {
    /// The first process of a guest.
    pub(super) init: PathBuf,
    /// Name in the guest, and file on this machine.
    others: Vec<(String, PathBuf)>,
    /// A folder with the C clients and the data directory; the guest's environment tells the tests where they are.
    pub(super) packed: PathBuf,
}

impl Programs {
    /// Compiles everything; pgusher only if no binary of it is given.
    ///
    /// # Errors
    ///
    /// When something does not compile.
    pub(super) fn build(pgusher: Option<PathBuf>) -> Result<Self> {
        let pgusher = match pgusher {
            Some(binary) => binary,
            None => build::compile(true)?,
        };
        let messages = compile_tests()?;
        let folder = workspace::virtual_machines().join("programs");
        fs::create_dir_all(&folder)?;
        let built = |name: &str, kind: Kind| {
            let path = executable(&messages, name, kind)
                .with_context(|| format!("cargo built {name} and does not tell where"))?;
            stripped(&path, &folder.join(name))
        };
        let mut others = vec![(
            "pgusher".to_owned(),
            stripped(&pgusher, &folder.join("pgusher"))?,
        )];
        for name in TESTS {
            others.push((name.to_owned(), built(name, Kind::Test)?));
        }
        let packer = built("pack_for_guests", Kind::Program)?;
        let packed = folder.join("packed");
        process::run(Command::new(packer).arg(&packed))?;
        Ok(Self {
            init: built("guest", Kind::Program)?,
            others,
            packed,
        })
    }

    /// Everything but the first process: name in the guest, and file on this machine.
    pub(super) fn in_guest(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.others
            .iter()
            .map(|(name, path)| (name.as_str(), path.as_path()))
    }
}

/// What an executable of a crate is for; both kinds of a program's are built when its tests are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Program,
    Test,
}

/// Compiles both crates of tests and returns cargo's messages.
fn compile_tests() -> Result<String> {
    let mut command = workspace::cargo();
    command.args(["test", "--no-run", "--locked"]).args([
        "--package",
        "pgusher-tests",
        "--package",
        "vm-tests",
    ]);
    build::messages_of(&mut command)
}

/// Finds an executable in cargo's messages, one JSON object a line.
fn executable(messages: &str, name: &str, kind: Kind) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| {
            let is_test = message.pointer("/profile/test").and_then(Value::as_bool);
            message.pointer("/target/name").and_then(Value::as_str) == Some(name)
                && is_test == Some(kind == Kind::Test)
        })
        .find_map(|message| message.get("executable")?.as_str().map(PathBuf::from))
}

/// Copies a program without what only debuggers read.
fn stripped(program: &Path, to: &Path) -> Result<PathBuf> {
    process::capture(
        Command::new("strip")
            .args(["--strip-debug", "-o"])
            .args([to, program]),
    )
    .context("strip belongs to Debian's package binutils")?;
    Ok(to.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_not_taken_for_its_own_tests() {
        let messages = concat!(
            r#"{"target":{"name":"guest"},"profile":{"test":true},"executable":"/t/guest-tests"}"#,
            "\n",
            r#"{"target":{"name":"guest"},"profile":{"test":false},"executable":"/t/guest"}"#,
            "\n",
            r#"{"target":{"name":"suite"},"profile":{"test":true},"executable":"/t/suite"}"#,
        );
        let found = |name, kind| executable(messages, name, kind);
        assert_eq!(found("guest", Kind::Program), Some("/t/guest".into()));
        assert_eq!(found("suite", Kind::Test), Some("/t/suite".into()));
        assert_eq!(found("suite", Kind::Program), None);
    }
}
