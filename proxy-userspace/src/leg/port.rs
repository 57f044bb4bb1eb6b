//! A leg taken apart for polling: the socket shared, its TLS exclusive, so that the relay can watch the one while it
//! drives the other.

use std::cell::RefCell;
use std::io::{self, IoSlice, Read as _, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::Connection;
use tokio::time::{Sleep, sleep};

use crate::intercept::JoinedSocket;
use crate::stream::Stream;

/// How much ciphertext is read at a time. What it decrypts to, together with the part of a record that came before,
/// must fit the reader's buffer.
const CIPHERTEXT_BYTES: usize = 45 * 1024;
/// The most a record takes on the wire (RFC 8446, 5.2; RFC 5246, 6.2.3).
const MAX_RECORD_BYTES: usize = 5 + 16 * 1024 + 2048;
/// A reader with this much room gets its ciphertext in one piece.
const BULK_BYTES: usize = CIPHERTEXT_BYTES + MAX_RECORD_BYTES;
/// The relay reads with such a buffer.
const _: () = assert!(BULK_BYTES <= crate::relay::BUFFER_BYTES);

/// How soon a message is tried again that has to wait until the peer has read what is before it; there is no event for
/// that.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LAST_PAUSE: Duration = Duration::from_millis(128);

thread_local! {
    /// Where ciphertext lands on its way into TLS: rustls itself would ask the socket for 4 KiB at a time.
    static CIPHERTEXT: RefCell<Vec<u8>> = RefCell::new(vec![0; CIPHERTEXT_BYTES]);
}

/// A leg, borrowed for polling.
pub struct Port<'a> {
    stream: &'a Stream,
    tls: Option<&'a mut Connection>,
    joined: &'a mut JoinedSocket,
    /// Nothing is written before.
    later: Option<Pin<Box<Sleep>>>,
    pause: Duration,
    /// A joined socket was found full, and will tell when there is room.
    awaits_room: bool,
}

impl<'a> Port<'a> {
    pub(super) fn new(
        stream: &'a Stream,
        tls: Option<&'a mut Connection>,
        joined: &'a mut JoinedSocket,
    ) -> Self {
        Self {
            stream,
            tls,
            joined,
            later: None,
            pause: FIRST_PAUSE,
            awaits_room: false,
        }
    }

    /// Whether bytes of the session are on its socket as they are.
    pub fn is_plain(&self) -> bool {
        self.tls.is_none()
    }

