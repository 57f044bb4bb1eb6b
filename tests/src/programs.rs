//! The client programs of `clients/`: C and Go compiled once for the whole run, Python, Java and JavaScript run as they
//! are.

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
use crate::tours::Ground;

/// The driver as Debian's libpostgresql-jdbc-java installs it.
const JDBC_DRIVER: &str = "/usr/share/java/postgresql.jar";

/// The distribution's interpreter: the modules are its packages.
const PYTHON: &str = "/usr/bin/python3";

/// Where Debian's golang packages put libraries.
const GO_LIBRARIES: &str = "/usr/share/gocode";

/// The directory of the client sources.
fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

/// The path of a file of `clients/`.
#[must_use]
pub fn source(name: &str) -> PathBuf {
    sources().join(name)
}

/// Compiles `clients/<name>.c` on first use and returns the program's path. Where `PGUSHER_CLIENTS` names a directory,
/// as in a virtual machine that has no compiler, the program is there already.
///
/// # Errors
/// When the compiler or a library is missing; the message names the packages.
pub fn compiled(name: &str) -> Result<PathBuf> {
    if let Some(directory) = env::var_os("PGUSHER_CLIENTS") {
        return Ok(Path::new(&directory).join(name));
    }
    static COMPILED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
    let mut compiled = COMPILED
        .lock()
        .map_err(|_| anyhow!("an earlier compilation panicked"))?;
    let directory = own_directory()?;
    let program = directory.join(name);
    if !compiled.contains(&program) {
        compile(name, &program)?;
        compiled.push(program.clone());
    }
    Ok(program)
}

/// Compiles `clients/<name>.c` to `program`.
///
/// # Errors
/// As [`compiled`].
pub fn compile(name: &str, program: &Path) -> Result<()> {
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
        .arg(program)
        .arg(sources().join(format!("{name}.c")))
        // A client that leaves io_uring alone must run where its library is missing.
        .args(["-Wl,--as-needed", "-lpq", "-luring"]))
    .context("install gcc")?;
    finished
        .success()
        .context("install libc6-dev, libpq-dev and liburing-dev")?;
    Ok(())
}

/// Compiles `clients/<name>.c` as a library to be preloaded.
///
/// # Errors
/// As [`compiled`].
pub fn compile_library(name: &str, library: &Path) -> Result<()> {
    let finished = run(Command::new("gcc")
        .args(["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o"])
        .arg(library)
        .arg(sources().join(format!("{name}.c"))))
    .context("install gcc")?;
    finished.success().context("install libc6-dev")?;
    Ok(())
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
    let imports = run(Command::new(PYTHON).args(["-c", "import psycopg2"]))?;
    imports.success().context("install python3-psycopg2")?;
    python(Ground::Intercepted(cgroup), name, "psycopg")
}

/// A Python client, run by the distribution's interpreter.
///
/// # Errors
/// When the `module` it needs is missing.
pub fn python(ground: Ground<'_>, name: &str, module: &str) -> Result<Command> {
    let imports = run(Command::new(PYTHON).args(["-c", &format!("import {module}")]))?;
    imports
        .success()
        .with_context(|| format!("install python3-{module}"))?;
    let mut command = ground.command(PYTHON)?;
    command.arg(source(&format!("{name}.py")));
    Ok(command)
}

/// A Java client inside `cgroup`, run from its source with the JDBC driver on the class path.
///
/// # Errors
/// When the driver or the compiler is missing.
pub fn java_client(cgroup: &TestCgroup, name: &str) -> Result<Command> {
    java(Ground::Intercepted(cgroup), name)
}

