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
pub const VERSIONS: [Version; 2] = [Version::V15, Version::V18];

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
