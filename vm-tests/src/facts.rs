//! What a test found out about the kernel it runs on.
//!
//! Facts go to a file; the guest's first process puts them on the console behind the last test, and `cargo xtask vm-test`
//! makes the table of docs/kernels.md of them.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};

/// Gone with the guest.
const FILE: &str = "/run/pgusher-facts";

/// Says what a feature is like on this kernel; `value` becomes a cell of the table.
///
/// # Errors
/// When the file cannot be written.
pub fn tell(name: &str, value: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(FILE)?;
    // One write: tests run side by side.
    file.write_all(format!("fact\t{name}\t{value}\n").as_bytes())
}

/// Everything that was told.
#[must_use]
pub fn told() -> String {
    // Without the file nothing was.
    fs::read_to_string(FILE).unwrap_or_default()
}
