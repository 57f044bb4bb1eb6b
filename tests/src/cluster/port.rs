//! Ports that are a test's own.

use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::ops::Range;
use std::process;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};

/// Where they are: below those that the kernel gives to whoever asks for any, as every client and every listener of
/// pgusher's does, so that none of these gets one between choice and use.
const OWN: Range<u16> = 10_000..32_768;
/// How far apart two runs of the tests begin whose processes follow each other.
const STEP: usize = 97;

/// A TCP port that nobody listens on, on neither loopback address, and that is given to nobody else.
///
/// # Errors
/// When none is free.
pub fn free_port() -> Result<u16> {
    static TAKEN: AtomicUsize = AtomicUsize::new(0);
    let begin = process::id() as usize * STEP;
    let is_free = |port: &u16| {
        TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()
            && TcpListener::bind((Ipv6Addr::LOCALHOST, *port)).is_ok()
    };
    let mut ports = OWN.filter_map(|_| {
        let number = begin + TAKEN.fetch_add(1, Ordering::Relaxed);
        OWN.clone().nth(number % OWN.len())
    });
    ports
        .find(is_free)
        .context("no port is free on 127.0.0.1 and ::1")
}
