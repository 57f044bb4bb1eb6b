//! Debian packages: which ones, why, and installing those that are not there.
//!
//! Never upgrades or removes anything, and leaves no service running that was not running before.

use std::collections::HashSet;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::Purpose;
use crate::privilege;
use crate::process::{self, find_program};

/// A package and the reason it is on the list.
pub(super) type Package = (&'static str, &'static str);

/// Debian 12's own pair of compiler and matching library source.
pub(super) const COMPILER: [Package; 2] = [
    ("rustc-web", "a compiler new enough for the eBPF programs"),
    (
        "rust-web-src",
        "the library source of exactly that compiler",
    ),
];

const DEMO: [Package; 5] = [
    ("iproute2", "joins network namespaces"),
    ("openssl", "makes the certificates of throwaway servers"),
    ("postgresql-15", "the throwaway server, and pgbench"),
    ("postgresql-client-15", "psql"),
    ("util-linux", "setpriv: the server must not run as root"),
];

const TEST: [Package; 23] = [
    ("binutils", "takes what guests do not need out of programs"),
    ("bpftool", "shows that nothing stays attached"),
    ("busybox-static", "what else a virtual machine has of tools"),
    (
        "debootstrap",
        "makes the tree that PostgreSQL 18 is run from",
    ),
    ("gcc", "compiles the C clients"),
    (
        "golang-github-jackc-pgx-v4-dev",
        "pgx, one of Go's two drivers",
    ),
    ("golang-github-lib-pq-dev", "lib/pq, the other one"),
    ("golang-go", "compiles the Go clients"),
    ("libc6-dev", "headers for the C clients"),
    ("liburing-dev", "the client that connects through io_uring"),
    ("libpostgresql-jdbc-java", "pgjdbc"),
    ("libpq-dev", "headers for the libpq client"),
    ("libssl-dev", "the TLS of the tokio-postgres client"),
    ("nodejs", "runs the node-postgres client"),
    (
        "openjdk-17-jdk-headless",
        "runs the pgjdbc client from its source",
    ),
    ("pkg-config", "finds libssl-dev"),
    ("python3", "runs the psycopg clients"),
    ("python3-asyncpg", "asyncpg"),
    ("python3-psycopg", "psycopg 3"),
    ("python3-psycopg2", "psycopg 2"),
    ("qemu-system-x86", "runs other kernels"),
    (
        "systemd",
        "journald, one of the audit sinks, and what the unit is for",
    ),
    ("xz-utils", "unpacks their modules"),
];

/// A drop-in that keeps Debian from creating and starting a server on port 5432.
const NO_CLUSTER_FOLDER: &str = "/etc/postgresql-common/createcluster.d";
const NO_CLUSTER_FILE: &str = "/etc/postgresql-common/createcluster.d/pgusher-setup.conf";

/// Returns the packages that a purpose needs, without the compiler.
pub(super) fn of(purpose: Purpose) -> Vec<Package> {
    let mut packages = Vec::new();
    if purpose >= Purpose::Demo {
        packages.extend(DEMO);
    }
    if purpose >= Purpose::Test {
        packages.extend(TEST);
    }
    packages
}

/// Installs those of the packages that are not installed.
///
/// # Errors
///
/// When this is no Debian, root cannot be had, or apt fails.
pub(super) fn install_missing(wanted: &[Package]) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let missing = missing(wanted)?;
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("Installing Debian packages:");
    for (name, reason) in &missing {
        eprintln!("  {name:<26} {reason}");
    }
    let names: Vec<&str> = missing.iter().map(|(name, _)| *name).collect();
    install(&names).with_context(|| {
        format!(
            "these Debian packages are needed and could not be installed; as root, run \
             `apt-get update && apt-get install --no-install-recommends {}`",
            names.join(" ")
        )
    })
}

