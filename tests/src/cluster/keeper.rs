//! What keeps a server running for as long as the test process lives, and no longer.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use crate::netns::NetNs;

/// Runs the server until standard input ends, then stops it and removes its directory.
const KEEPER: &str = r#"
directory=$1; shift
"$@" <&- >"$directory/server.log" 2>&1 &
server=$!
cat >/dev/null
kill -QUIT $server; wait $server
rm -rf "$directory"
"#;

/// Starts a server with files in `directory`, in a network namespace or in our own.
pub(super) fn start(
    directory: &Path,
    server: &Command,
    namespace: Option<&NetNs>,
) -> Result<Child> {
    let mut keeper = Command::new("nsenter");
    if let Some(namespace) = namespace {
        namespace.enter(&mut keeper);
    }
    keeper
        .args(["--", "sh", "-c", KEEPER, "keeper"])
        .arg(directory)
        .arg(server.get_program())
        .args(server.get_args())
        .stdin(Stdio::piped())
        .process_group(0)
        .spawn()
        .context("cannot start the keeper of a server")
}
