//! The ways a session's bytes may take through pgusher. What proves one of them right proves every one in this list.

use std::env;

use anyhow::{Result, ensure};

/// A way for bytes, and the arguments of `pgusher run` that choose it.
#[derive(Clone, Copy, Debug)]
pub struct DataPath {
    /// What it is called on the command line of `cargo xtask torture` and in failures.
    pub name: &'static str,
    /// Arguments of `pgusher run`.
    pub arguments: &'static [&'static str],
}

/// All of them.
const DATA_PATHS: [DataPath; 1] = [DataPath {
    name: "relay",
    arguments: &[],
}];

/// Names one of them; `cargo xtask torture --path` sets it.
const CHOICE: &str = "PGUSHER_TORTURE_PATH";

/// All of them, or the one that `PGUSHER_TORTURE_PATH` names.
///
/// # Errors
/// When it names none.
pub fn chosen() -> Result<Vec<DataPath>> {
    let Some(name) = env::var_os(CHOICE) else {
        return Ok(DATA_PATHS.to_vec());
    };
    let chosen: Vec<DataPath> = DATA_PATHS
        .into_iter()
        .filter(|path| name == path.name)
        .collect();
    let names = DATA_PATHS.map(|path| path.name);
    ensure!(
        !chosen.is_empty(),
        "{CHOICE} is {name:?}, which is none of {names:?}"
    );
    Ok(chosen)
}
