//! The client's end of a connection, which keeps every byte it receives until it is asked for.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::dialer::Close;
use crate::wire::Message;

/// Longest message the tests read.
const MAX_MESSAGE_BYTES: usize = 256 << 20;

/// A client's end of a connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    /// Received and not asked for yet.
    buffer: Vec<u8>,
    end: Option<Close>,
    sent: u64,
}

impl Connection {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
            end: None,
            sent: 0,
        }
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// How many bytes the kernel has taken from this end so far.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// Sends, and meanwhile reads what the server sends, so that neither waits for the other.
    ///
    /// # Errors
    /// When the server has closed, among others.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match send(
                &self.stream,
                rest,
                SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
            ) {
                Ok(written) => {
                    self.sent += written as u64;
                    rest = rest.get(written..).unwrap_or_default();
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let wanted = PollFlags::IN | PollFlags::OUT;
                    let wanted = if self.end.is_some() {
                        PollFlags::OUT
                    } else {
                        wanted
                    };
                    match poll(&mut [PollFd::new(&self.stream, wanted)], None) {
                        Ok(_) | Err(Errno::INTR) => {}
                        Err(error) => return Err(error),
                    }
                    self.read_available()?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The next message.
    pub(super) fn message(&mut self) -> Result<Message> {
        let head = self.bytes_ahead(5)?;
        let (kind, length) = match head {
            [kind, length @ ..] => (
                *kind,
                length.first_chunk::<4>().copied().unwrap_or_default(),
            ),
            [] => bail!("no message"),
        };
        let length = usize::try_from(u32::from_be_bytes(length))?;
        ensure!(
            (4..MAX_MESSAGE_BYTES).contains(&length),
            "no message begins with {}",
            self.buffer.escape_ascii()
        );
        let body = self
            .bytes_ahead(length + 1)?
            .get(5..)
            .unwrap_or_default()
            .to_vec();
        self.buffer.drain(..=length);
        Ok(Message { kind, body })
    }

    /// The type of the next message.
    pub(super) fn kind(&mut self) -> Result<u8> {
        let first = self.bytes_ahead(1)?.first().copied();
        first.context("no message")
    }

    /// Whether anything comes before the end.
    pub(super) fn is_more(&mut self) -> Result<bool> {
        while self.buffer.is_empty() && self.end.is_none() {
            self.read()?;
        }
        Ok(!self.buffer.is_empty())
    }

    /// The next so many bytes, whatever they are.
    pub(super) fn raw(&mut self, count: usize) -> Result<Vec<u8>> {
        self.bytes_ahead(count)?;
        Ok(self.buffer.drain(..count).collect())
    }

    /// Reads until `count` bytes are in the buffer, which keeps them.
    fn bytes_ahead(&mut self, count: usize) -> Result<&[u8]> {
        while self.buffer.len() < count {
            if let Some(end) = self.end {
                bail!(
                    "the server {}, after {}",
                    if end == Close::Reset {
                        "reset"
                    } else {
                        "closed"
                    },
                    self.buffer.escape_ascii()
                );
            }
            self.read()?;
        }
        Ok(self.buffer.get(..count).unwrap_or_default())
    }

    fn read(&mut self) -> Result<()> {
        let mut room = [0; 16 * 1024];
        match self.stream.read(&mut room) {
            Ok(0) => self.end = Some(Close::Ended),
            Ok(read) => self
                .buffer
                .extend_from_slice(room.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                self.end = Some(Close::Reset);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                let so_far = self.buffer.escape_ascii().to_string();
                return Err(error).with_context(|| format!("nothing came after {so_far:?}"));
            }
        }
        Ok(())
    }

    /// Reads what is there without waiting, so that a server never waits for a client that is still sending.
    pub(super) fn read_available(&mut self) -> Result<(), Errno> {
        let mut room = [0; 16 * 1024];
        while self.end.is_none() {
            match recv(&self.stream, &mut room, RecvFlags::DONTWAIT) {
                Ok((_, 0)) => self.end = Some(Close::Ended),
                Ok((_, read)) => {
                    self.buffer
                        .extend_from_slice(room.get(..read).unwrap_or_default());
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(Errno::CONNRESET) => self.end = Some(Close::Reset),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads to the end: what still came, and how it ended.
    pub(super) fn close(&mut self) -> Result<(Vec<u8>, Close)> {
        loop {
            if let Some(end) = self.end {
                return Ok((std::mem::take(&mut self.buffer), end));
            }
            self.read()?;
        }
    }
}
