//! Socket options that neither the standard library nor tokio has, and the ones every leg of a session gets.
#![expect(
    unsafe_code,
    reason = "getsockopt, setsockopt and ioctl have no safe wrapper for these options"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Idle time before the first keepalive probe, and the pause between probes: the vanished peer of an idle connection is
/// noticed within two minutes; with bytes under way, the kernel's retransmission limit decides.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;

/// Sets what a leg of a session needs over TCP: no delay for small messages, and keepalive.
///
/// # Errors
/// The operating system's reason.
pub fn prepare_tcp(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// `SO_PASSRIGHTS` of include/uapi/asm-generic/socket.h, which libc does not have yet.
const SO_PASSRIGHTS: libc::c_int = 83;

/// Lets nobody send descriptors to this unix socket, nor to those that a listener accepts (`SO_PASSRIGHTS`, Linux 6.16).
/// PostgreSQL passes none. Whoever receives one unasked has to close it, and that can take as long as its sender likes:
/// a TCP socket may linger.
///
/// # Errors
/// The operating system's reason; `ENOPROTOOPT` on older kernels.
pub fn refuse_descriptors(socket: &impl AsFd) -> io::Result<()> {
    let off: libc::c_int = 0;
    let length = libc::socklen_t::try_from(size_of_val(&off)).map_err(io::Error::other)?;
    // SAFETY: `off` is valid for reads of `length` bytes.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PASSRIGHTS,
            (&raw const off).cast(),
            length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The cookie of the socket's network namespace (`SO_NETNS_COOKIE`, Linux 5.14).
///
/// # Errors
/// The operating system's reason; `ENOPROTOOPT` on older kernels.
pub fn netns_cookie(socket: &impl AsFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).map_err(io::Error::other)?;
    // SAFETY: `cookie` and `length` are valid for writes of the sizes passed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Bytes written to the socket that the peer's kernel has not acknowledged (`SIOCOUTQ`).
///
/// # Errors
/// The operating system's reason.
pub fn unacknowledged(socket: &impl AsFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: `bytes` is valid for a write of an int, which is what this request stores.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result == 0 {
        Ok(usize::try_from(bytes).unwrap_or(0))
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Two ends of one loopback connection, for unit tests.
#[cfg(test)]
pub(crate) async fn socket_pair() -> (TcpStream, TcpStream) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    (near.unwrap(), accepted.unwrap().0)
}
