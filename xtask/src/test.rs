//! `cargo xtask test`: everything that has to hold before a change is accepted.
//!
//! Runs the cheap checks first and stops at the first that fails. Compiles as the caller; only the test binaries that
//! need this machine's kernel run as root. Virtual machines come last and do not.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::process::{self, find_program};
use crate::setup::{self, Purpose};
use crate::{build, privilege, vm, workspace};

/// The steps that are over, for the summary.
#[derive(Default)]
struct Progress {
    passed: Vec<(&'static str, Duration)>,
}

impl Progress {
    /// Runs one step under a headline and notes how long it took.
    fn step<T>(&mut self, name: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        println!("\n== {name}");
        let begun = Instant::now();
        let value = work().with_context(|| {
            format!(
                "{name} failed after {} steps that passed",
                self.passed.len()
            )
        })?;
        println!("== {name}: {}", seconds(begun.elapsed()));
        self.passed.push((name, begun.elapsed()));
        Ok(value)
    }

    /// Returns one line: how many steps passed, and which took how long.
    fn summary(&self) -> String {
        let total = self.passed.iter().map(|(_, took)| *took).sum();
        let steps: Vec<String> = self
            .passed
            .iter()
            .map(|(name, took)| format!("{name} {}", seconds(*took)))
            .collect();
        format!(
            "All {} steps passed in {} ({})",
            self.passed.len(),
            seconds(total),
            steps.join(", ")
        )
    }
}

/// Runs every check; `names` narrow the tests, not the other checks, and leave out the virtual machines.
///
/// # Errors
///
/// At the first check that fails; the text has the command line.
pub(crate) fn everything(names: &[String]) -> Result<()> {
    let mut progress = Progress::default();
    progress.step("setup", || setup::prepare(Purpose::Test))?;
    progress.step("formatting", || {
        process::run(workspace::cargo().args(["fmt", "--all", "--check"]))
    })?;
    progress.step("lints", || {
        process::run(
            workspace::cargo()
                .args(["clippy", "--workspace", "--all-targets", "--locked"])
                .args(["--", "--deny", "warnings"]),
        )
    })?;
    progress.step("unit tests", || {
        process::run(
            workspace::cargo()
                .args(["test", "--quiet", "--locked", "--"])
                .args(names),
        )
    })?;
    let binary = progress.step("build", || build::compile(true))?;
    progress.step("tests on this kernel", || {
        process::run(&mut kernel_tests(&binary, names)?)
    })?;
    if names.is_empty() {
        progress.step("tests on an old and a new kernel", || {
            vm::test(&vm::FOR_EVERY_CHANGE, &binary)
        })?;
    }
    println!("\n{}", progress.summary());
    Ok(())
}

/// Returns the command that builds the integration tests as the caller and runs them as root.
pub(crate) fn kernel_tests(binary: &Path, names: &[String]) -> Result<Command> {
    let mut command = workspace::cargo();
    command
        .args(["test", "--locked", "--package", "pgusher-tests", "--"])
        .args(names)
        .env("PGUSHER_BIN", binary)
        .env("PGUSHER_PG18", workspace::postgres_18_tree())
        .env("PGUSHER_NODE_PG", workspace::node_modules())
        // A failure says what happened and where; forty frames above it hide that.
        .env("RUST_BACKTRACE", "0");
    if !privilege::is_root() {
        let sudo = find_program("sudo")
            .context("the tests need root and there is no sudo: run this command as root")?;
        // Cargo starts each test binary through its runner, which is where root comes in.
        command.env(
            runner_variable(&host_target()?),
            format!("{} --preserve-env", sudo.display()),
        );
    }
    Ok(command)
}

/// Asks the compiler for the target it compiles for by default.
fn host_target() -> Result<String> {
    let description = process::capture(Command::new("rustc").arg("-vV"))?;
    description
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .context("`rustc -vV` does not tell the host target")
}

/// Returns the name of the variable that sets cargo's runner for a target.
fn runner_variable(target: &str) -> String {
    let target = target.replace('-', "_").to_uppercase();
    format!("CARGO_TARGET_{target}_RUNNER")
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runner_variable_is_spelled_as_cargo_wants_it() {
        assert_eq!(
            runner_variable("x86_64-unknown-linux-gnu"),
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER"
        );
    }

    #[test]
    fn a_step_that_fails_is_named_and_not_counted() {
        let mut progress = Progress::default();
        progress.step("first", || Ok(())).unwrap();
        let error = progress
            .step("second", || process::run(Command::new("false").arg("x")))
            .unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("second failed after 1 steps"), "{text}");
        assert!(text.contains("`false x` failed"), "{text}");
        assert!(progress.summary().starts_with("All 1 steps passed in "));
    }
}
