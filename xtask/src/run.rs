//! `cargo xtask run`: pgusher as root, with the arguments given.

use std::ffi::OsString;

use anyhow::Result;

use crate::{build, privilege};

/// First arguments that pgusher understands by themselves; anything else belongs to `pgusher run`.
const TAKEN_AS_IT_IS: [&str; 13] = [
    "run",
    "status",
    "doctor",
    "detach",
    "explain",
    "learn",
    "policy",
    "ca",
    "help",
    "-h",
    "--help",
    "-V",
    "--version",
];

/// Builds pgusher and becomes it.
///
/// # Errors
///
/// When it cannot be built, or root cannot be had.
pub(crate) fn pgusher(arguments: Vec<OsString>) -> Result<()> {
    let binary = build::pgusher(true)?;
    let mut command = privilege::as_root(binary)?;
    command.args(complete(arguments));
    match privilege::become_command(command)? {}
}

/// Puts `run` in front of arguments that name no subcommand.
fn complete(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let named = arguments
        .first()
        .is_some_and(|first| TAKEN_AS_IT_IS.iter().any(|known| first == known));
    if !named {
        arguments.insert(0, OsString::from("run"));
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_is_implied_unless_a_subcommand_is_named() {
        let cases: [(&[&str], &[&str]); 5] = [
            (&[], &["run"]),
            (&["--port", "6432"], &["run", "--port", "6432"]),
            (&["status", "--json"], &["status", "--json"]),
            (&["ca", "init"], &["ca", "init"]),
            (&["run", "--port", "6432"], &["run", "--port", "6432"]),
        ];
        for (given, expected) in cases {
            let given = given.iter().map(OsString::from).collect();
            assert_eq!(complete(given), expected, "{expected:?}");
        }
    }
}
