//! `cargo xtask torture`: the tests named `torture::` again and again, from other seeds each time.
//!
//! `cargo xtask test` plays one round of each. Here each goes on for as many minutes as are wanted, all of them at the
//! same time; a failure prints the command that plays its round again.

use anyhow::{Result, ensure};
use clap::Args;

use crate::setup::{self, Purpose};
use crate::{build, process, test};

/// More than there are tests: each plays for all of the minutes, and none waits for another.
const THREADS: &str = "16";

/// What is played, and for how long.
#[derive(Args)]
pub(crate) struct Options {
    /// How long: rounds begin until then; without it one round is played
    #[arg(long)]
    minutes: Option<u32>,
    /// Where to begin: a hexadecimal number that a failure has printed
    #[arg(long)]
    seed: Option<String>,
    /// Only this data path, such as `relay`
    #[arg(long)]
    path: Option<String>,
    /// Only tests whose name contains this
    #[arg(long, default_value = "torture::")]
    filter: String,
}

impl Options {
    /// What the tests read it from: `tests/suite/torture/effort.rs` and `data_path.rs`.
    fn environment(&self) -> Result<Vec<(&'static str, String)>> {
        if let Some(seed) = &self.seed {
            ensure!(
                u64::from_str_radix(seed, 16).is_ok(),
                "--seed wants a hexadecimal number of at most 16 digits, and not {seed:?}"
            );
        }
        let given = [
            (
                "PGUSHER_TORTURE_MINUTES",
                self.minutes.map(|minutes| minutes.to_string()),
            ),
            ("PGUSHER_TORTURE_SEED", self.seed.clone()),
            ("PGUSHER_TORTURE_PATH", self.path.clone()),
        ];
        Ok(given
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .collect())
    }
}

/// Plays as the options say.
///
/// # Errors
///
/// When something is missing, or a round fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    let environment = options.environment()?;
    setup::prepare(Purpose::Test)?;
    let binary = build::compile(true)?;
    process::run(
        test::kernel_tests(&binary, std::slice::from_ref(&options.filter))?
            .env("RUST_TEST_THREADS", THREADS)
            .envs(environment),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(seed: &str) -> Options {
        Options {
            minutes: Some(3),
            seed: Some(seed.to_owned()),
            path: None,
            filter: "torture::".to_owned(),
        }
    }

    #[test]
    fn the_tests_are_told_what_is_given_and_nothing_else() {
        let environment = options("00ff").environment().unwrap();
        let expected = [
            ("PGUSHER_TORTURE_MINUTES", "3"),
            ("PGUSHER_TORTURE_SEED", "00ff"),
        ];
        assert_eq!(
            environment,
            expected.map(|(name, value)| (name, value.to_owned()))
        );
    }

    #[test]
    fn a_seed_that_is_no_number_is_refused_before_anything_is_built() {
        let error = options("xyz").environment().unwrap_err();
        assert!(error.to_string().contains("\"xyz\""), "{error}");
    }
}
