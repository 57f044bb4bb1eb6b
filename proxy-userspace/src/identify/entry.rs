//! Files below /proc/PID, read whole in as few calls as the kernel allows.

use std::fs::File;
use std::io::Read as _;

/// The room made for a file at once: most are shorter, and growing a buffer from nothing costs a call for each doubling.
const USUAL_BYTES: usize = 4096;

/// Reads at most `most` bytes of a process's file.
pub(super) fn read(pid: u32, name: &str, most: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(USUAL_BYTES);
    let file = File::open(format!("/proc/{pid}/{name}")).ok()?;
    file.take(most).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}
