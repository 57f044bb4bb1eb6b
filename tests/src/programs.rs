//! The client programs of `clients/`: C compiled once for the whole run, Python and Java run as they are.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context, Result, anyhow, ensure};

use crate::cgroup::TestCgroup;
use crate::cluster::Cluster;
use crate::process::run;

/// The driver as Debian's libpostgresql-jdbc-java installs it.
const JDBC_DRIVER: &str = "/usr/share/java/postgresql.jar";

/// The directory of the client sources.
fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

/// Compiles `clients/<name>.c` on first use and returns the program's path.
///
/// # Errors
/// When the compiler or a library is missing; the message names the packages.
pub fn compiled(name: &str) -> Result<PathBuf> {
    static COMPILED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
    let mut compiled = COMPILED
        .lock()
        .map_err(|_| anyhow!("an earlier compilation panicked"))?;
    let directory = own_directory()?;
    let program = directory.join(name);
    if !compiled.contains(&program) {
        let finished = run(Command::new("gcc")
            .args([
                "-O1",
                "-Wall",
                "-Werror",
                "-pthread",
                "-D_GNU_SOURCE",
                "-I/usr/include/postgresql",
                "-o",
            ])
            .arg(&program)
            .arg(sources().join(format!("{name}.c")))
            .args(["-lpq", "-luring"]))
        .context("install gcc")?;
        finished
            .success()
            .context("install libc6-dev, libpq-dev and liburing-dev")?;
        compiled.push(program.clone());
    }
    Ok(program)
}

/// Compiles `clients/<name>.c` against the libpq of `cluster`'s version, into a directory its programs can see, and
/// returns the path they see it at.
///
/// # Errors
/// As [`compiled`].
pub fn compiled_for(cluster: &Cluster, name: &str) -> Result<PathBuf> {
    let scratch = cluster.scratch()?;
    let finished = run(Command::new("gcc")
        .args(["-O1", "-Wall", "-Werror", "-I/usr/include/postgresql", "-o"])
        .arg(scratch.outside.join(name))
        .arg(sources().join(format!("{name}.c")))
        .arg(cluster.libpq()?)
        // The library itself may want a newer C library than this machine's; where it runs there is one.
        .arg("-Wl,--allow-shlib-undefined"))
    .context("install gcc")?;
    finished
        .success()
        .context("install libc6-dev and libpq-dev")?;
    Ok(scratch.inside.join(name))
}

/// A compiled client inside `cgroup`.
///
/// # Errors
/// As [`compiled`].
pub fn c_client(cgroup: &TestCgroup, name: &str) -> Result<Command> {
    cgroup.command(compiled(name)?)
}

/// A Python client inside `cgroup`, run by the distribution's interpreter.
///
/// # Errors
/// When a module it needs is missing.
pub fn python_client(cgroup: &TestCgroup, name: &str) -> Result<Command> {
    let imports = run(Command::new("/usr/bin/python3").args(["-c", "import psycopg, psycopg2"]))?;
    imports
        .success()
        .context("install python3-psycopg and python3-psycopg2")?;
    let mut command = cgroup.command("/usr/bin/python3")?;
    command.arg(sources().join(format!("{name}.py")));
    Ok(command)
}

/// A Java client inside `cgroup`, run from its source with the JDBC driver on the class path.
///
/// # Errors
/// When the driver or the compiler is missing.
pub fn java_client(cgroup: &TestCgroup, name: &str) -> Result<Command> {
    ensure!(
        Path::new(JDBC_DRIVER).exists(),
        "{JDBC_DRIVER} is missing: install libpostgresql-jdbc-java"
    );
    run(Command::new("javac").arg("-version"))?
        .success()
        .context("install openjdk-17-jdk-headless")?;
    let mut command = cgroup.command("java")?;
    command
        .args(["-XX:TieredStopAtLevel=1", "-cp", JDBC_DRIVER])
        .arg(sources().join(format!("{name}.java")));
    Ok(command)
}

/// Copies a compiled client under another name: another file, hence another inode.
///
/// # Errors
/// As [`compiled`], and when the copy fails.
pub fn copy_of(name: &str, copy: impl AsRef<OsStr>) -> Result<PathBuf> {
    let path = own_directory()?.join(copy.as_ref());
    fs::copy(compiled(name)?, &path)?;
    Ok(path)
}

/// Where programs are compiled to: below the build directory, whose owner cleans it.
fn own_directory() -> Result<PathBuf> {
    let executable = env::current_exe()?;
    let build = executable
        .parent()
        .context("the test program lies in no directory")?;
    let directory = build.join("pgusher-test-clients");
    fs::create_dir_all(&directory)?;
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755))?;
    Ok(directory)
}
