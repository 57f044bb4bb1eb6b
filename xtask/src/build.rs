//! `cargo xtask build`: pgusher with its eBPF programs in it.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::setup::{self, Purpose};
use crate::{process, workspace};

/// Builds pgusher and returns where the binary is.
///
/// # Errors
///
/// When the toolchain cannot be set up or the build fails.
pub(crate) fn pgusher(release: bool) -> Result<PathBuf> {
    setup::prepare(Purpose::Run)?;
    compile(release)
}

/// Builds pgusher on a machine that is set up, and returns where the binary is.
///
/// # Errors
///
/// When the build fails.
pub(crate) fn compile(release: bool) -> Result<PathBuf> {
    let mut command = workspace::cargo();
    command
        .args(["build", "--locked", "--package", "proxy-userspace"])
        .args(["--bin", "pgusher"])
        .args(release.then_some("--release"));
    // Cargo alone knows where the target folder is; its messages say.
    executable(&messages_of(&mut command)?).context("cargo built pgusher and does not tell where")
}

/// Runs cargo and returns its messages, one JSON object a line.
///
/// # Errors
///
/// When it fails.
pub(crate) fn messages_of(command: &mut Command) -> Result<String> {
    command
        .arg("--message-format=json-render-diagnostics")
        .stdout(Stdio::piped());
    let line = process::display(command);
    eprintln!("  $ {line}");
    let output = command
        .spawn()
        .and_then(std::process::Child::wait_with_output)
        .with_context(|| format!("cannot start `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}` failed ({})", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Finds the path of the binary in cargo's messages, one JSON object a line.
fn executable(messages: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| {
            message.pointer("/target/name").and_then(Value::as_str) == Some("pgusher")
        })
        .find_map(|message| message.get("executable")?.as_str().map(PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binary_is_found_among_the_messages_of_cargo() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"name":"build-script-build"},"executable":"/t/build"}"#,
            "\nnot json\n",
            r#"{"reason":"compiler-artifact","target":{"name":"pgusher"},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"name":"pgusher"},"executable":"/t/release/pgusher"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        assert_eq!(
            executable(messages),
            Some(PathBuf::from("/t/release/pgusher"))
        );
        assert_eq!(
            executable(r#"{"reason":"build-finished","success":true}"#),
            None
        );
    }
}