    /// The socket.
    pub fn stream(&self) -> &'a Stream {
        self.stream
    }

    /// From now on the fast path makes this of the socket.
    pub fn set_joined(&mut self, joined: JoinedSocket) {
        *self.joined = joined;
    }

    /// Reads what is there, at least one byte; 0 is the peer's orderly end.
    pub fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            if let Some(tls) = &mut self.tls {
                match tls.reader().read(buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    done => return Poll::Ready(done),
                }
                // An earlier failure is told again here, behind everything that came before it.
                tls.process_new_packets().map_err(invalid)?;
            }
            ready!(self.stream.poll_read_ready(context))?;
            let read = match &mut self.tls {
                None if self.joined.has_two_queues => self.stream.try_read_some(buffer),
                None => self.stream.try_read(buffer),
                Some(tls) => receive(self.stream, tls, buffer),
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Ciphertext that is no plaintext yet, or the end of it: the reader knows which.
                Ok(0) if self.tls.is_some() => {}
                done => return Poll::Ready(done),
            }
        }
    }

    /// Writes what can be taken at once. Where there is TLS, [`Port::poll_flush`] must follow.
    ///
    /// # Errors
    /// `WouldBlock` when nothing can be taken; the connection's failure.
    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return self.try_write_plain(bytes);
        };
        let mut taken = 0;
        loop {
            match drain(self.stream, tls) {
                Ok(()) => {}
                // What was taken was taken; the failure will be met again.
                Err(_) if taken > 0 => return Ok(taken),
                Err(error) => return Err(error),
            }
            let rest = bytes.get(taken..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(taken);
            }
            taken += tls.writer().write(rest)?;
        }
    }

    fn try_write_plain(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let gate = self.joined.gate.as_mut();
        if gate.is_some_and(|gate| !gate.admits(bytes.len())) {
            return Err(self.pause());
        }
        let written = if self.joined.has_two_queues {
            self.stream.try_write_now(bytes)
        } else {
            self.stream.try_write(bytes)
        };
        match written {
            Ok(written) => {
                if let Some(gate) = &mut self.joined.gate {
                    gate.wrote(written);
                }
                self.pause = FIRST_PAUSE;
                Ok(written)
            }
            Err(error) if self.joined.has_two_queues => Err(self.refused(error)),
            Err(error) => Err(error),
        }
    }

    /// What becomes of a write that a joined socket refused. Where there is no memory, the stack would have waited and told of
    /// it in the end; a redirect fails, or says that there is no room and never that there is: it says that with a byte's
    /// acknowledgement, and no byte is on its way.
    fn refused(&mut self, error: io::Error) -> io::Error {
        match error.kind() {
            io::ErrorKind::OutOfMemory => self.pause(),
            io::ErrorKind::WouldBlock if self.stream.undelivered() == 0 => self.pause(),
            io::ErrorKind::WouldBlock => {
                self.awaits_room = true;
                error
            }
            _ => error,
        }
    }

    /// Has the next write wait, longer each time.
    fn pause(&mut self) -> io::Error {
        self.later = Some(Box::pin(sleep(self.pause)));
        self.pause = (self.pause * 2).min(LAST_PAUSE);
        io::ErrorKind::WouldBlock.into()
    }

    /// Waits until [`Port::try_write`] may take something.
    pub fn poll_write_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(later) = &mut self.later {
            ready!(later.as_mut().poll(context));
            self.later = None;
        }
        ready!(self.poll_flush(context))?;
        // A joined socket has room until it says otherwise.
        if self.joined.has_two_queues && !self.awaits_room {
            return Poll::Ready(Ok(()));
        }
        ready!(self.stream.poll_write_ready(context))?;
        self.awaits_room = false;
        Poll::Ready(Ok(()))
    }

    /// Waits until the socket has taken everything that TLS holds.
    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(tls) = &mut self.tls else {
            return Poll::Ready(Ok(()));
        };
        loop {
            match drain(self.stream, tls) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.stream.poll_write_ready(context))?;
                }
                done => return Poll::Ready(done),
            }
        }
    }

    /// Writes what is left of `left` and flushes.
    pub fn poll_write_all(
        &mut self,
        context: &mut Context<'_>,
        left: &mut &[u8],
    ) -> Poll<io::Result<()>> {
        while !left.is_empty() {
            ready!(self.poll_write_ready(context))?;
            match self.try_write(left) {
                Ok(written) => super::advance(left, written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        self.poll_flush(context)
    }

    /// Passes a close on: close_notify where there is TLS, everything that waits, then FIN.
    pub fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(tls) = &mut self.tls {
            // Once only; rustls remembers.
            tls.send_close_notify();
        }
        ready!(self.poll_flush(context))?;
        Poll::Ready(self.stream.shutdown_write())
    }

    /// Sends what TLS itself has to say, answers to the peer's key updates and alerts, as far as the socket takes it.
    /// What is left waits for the next write.
    pub fn flush_answers(&mut self, context: &mut Context<'_>) {
        // A failure will be met by whoever writes next; an alert may have been the last word.
        let _ = self.poll_flush(context);
    }
}

/// Reads ciphertext once. Returns the plaintext bytes now in `buffer`; 0 when there are none yet, or the end is near.
fn receive(stream: &Stream, tls: &mut Connection, buffer: &mut [u8]) -> io::Result<usize> {
    if buffer.len() < BULK_BYTES {
        tls.read_tls(&mut Socket(stream))?;
        // The failure is told by the next call, behind the plaintext ahead of it.
        let _ = tls.process_new_packets();
        return Ok(0);
    }
    CIPHERTEXT.with_borrow_mut(|scratch| {
        let read = stream.try_read(scratch)?;
        let mut ciphertext = scratch.get(..read).unwrap_or_default();
        let mut filled = 0;
        loop {
            // Also of nothing: that is how TLS learns of the end.
            let taken = tls.read_tls(&mut ciphertext)?;
            let failed = tls.process_new_packets().is_err();
            while let Ok(read @ 1..) = tls
                .reader()
                .read(buffer.get_mut(filled..).unwrap_or_default())
            {
                filled += read;
            }
            if failed || taken == 0 || ciphertext.is_empty() {
                return Ok(filled);
            }
        }
    })
}

/// Writes what TLS holds until there is nothing left or the socket is full (`WouldBlock`).
fn drain(stream: &Stream, tls: &mut Connection) -> io::Result<()> {
    while tls.wants_write() {
        tls.write_tls(&mut Socket(stream))?;
    }
    Ok(())
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// A non-blocking socket for TLS to read from and write to.
struct Socket<'a>(&'a Stream);

impl io::Read for Socket<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl io::Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
