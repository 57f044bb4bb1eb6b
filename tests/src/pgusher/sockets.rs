//! Copies of pgusher's own sockets, to ask the kernel which options they have.

use std::fs;

use anyhow::{Context, Result};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use socket2::Socket;

/// The connected TCP sockets of a process.
///
/// # Errors
/// When the process has gone, or its descriptors may not be copied.
pub fn connected(pid: u32) -> Result<Vec<Socket>> {
    let raw = Pid::from_raw(i32::try_from(pid)?).context("a process id of zero")?;
    let process = pidfd_open(raw, PidfdFlags::empty())?;
    let mut sockets = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        let is_socket =
            fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"));
        if is_socket {
            let number = entry.file_name().to_string_lossy().parse()?;
            match pidfd_getfd(&process, number, PidfdGetfdFlags::empty()) {
                Ok(copy) => sockets.push(Socket::from(copy)),
                // It was closed since.
                Err(Errno::BADF) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    sockets.retain(|socket| {
        socket
            .peer_addr()
            .is_ok_and(|peer| peer.as_socket().is_some())
    });
    Ok(sockets)
}
