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
    /// What a program may observe of a non-blocking socket that it would not directly: docs/fast-path.md has the list.
    pub shows_in: &'static [&'static str],
}

/// Sends with MSG_ZEROCOPY are copied.
const SENDING: &[&str] = &["zerocopy"];
/// Redirected bytes are no part of what the stack says of itself, and what is there all the same is read as a whole.
const RECEIVING: &[&str] = &[
    "zerocopy",
    "peek_off",
    "peek_trunc",
    "rcvlowat_poll",
    "rcvlowat_recv",
    "tcp_info_bytes",
    "tcp_inq",
    "fionread",
    "end",
    "splice_from",
];

/// All of them.
const DATA_PATHS: [DataPath; 4] = [
    DataPath {
        name: "relay",
        arguments: &[],
        shows_in: &[],
    },
    DataPath {
        name: "auto",
        arguments: &["--fast-path=auto"],
        shows_in: SENDING,
    },
    DataPath {
        name: "full",
        arguments: &["--fast-path=full"],
        shows_in: RECEIVING,
    },
    DataPath {
        name: "full-statements",
        arguments: &["--fast-path=full", "--audit=statements"],
        shows_in: RECEIVING,
    },
];

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
