//! Finds out what an application sees of the fast path on the running kernel, on two sockets of our own.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use proxy_ebpf::endpoint::Endpoint;
use proxy_ebpf::fast_path::{Answer, End, FIRST_BYTES, JoinRequest, Wish, key};
use proxy_ebpf::names;
use rustix::io::{Errno, ioctl_fionread};
use rustix::pipe::{SpliceFlags, pipe, splice};

use super::FastPath;

/// More than is redirected at once, less than a socket holds.
const STACK_BYTES: usize = FIRST_BYTES as usize + 4096;
const REDIRECTED_BYTES: usize = 100;
/// How long bytes may take to a socket of the same process, in milliseconds.
const PATIENCE_MS: u16 = 1000;

/// What an application sees of a socket of its that takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// FIONREAD counts what came through the stack.
    pub(super) counts_stack_bytes: bool,
    /// FIONREAD counts what was redirected, and splice(2) reads it.
    pub(super) shows_redirected_bytes: bool,
}

impl FastPath {
    /// Joins two sockets of our own and looks from the other end.
    ///
    /// # Errors
    /// What could not be tried.
    pub(super) fn probe(&self) -> io::Result<Seen> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let mut application = TcpStream::connect(listener.local_addr()?)?;
        let (mut ours, peer) = listener.accept()?;
        if peer != application.local_addr()? {
            return Err(io::Error::other("somebody else connected"));
        }
        for socket in [&application, &ours] {
            socket.set_nonblocking(true)?;
            socket.set_nodelay(true)?;
        }
        let ends = (Endpoint::from(ours.local_addr()?), Endpoint::from(peer));
        let wish = Wish::CLIENT_LEG.and(Wish::BOTH_WAYS);
        let request = JoinRequest::new(0, ends, ends, wish);
        let answer = self.run_here(names::PROGRAM_FAST_JOIN, request.as_bytes())?;
        if !Answer::from_bits(answer).has(Answer::joined(Wish::CLIENT_LEG)) {
            return Err(io::Error::other(format!(
                "they cannot be joined: {answer:#x}"
            )));
        }
        ours.write_all(&[0; STACK_BYTES])?;
        let counts_stack_bytes = waiting(&application, STACK_BYTES)?;
        read_all(&mut application, STACK_BYTES)?;
        ours.write_all(&[0; REDIRECTED_BYTES])?;
        // Where the kernel is short of memory they went through the stack, and tell nothing.
        let was_redirected = !self.is_queue_read(key(0, End::Client));
        let counts_redirected_bytes = waiting(&application, REDIRECTED_BYTES)?;
        let shows_redirected_bytes =
            was_redirected && counts_redirected_bytes && splices(&application)?;
        Ok(Seen {
            counts_stack_bytes,
            shows_redirected_bytes,
        })
    }
}

/// Waits until so many bytes can be read, and tells whether FIONREAD says so.
fn waiting(socket: &TcpStream, bytes: usize) -> io::Result<bool> {
    // What is small is there at once; what is not comes in pieces, and poll tells of the first.
    let mut readable = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    poll(&mut readable, PollTimeout::from(PATIENCE_MS))?;
    for _ in 0..PATIENCE_MS {
        if peeks(socket, bytes)? {
            return Ok(ioctl_fionread(socket)? == bytes as u64);
        }
        // Not all of it is there yet.
        poll(&mut [], PollTimeout::from(1_u8))?;
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// Whether so many bytes can be read.
fn peeks(socket: &TcpStream, bytes: usize) -> io::Result<bool> {
    let mut buffer = vec![0; bytes];
    match socket.peek(&mut buffer) {
        Ok(peeked) => Ok(peeked == bytes),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

fn read_all(socket: &mut TcpStream, bytes: usize) -> io::Result<()> {
    socket.set_nonblocking(false)?;
    let mut buffer = vec![0; bytes];
    socket.read_exact(&mut buffer)?;
    socket.set_nonblocking(true)
}

/// Whether splice(2) reads what waits.
fn splices(socket: &TcpStream) -> io::Result<bool> {
    let (_reader, writer) = pipe()?;
    let flags = SpliceFlags::NONBLOCK;
    match splice(socket, None, &writer, None, REDIRECTED_BYTES, flags) {
        Ok(spliced) => Ok(spliced == REDIRECTED_BYTES),
        Err(Errno::AGAIN) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
