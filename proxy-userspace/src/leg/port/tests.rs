//! Writing to a socket that takes part in the fast path.

use std::future::poll_fn;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::UnixStream;

use super::*;
use crate::socket::socket_pair;

/// More than any socket takes without being read.
const MANY: usize = 16 << 20;

fn joined() -> JoinedSocket {
    JoinedSocket {
        has_two_queues: true,
        gate: None,
    }
}

/// Writes until the socket takes no more; tells how much it took.
fn fill(port: &mut Port<'_>) -> usize {
    let piece = vec![7; 64 * 1024];
    let mut taken = 0;
    loop {
        match port.try_write(&piece) {
            Ok(written) => taken += written,
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                return taken;
            }
        }
        assert!(taken < MANY);
    }
}

/// Once its peer has read what was taken, there is room again, and what is written arrives.
async fn takes_more(port: &mut Port<'_>, far: &mut (impl AsyncRead + Unpin), taken: usize) {
    far.read_exact(&mut vec![0; taken]).await.unwrap();
    poll_fn(|context| port.poll_write_ready(context))
        .await
        .unwrap();
    assert_eq!(port.try_write(b"more").unwrap(), 4);
    far.read_exact(&mut [0; 4]).await.unwrap();
}

#[tokio::test]
async fn a_full_socket_is_waited_for() {
    let (near, mut far) = socket_pair().await;
    let (stream, mut joined) = (Stream::from(near), joined());
    let mut port = Port::new(&stream, None, &mut joined);
    let taken = fill(&mut port);
    // Its acknowledgements tell of room.
    assert!(port.awaits_room && port.later.is_none());
    takes_more(&mut port, &mut far, taken).await;
}

#[tokio::test]
async fn a_socket_that_refuses_with_nothing_on_its_way_is_asked_again() {
    // What is written to a unix socket is never on its way.
    let (near, mut far) = UnixStream::pair().unwrap();
    let (stream, mut joined) = (Stream::from(near), joined());
    let mut port = Port::new(&stream, None, &mut joined);
    let taken = fill(&mut port);
    assert!(!port.awaits_room && port.later.is_some());
    takes_more(&mut port, &mut far, taken).await;
}
