//! Where things lie in this workspace. Owns paths; creates and runs nothing.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

/// Returns the folder of the workspace's `Cargo.toml`.
///
/// Cargo says at run time which checkout it runs in. What was compiled in may be another one, where two of
/// them share a target folder.
pub(crate) fn root() -> PathBuf {
    let compiled_in = || OsString::from(env!("CARGO_MANIFEST_DIR"));
    let mut folder = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(compiled_in));
    folder.pop();
    folder
}

/// Returns the folder of the eBPF toolchain, which outlives `CARGO_TARGET_DIR` settings.
pub(crate) fn toolchain_dir() -> PathBuf {
    root().join("target/toolchain")
}

/// Returns the file through which the build script learns where compiler and linker are.
pub(crate) fn toolchain_settings() -> PathBuf {
    toolchain_dir().join("bpf.env")
}

/// Returns the root of the Debian tree that PostgreSQL 18 runs in.
pub(crate) fn postgres_18_tree() -> PathBuf {
    root().join("target/pg18")
}

/// Returns the folder that the packages of node-postgres are unpacked in.
pub(crate) fn node_postgres() -> PathBuf {
    root().join("target/node-pg")
}

/// Returns the folder in it where Node finds them.
pub(crate) fn node_modules() -> PathBuf {
    node_postgres().join("usr/share/nodejs")
}

/// Returns the folder that pgbouncer and haproxy are unpacked in.
pub(crate) fn relays() -> PathBuf {
    root().join("target/relays")
}

/// Returns the folder of kernels and of what guests are made of.
pub(crate) fn virtual_machines() -> PathBuf {
    root().join("target/vm")
}

/// Returns a command for the cargo that runs this task, at the root of the workspace.
pub(crate) fn cargo() -> Command {
    let program = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}