fn install(names: &[&str]) -> Result<()> {
    let _no_cluster = names
        .contains(&"postgresql-15")
        .then(NoMainCluster::declare)
        .transpose()?;
    update_lists()?;
    process::run(
        apt_get()?
            .args(["install", "--yes", "--no-install-recommends"])
            .args(names)
            .stdin(Stdio::null()),
    )
}

/// Fetches the lists of packages that can be installed.
///
/// # Errors
///
/// When root cannot be had or apt fails.
pub(super) fn update_lists() -> Result<()> {
    process::run(apt_get()?.arg("update"))
}

fn apt_get() -> Result<Command> {
    let mut command = privilege::as_root("env")?;
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet"]);
    // A freshly started machine may be installing its own updates.
    command.args(["-o", "DPkg::Lock::Timeout=300"]);
    Ok(command)
}

fn missing(wanted: &[Package]) -> Result<Vec<Package>> {
    if find_program("dpkg-query").is_none() {
        let names: Vec<&str> = wanted.iter().map(|(name, _)| *name).collect();
        bail!(
            "this is not a Debian system; install what these Debian packages contain: {}",
            names.join(" ")
        );
    }
    // dpkg-query fails as soon as one name is unknown to it and still lists the others.
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${Package} ${db:Status-Status}\n"])
        .args(wanted.iter().map(|(name, _)| name))
        .output()
        .context("cannot start dpkg-query")?;
    let installed = installed_names(&String::from_utf8_lossy(&output.stdout));
    Ok(wanted
        .iter()
        .filter(|(name, _)| !installed.contains(*name))
        .copied()
        .collect())
}

/// Reads lines of `name status`; everything that is not completely installed is left out.
fn installed_names(listing: &str) -> HashSet<String> {
    listing
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(_, status)| *status == "installed")
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// While this lives, installing a PostgreSQL server creates no cluster `main`.
///
/// Debian's package would otherwise create one and start it on port 5432, and again at every boot. The
/// drop-in is read by the package's own configuration and is removed at once, so whoever wants a cluster later
/// says `pg_createcluster 15 main` and nothing stands in the way.
struct NoMainCluster {
    folder_was_there: bool,
}

impl NoMainCluster {
    fn declare() -> Result<Self> {
        let folder_was_there = std::path::Path::new(NO_CLUSTER_FOLDER).exists();
        let script = format!(
            "mkdir -p {NO_CLUSTER_FOLDER} && echo 'create_main_cluster = false' > {NO_CLUSTER_FILE}"
        );
        process::capture(privilege::as_root("sh")?.args(["-c", &script]))?;
        Ok(Self { folder_was_there })
    }

    fn withdraw(&self) -> Result<()> {
        let folder = if self.folder_was_there {
            String::new()
        } else {
            format!("; rmdir --ignore-fail-on-non-empty {NO_CLUSTER_FOLDER}")
        };
        let script = format!("rm -f {NO_CLUSTER_FILE}{folder}");
        process::capture(privilege::as_root("sh")?.args(["-c", &script])).map(drop)
    }
}

impl Drop for NoMainCluster {
    fn drop(&mut self) {
        if let Err(error) = self.withdraw() {
            eprintln!("warning: {NO_CLUSTER_FILE} is still there: {error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_whose_configuration_remains_is_not_installed() {
        let installed =
            installed_names("gcc installed\nbpftool config-files\nprocps half-configured\n");
        assert_eq!(installed, HashSet::from(["gcc".to_owned()]));
    }

    #[test]
    fn each_purpose_includes_those_before_it_and_names_no_package_twice() {
        let sizes = [Purpose::Run, Purpose::Demo, Purpose::Test].map(|purpose| of(purpose).len());
        assert!(sizes.is_sorted(), "{sizes:?}");
        let all = of(Purpose::Test);
        let distinct: HashSet<&str> = all.iter().map(|(name, _)| *name).collect();
        assert_eq!(distinct.len(), all.len());
    }
}
