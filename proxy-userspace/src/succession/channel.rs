//! The connection between an instance and its successor: lines of JSON, and once a descriptor.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use bytes::{Buf as _, BytesMut};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;

/// The longest message taken: a cancel key with the longest names.
const MAX_MESSAGE_BYTES: usize = 256 * 1024;
/// What a descriptor comes with; a message without a byte is an end.
const DESCRIPTOR_MARK: u8 = b'=';

/// Why a message did not come.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The other end closed.
    #[error("the other pgusher closed the connection")]
    Closed,
    /// It sent something else than was agreed.
    #[error("the other pgusher sent what this version does not understand: {0}")]
    NotUnderstood(String),
    /// The operating system's reason.
    #[error(transparent)]
    Io(io::Error),
}

impl From<io::Error> for ChannelError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

/// One end of the connection.
pub struct Channel {
    stream: UnixStream,
    received: BytesMut,
}

impl Channel {
    /// Speaks over `stream`, of which `received` has been read already.
    pub fn new(stream: UnixStream, received: &[u8]) -> Self {
        Self {
            stream,
            received: BytesMut::from(received),
        }
    }

    /// Sends one message.
    ///
    /// # Errors
    /// [`ChannelError`]
    pub async fn send(&mut self, message: &impl Serialize) -> Result<(), ChannelError> {
        let mut line = serde_json::to_vec(message).map_err(io::Error::from)?;
        line.push(b'\n');
        Ok(self.stream.write_all(&line).await?)
    }

    /// Receives one message.
    ///
    /// # Errors
    /// [`ChannelError`]
    ///
    /// # Cancel safety
    /// Cancel safe: what was received stays.
    pub async fn receive<T: DeserializeOwned>(&mut self) -> Result<T, ChannelError> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.received) {
                let line = self.received.split_to(end);
                self.received.advance(1);
                return serde_json::from_slice(&line)
                    .map_err(|error| ChannelError::NotUnderstood(error.to_string()));
            }
            if self.received.len() > MAX_MESSAGE_BYTES {
                return Err(ChannelError::NotUnderstood("too long a message".to_owned()));
            }
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(ChannelError::Closed);
            }
        }
    }

    /// Sends a descriptor.
    ///
    /// # Errors
    /// [`ChannelError`]
    pub async fn send_descriptor(&self, descriptor: BorrowedFd<'_>) -> Result<(), ChannelError> {
        let send = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let descriptors = [descriptor];
            if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            let mark = [DESCRIPTOR_MARK];
            let sent = sendmsg(
                &self.stream,
                &[IoSlice::new(&mark)],
                &mut control,
                SendFlags::NOSIGNAL,
            );
            Ok(sent.map(|_| ())?)
        };
        Ok(self.stream.async_io(Interest::WRITABLE, send).await?)
    }

    /// Receives the descriptor that is to come next.
    ///
    /// # Errors
    /// [`ChannelError`]
    pub async fn receive_descriptor(&mut self) -> Result<OwnedFd, ChannelError> {
        if !self.received.is_empty() {
            let text = "a message where a descriptor was to come".to_owned();
            return Err(ChannelError::NotUnderstood(text));
        }
        let receive = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut mark = [0];
            let received = recvmsg(
                &self.stream,
                &mut [IoSliceMut::new(&mut mark)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            )?;
            let rights = control.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
                _ => None,
            });
            Ok((received.bytes, mark, rights))
        };
        match self.stream.async_io(Interest::READABLE, receive).await? {
            (0, ..) => Err(ChannelError::Closed),
            (_, [DESCRIPTOR_MARK], Some(descriptor)) => Ok(descriptor),
            _ => Err(ChannelError::NotUnderstood(
                "no descriptor where one was to come".to_owned(),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsFd as _;

    use super::*;

    #[tokio::test]
    async fn messages_arrive_whole_and_a_descriptor_between_them() {
        let (one, two) = UnixStream::pair().unwrap();
        let mut near = Channel::new(one, b"");
        let mut far = Channel::new(two, b"\"was read before\"\n\"ha");
        assert_eq!(far.receive::<String>().await.unwrap(), "was read before");
        near.stream.write_all(b"lf\"\n").await.unwrap();
        assert_eq!(far.receive::<String>().await.unwrap(), "half");
        let mut file = tempfile::tempfile().unwrap();
        near.send_descriptor(file.as_fd()).await.unwrap();
        near.send(&7).await.unwrap();
        let mut other = std::fs::File::from(far.receive_descriptor().await.unwrap());
        file.write_all(b"x").unwrap();
        io::Seek::rewind(&mut other).unwrap();
        let mut text = String::new();
        other.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
        assert_eq!(far.receive::<u32>().await.unwrap(), 7);
        drop(near);
        let end = far.receive::<u32>().await;
        assert!(matches!(end, Err(ChannelError::Closed)), "{end:?}");
    }

    #[tokio::test]
    async fn what_was_not_agreed_is_an_error() {
        let (mut one, two) = UnixStream::pair().unwrap();
        let mut far = Channel::new(two, b"");
        one.write_all(b"{\n=").await.unwrap();
        let answer = far.receive::<u32>().await;
        assert!(matches!(answer, Err(ChannelError::NotUnderstood(_))));
        far.received.clear();
        one.write_all(b"=").await.unwrap();
        let answer = far.receive_descriptor().await;
        assert!(matches!(answer, Err(ChannelError::NotUnderstood(_))));
        let long = vec![b' '; MAX_MESSAGE_BYTES + 1];
        let writing = tokio::spawn(async move {
            let _ = one.write_all(&long).await;
        });
        let answer = far.receive::<u32>().await;
        assert!(matches!(answer, Err(ChannelError::NotUnderstood(_))));
        drop(far);
        writing.await.unwrap();
    }
}
