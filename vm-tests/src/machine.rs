//! Brings up a guest as far as its tests need it.

use std::ffi::CStr;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use pgusher_tests::bpf_fs::PINS;

/// Where `cargo xtask vm-test` puts what is ours.
pub const HOME: &str = "/vm";

/// File system type, mount point, options.
const MOUNTS: [(&str, &str, &str); 9] = [
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devtmpfs", "/dev", ""),
    ("devpts", "/dev/pts", "mode=620,ptmxmode=666"),
    ("tmpfs", "/dev/shm", "mode=1777"),
    ("cgroup2", "/sys/fs/cgroup", ""),
    ("bpf", "/sys/fs/bpf", ""),
    ("tmpfs", "/tmp", "mode=1777"),
    ("tmpfs", "/run", "mode=755"),
];

/// What is set, to what, and why.
const SETTINGS: [(&str, &str, &str); 2] = [
    (
        "kernel/bpf_stats_enabled",
        "1",
        "tests look at how often a program of somebody else's ran",
    ),
    (
        "net/core/netdev_max_backlog",
        "100000",
        "before Linux 6.4 a busy ksoftirqd lets so many packets of lo wait and drops what comes then, resets among them, \
         which nobody sends again",
    ),
];

/// What the tests find in their environment.
const ENVIRONMENT: [(&str, &str); 7] = [
    ("HOME", "/root"),
    ("PATH", "/vm:/usr/sbin:/usr/bin"),
    ("PGUSHER_BIN", "/vm/pgusher"),
    ("PGUSHER_CLIENTS", "/vm/packed/clients"),
    ("PGUSHER_ONLY_PG15", "1"),
    ("PGUSHER_PG15_DATA", "/vm/packed/data"),
    ("TERM", "linux"),
];

/// Mounts, loads and sets up everything.
///
/// # Errors
/// When something is refused; a guest like that is of no use.
pub fn bring_up() -> Result<()> {
    for (kind, point, options) in MOUNTS {
        fs::create_dir_all(point).with_context(|| format!("cannot make {point}"))?;
        mount(
            Some(kind),
            point,
            Some(kind),
            MsFlags::empty(),
            Some(options),
        )
        .with_context(|| format!("cannot mount {kind} on {point}"))?;
    }
    fs::create_dir(PINS).with_context(|| format!("cannot make {PINS}"))?;
    // What devtmpfs leaves to udev: bash's <(…) and process substitution want it.
    std::os::unix::fs::symlink("/proc/self/fd", "/dev/fd").context("cannot make /dev/fd")?;
    load_modules()?;
    let mut loopback = Command::new("ip");
    loopback.args(["link", "set", "lo", "up"]);
    let up = set_environment(&mut loopback)
        .status()
        .context("cannot run ip")?;
    ensure!(up.success(), "lo cannot be brought up");
    for (name, value, why) in SETTINGS {
        let path = Path::new("/proc/sys").join(name);
        fs::write(path, value).with_context(|| format!("cannot set {name}: {why}"))?;
    }
    Ok(())
}

/// Sets the environment on a command.
pub fn set_environment(command: &mut Command) -> &mut Command {
    command.env_clear().envs(ENVIRONMENT).current_dir("/root")
}

/// Whether the kernel's command line has this word.
#[must_use]
pub fn is_told(word: &str) -> bool {
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    line.split_whitespace().any(|found| found == word)
}

/// Loads what is in the folder of modules, in the order of the names.
fn load_modules() -> Result<()> {
    let Ok(entries) = fs::read_dir(Path::new(HOME).join("modules")) else {
        return Ok(());
    };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        const NO_PARAMETERS: &CStr = c"";
        let file = File::open(&path)?;
        finit_module(&file, NO_PARAMETERS, ModuleInitFlags::empty())
            .with_context(|| format!("cannot load {}", path.display()))?;
    }
    Ok(())
}
