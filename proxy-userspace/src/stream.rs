//! A connected socket of either kind: TCP, or a unix socket.
//!
//! What only one of them has is asked for here, so that nothing behind has to know which it is.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::socket::{prepare_tcp, unacknowledged};

/// A connected socket.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Within the host.
    Unix(UnixStream),
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self::Tcp(stream)
    }
}

impl From<UnixStream> for Stream {
    fn from(stream: UnixStream) -> Self {
        Self::Unix(stream)
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Stream {
    /// Sets what a leg of a session needs of its socket.
    ///
    /// # Errors
    /// The operating system's reason.
    pub fn prepare(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => prepare_tcp(stream),
            // Nothing waits for more on its way, and no peer vanishes unnoticed.
            Self::Unix(_) => Ok(()),
        }
    }

    /// Makes the close a reset, whatever is on its way. A socket that refuses the option is closed in the ordinary way;
    /// so is a unix socket, which has no reset but that of a close with bytes unread.
    pub fn set_reset(&self) {
        if let Self::Tcp(stream) = self {
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }

    /// How many bytes a reset now would discard on their way to a peer that can still take them: after the peer's own
    /// reset the socket has no peer any more, and its queue never empties. What was written to a unix socket is in the
    /// peer's queue already.
    pub fn undelivered(&self) -> usize {
        match self {
            Self::Tcp(stream) if stream.peer_addr().is_ok() => {
                unacknowledged(stream).unwrap_or_default()
            }
            Self::Tcp(_) | Self::Unix(_) => 0,
        }
    }

    /// Whether the peer has closed or reset, whatever of its is still to be read.
    pub fn has_ended(&self) -> bool {
        let asked = PollFlags::RDHUP;
        let mut polled = [PollFd::new(self, asked)];
        let told = poll(&mut polled, Some(&Timespec::default()));
        let [polled] = polled;
        let ends = asked | PollFlags::HUP | PollFlags::ERR;
        told.is_ok() && polled.revents().intersects(ends)
    }

    /// Ends our direction.
    ///
    /// # Errors
    /// The operating system's reason.
    pub fn shutdown_write(&self) -> io::Result<()> {
        SockRef::from(self).shutdown(std::net::Shutdown::Write)
    }

    /// Waits for one of these.
    ///
    /// # Errors
    /// The runtime's failure.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn ready(&self, interest: Interest) -> io::Result<tokio::io::Ready> {
        match self {
            Self::Tcp(stream) => stream.ready(interest).await,
            Self::Unix(stream) => stream.ready(interest).await,
        }
    }

    /// Waits until there is something to read.
    ///
    /// # Errors
    /// The runtime's failure.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn readable(&self) -> io::Result<()> {
        self.ready(Interest::READABLE).await.map(|_| ())
    }

    /// As [`TcpStream::poll_read_ready`].
    ///
    /// # Errors
    /// The runtime's failure.
    pub fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(context),
            Self::Unix(stream) => stream.poll_read_ready(context),
        }
    }

    /// As [`TcpStream::poll_write_ready`].
    ///
    /// # Errors
    /// The runtime's failure.
    pub fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_write_ready(context),
            Self::Unix(stream) => stream.poll_write_ready(context),
        }
    }

    /// Reads what is there. A read that leaves room in `buffer` has emptied the socket, as epoll(7) says of stream sockets,
    /// so the next one waits for the kernel to tell of more instead of asking in vain: for a short query that is one
    /// system call in four.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing; the connection's failure.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = buffer.len();
        let mut emptied_by = None;
        let read = || {
            let read = recv(self, &mut *buffer, RecvFlags::empty())?.0;
            if (1..room).contains(&read) {
                // Said from within the reading: what arrives from here on is told anew.
                emptied_by = Some(read);
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(read)
        };
        let read = match self {
            Self::Tcp(stream) => stream.try_io(Interest::READABLE, read),
            Self::Unix(stream) => stream.try_io(Interest::READABLE, read),
        };
        emptied_by.map_or(read, Ok)
    }

    /// Reads what is there of one kind, where a socket has two: redirected bytes and those from the stack. A read ends
    /// where the first kind ends, so one that leaves room says nothing.
    ///
    /// # Errors
    /// As [`Stream::try_read`].
    pub fn try_read_some(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read(buffer),
            Self::Unix(stream) => stream.try_read(buffer),
        }
    }

    /// Writes what there is room for.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; the connection's failure.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
        }
    }

    /// Likewise, whatever the runtime has heard of the socket. After `WouldBlock` it waits for the next event.
    ///
    /// # Errors
    /// As [`Stream::try_write`].
    pub fn try_write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        match send(self, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(written) => Ok(written),
            // Asked once more in the runtime's name, unless it knows.
            Err(Errno::AGAIN) => self.try_write(bytes),
            Err(error) => Err(error.into()),
        }
    }

    /// Likewise, from several buffers.
    ///
    /// # Errors
    /// As [`Stream::try_write`].
    pub fn try_write_vectored(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write_vectored(bytes),
            Self::Unix(stream) => stream.try_write_vectored(bytes),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Self::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;
    use crate::socket::socket_pair;

    async fn read(stream: &Stream, room: usize) -> Vec<u8> {
        let mut buffer = vec![0; room];
        loop {
            stream.readable().await.unwrap();
            match stream.try_read(&mut buffer) {
                Ok(read) => return buffer[..read].to_vec(),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
    }

    #[tokio::test]
    async fn what_arrives_behind_a_read_that_emptied_the_socket_is_told() {
        let (mut peer, stream) = socket_pair().await;
        let stream = Stream::from(stream);
        for _ in 0..1_000 {
            peer.write_all(b"query").await.unwrap();
            assert_eq!(read(&stream, 64).await, b"query");
        }
    }

    #[tokio::test]
    async fn a_read_that_filled_its_buffer_is_followed_by_another() {
        let (mut peer, stream) = socket_pair().await;
        let stream = Stream::from(stream);
        peer.write_all(b"0123456789").await.unwrap();
        for expected in [b"0123", b"4567"] {
            assert_eq!(read(&stream, 4).await, expected);
        }
        assert_eq!(read(&stream, 2).await, b"89");
        let mut more = [0; 2];
        let nothing = stream.try_read(&mut more).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    }

    #[tokio::test]
    async fn an_end_that_came_with_the_last_bytes_is_met_behind_them() {
        let (mut peer, stream) = socket_pair().await;
        let stream = Stream::from(stream);
        peer.write_all(b"last words").await.unwrap();
        drop(peer);
        assert_eq!(read(&stream, 64).await, b"last words");
        assert_eq!(read(&stream, 64).await, b"");
    }
}
