//! A socket whose first bytes were read already, as a handshake reads it: those bytes first, then the socket.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::stream::Stream;

/// A socket, and what was read from it ahead of time.
pub(super) struct Rewound {
    first: BytesMut,
    stream: Stream,
}

impl Rewound {
    /// Puts `first` back in front of what `stream` will yield.
    pub(super) fn new(first: BytesMut, stream: Stream) -> Self {
        Self { first, stream }
    }

    /// The socket, from where reading stopped.
    ///
    /// # Errors
    /// `InvalidData` where some of the first bytes were left: they could not be read again.
    pub(super) fn into_stream(self) -> io::Result<Stream> {
        if self.first.is_empty() {
            Ok(self.stream)
        } else {
            Err(io::ErrorKind::InvalidData.into())
        }
    }

    /// The socket, to be closed.
    pub(super) fn abandon(self) -> Stream {
        self.stream
    }
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let most = self.first.len().min(buffer.remaining());
        buffer.put_slice(&self.first.split_to(most));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
