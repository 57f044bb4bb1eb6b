//! Which servers the tests run against.

use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result};

/// A PostgreSQL major version the tests run against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The oldest one, of the machine's own distribution.
    V15,
    /// The newest one: direct TLS, protocol 3.2, long cancel keys.
    V18,
}

/// Every version, for tests that run against all.
pub const VERSIONS: Versions = Versions;

/// The versions there are: both, or only the one that `PGUSHER_ONLY_PG15` says there is, as in a virtual machine.
#[derive(Clone, Copy, Debug)]
pub struct Versions;

impl IntoIterator for Versions {
    type Item = Version;
    type IntoIter = std::vec::IntoIter<Version>;

    fn into_iter(self) -> Self::IntoIter {
        if env::var_os("PGUSHER_ONLY_PG15").is_some() {
            vec![Version::V15].into_iter()
        } else {
            vec![Version::V15, Version::V18].into_iter()
        }
    }
}

impl Version {
    pub(super) fn number(self) -> u32 {
        match self {
            Self::V15 => 15,
            Self::V18 => 18,
        }
    }

    /// The root directory that this version's programs see.
    pub(super) fn root(self) -> Result<PathBuf> {
        match self {
            Self::V15 => Ok(PathBuf::from("/")),
            Self::V18 => env::var_os("PGUSHER_PG18").map(PathBuf::from).context(
                "PGUSHER_PG18 must name a directory tree with PostgreSQL 18: run the tests with `cargo xtask test`",
            ),
        }
    }

    /// The absolute path of one of this version's programs, inside its root.
    pub(super) fn program(self, name: &str) -> String {
        format!("/usr/lib/postgresql/{}/bin/{name}", self.number())
    }
}

/// Whether a server answers SSLRequest with yes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// `ssl = on`
    On,
    /// `ssl = off`: for what clients say in plain text after a no.
    Off,
}

impl Tls {
    pub(super) fn setting(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
        }
    }
}
