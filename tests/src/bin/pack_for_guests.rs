//! Makes in the directory given what a virtual machine cannot make itself, or only slowly: the C clients, because it has
//! no compiler, and a data directory.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use pgusher_tests::cluster;
use pgusher_tests::programs::compile;

/// Those that tests in virtual machines run.
const CLIENTS: [&str; 10] = [
    "connect",
    "dial",
    "disguise",
    "forge",
    "held_up",
    "lend",
    "libpq",
    "observe",
    "torture",
    "tour_libpq",
];

fn main() -> Result<()> {
    let directory = std::env::args_os()
        .nth(1)
        .map(PathBuf::from)
        .context("usage: pack_for_guests DIRECTORY")?;
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    let clients = directory.join("clients");
    fs::create_dir_all(&clients)?;
    for name in CLIENTS {
        compile(name, &clients.join(name))?;
    }
    cluster::make_data_ahead(&directory.join("data"))
}
