//! A connection of a program that waits with poll(2), as most drivers do: its socket is in non-blocking mode, without
//! which it has no part in the fast path.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::condition::DEADLINE;

/// A connection, and how long each call waits for it at most.
#[derive(Debug)]
pub struct Nonblocking {
    stream: TcpStream,
    patience: Duration,
}

impl Nonblocking {
    /// Puts a connection in non-blocking mode.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            patience: DEADLINE,
        })
    }

    /// The same connection once more.
    ///
    /// # Errors
    /// When there is no descriptor for it.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            stream: self.stream.try_clone()?,
            patience: self.patience,
        })
    }

    /// Sets how long each call waits; [`ErrorKind::WouldBlock`] is the end of it.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    fn when<T>(
        &mut self,
        events: PollFlags,
        mut call: impl FnMut(&mut TcpStream) -> io::Result<T>,
    ) -> io::Result<T> {
        let limit = PollTimeout::try_from(self.patience).map_err(io::Error::other)?;
        loop {
            match call(&mut self.stream) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                done => return done,
            }
            let mut waited = [PollFd::new(self.stream.as_fd(), events)];
            if poll(&mut waited, limit)? == 0 {
                return Err(ErrorKind::WouldBlock.into());
            }
        }
    }
}

impl Read for Nonblocking {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.when(PollFlags::POLLIN, |stream| stream.read(buffer))
    }
}

impl Write for Nonblocking {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.when(PollFlags::POLLOUT, |stream| stream.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