/// A Java client, run from its source with the JDBC driver on the class path.
///
/// # Errors
/// When the driver or the compiler is missing.
pub fn java(ground: Ground<'_>, name: &str) -> Result<Command> {
    ensure!(
        Path::new(JDBC_DRIVER).exists(),
        "{JDBC_DRIVER} is missing: install libpostgresql-jdbc-java"
    );
    run(Command::new("javac").arg("-version"))?
        .success()
        .context("install openjdk-17-jdk-headless")?;
    let mut command = ground.command("java")?;
    command
        .args(["-XX:TieredStopAtLevel=1", "-cp", JDBC_DRIVER])
        .arg(source(&format!("{name}.java")));
    Ok(command)
}

/// A JavaScript client, with node-postgres from the tree that `PGUSHER_NODE_PG` names.
///
/// # Errors
/// When Node or the driver is missing.
pub fn node(ground: Ground<'_>, name: &str) -> Result<Command> {
    let modules = env::var_os("PGUSHER_NODE_PG").map(PathBuf::from).context(
        "PGUSHER_NODE_PG must name a directory with node-postgres: run the tests with `cargo xtask test`",
    )?;
    run(Command::new("node")
        .args(["-e", "require('pg'), require('pg-cursor')"])
        .env("NODE_PATH", &modules))
    .context("install nodejs")?
    .success()
    .with_context(|| format!("node-postgres is not in {}", modules.display()))?;
    let mut command = ground.command("node")?;
    command
        .arg(source(&format!("{name}.js")))
        .env("NODE_PATH", modules);
    Ok(command)
}

/// Compiles `clients/<name>.go` on first use, with Debian's libraries, and returns the program's path.
///
/// # Errors
/// When the compiler or a library is missing; the message names the packages.
pub fn compiled_go(name: &str) -> Result<PathBuf> {
    static COMPILED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
    let mut compiled = COMPILED
        .lock()
        .map_err(|_| anyhow!("an earlier compilation panicked"))?;
    let directory = own_directory()?;
    let program = directory.join(name);
    if !compiled.contains(&program) {
        let finished = run(Command::new("go")
            .args(["build", "-o"])
            .arg(&program)
            .arg(source(&format!("{name}.go")))
            .env("GO111MODULE", "off")
            .env("GOPATH", GO_LIBRARIES)
            .env("GOCACHE", directory.join("go-cache")))
        .context("install golang-go")?;
        finished
            .success()
            .context("install golang-github-lib-pq-dev and golang-github-jackc-pgx-v4-dev")?;
        compiled.push(program.clone());
    }
    Ok(program)
}

/// The path of a program of this crate, which cargo has built beside the tests.
///
/// # Errors
/// When it is not there.
pub fn own(name: &str) -> Result<PathBuf> {
    let program = build_directory()?.parent().map(|built| built.join(name));
    program
        .filter(|program| program.is_file())
        .with_context(|| format!("{name} is not built: run the tests with `cargo xtask test`"))
}

/// Copies a compiled client under another name: another file, hence another inode.
///
/// # Errors
/// As [`compiled`], and when the copy fails.
pub fn copy_of(name: &str, copy: impl AsRef<OsStr>) -> Result<PathBuf> {
    let path = own_directory()?.join(copy.as_ref());
    copy_program(&compiled(name)?, &path)?;
    Ok(path)
}

/// Copies a program that is to be run. Another process does it: a descriptor of ours that is open for writing could be
/// inherited by a child that a concurrent test starts, and the kernel runs no file that anybody may write to (ETXTBSY).
///
/// # Errors
/// When the copy fails.
pub fn copy_program(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp").arg("--").args([from, to]))?.success()?;
    Ok(())
}

/// Where programs are compiled to: below the build directory, whose owner cleans it.
fn own_directory() -> Result<PathBuf> {
    let directory = build_directory()?.join("pgusher-test-clients");
    fs::create_dir_all(&directory)?;
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755))?;
    Ok(directory)
}

/// The directory of the test program.
fn build_directory() -> Result<PathBuf> {
    let executable = env::current_exe()?;
    let directory = executable.parent().map(Path::to_path_buf);
    directory.context("the test program lies in no directory")
}
