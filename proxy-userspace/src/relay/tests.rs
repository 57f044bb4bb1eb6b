//! The relay between real sockets: what each end sees of the other.

mod encrypted;

use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{EndedBy, Legs, Observer, Relayed, Side, Stops, relay};
use crate::socket::socket_pair;

/// A client and a server with a relay between them.
struct Session {
    client: TcpStream,
    server: TcpStream,
    relay: JoinHandle<Relayed>,
    force: CancellationToken,
}

/// Looks at nothing.
struct Blind;

impl Observer for Blind {
    fn sent(&mut self, _by: Side, _bytes: &[u8]) {}

    fn poll_ready(&mut self, _side: Side, _context: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

const PATIENT: Duration = Duration::from_secs(3600);
const MEBIBYTE: usize = 1 << 20;

async fn session_with(leftover: &[u8], half_closed_timeout: Duration) -> Session {
    let (client, client_leg) = socket_pair().await;
    let (upstream_leg, server) = socket_pair().await;
    let legs = Legs {
        client: client_leg.into(),
        upstream: upstream_leg.into(),
        from_client: BytesMut::from(leftover),
        from_server: BytesMut::new(),
        shortcut: None,
    };
    let force = CancellationToken::new();
    let stop = force.clone();
    let relay = tokio::spawn(async move {
        let stops = Stops {
            force: &stop,
            revoked: &CancellationToken::new(),
        };
        relay(legs, &mut Blind, half_closed_timeout, stops).await
    });
    Session {
        client,
        server,
        relay,
        force,
    }
}

async fn session() -> Session {
    session_with(b"", PATIENT).await
}

/// Bytes that differ from their neighbours, so that a lost, doubled or swapped piece shows.
fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|index| (index % 251) as u8 ^ (index / 251) as u8)
        .collect()
}

async fn read_all(stream: &mut TcpStream) -> (Vec<u8>, io::Result<()>) {
    let mut received = Vec::new();
    let result = stream.read_to_end(&mut received).await.map(|_| ());
    (received, result)
}

fn reset(stream: TcpStream) {
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(stream);
}

#[tokio::test]
async fn what_startup_left_over_goes_first_and_a_half_close_lets_the_answer_through() {
    let mut session = session_with(b"first ", PATIENT).await;
    session.client.write_all(b"second").await.unwrap();
    session.client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut session.server).await.0, b"first second");
    session.server.write_all(b"the answer").await.unwrap();
    drop(session.server);
    let (answer, end) = read_all(&mut session.client).await;
    assert_eq!(answer, b"the answer");
    end.unwrap();
    let relayed = session.relay.await.unwrap();
    assert_eq!(relayed.ended_by, EndedBy::ClientClosed);
    assert_eq!((relayed.to_server, relayed.to_client), (12, 10));
}

#[tokio::test]
async fn of_two_closes_that_are_met_at_once_the_clients_was_first() {
    let (mut client, client_leg) = socket_pair().await;
    let (upstream_leg, mut server) = socket_pair().await;
    client.shutdown().await.unwrap();
    server.shutdown().await.unwrap();
    client_leg.readable().await.unwrap();
    upstream_leg.readable().await.unwrap();
    let legs = Legs {
        client: client_leg.into(),
        upstream: upstream_leg.into(),
        from_client: BytesMut::new(),
        from_server: BytesMut::new(),
        shortcut: None,
    };
    let never = CancellationToken::new();
    let stops = Stops {
        force: &never,
        revoked: &never,
    };
    let relayed = relay(legs, &mut Blind, PATIENT, stops).await;
    assert_eq!(relayed.ended_by, EndedBy::ClientClosed);
}

#[tokio::test]
async fn both_directions_full_at_once_still_deliver_everything() {
    let Session {
        client,
        server,
        relay,
        ..
    } = session().await;
    let sent = pattern(16 * MEBIBYTE);
    let talk = |mut stream: TcpStream, sent: Vec<u8>| async move {
        let (mut reading, mut writing) = stream.split();
        // Nobody reads before everything is written, as far as the buffers allow: then both must go on.
        let mut received = Vec::new();
        let write = async {
            writing.write_all(&sent).await.unwrap();
            writing.shutdown().await.unwrap();
        };
        tokio::join!(write, async {
            reading.read_to_end(&mut received).await.unwrap()
        });
        received
    };
    let (at_client, at_server) =
        tokio::join!(talk(client, sent.clone()), talk(server, sent.clone()));
    assert!(at_client == sent && at_server == sent);
    assert_eq!(relay.await.unwrap().to_client, sent.len() as u64);
}

#[tokio::test]
async fn a_slow_reader_holds_the_sender_back_and_loses_nothing() {
    let mut session = session().await;
    let sent = pattern(64 * MEBIBYTE);
    let mut accepted = 0;
    // Nobody reads: the sender must be stopped by backpressure long before it is done.
    while let Ok(Ok(written)) = tokio::time::timeout(
        Duration::from_millis(500),
        session.server.write(&sent[accepted..]),
    )
    .await
    {
        accepted += written;
        assert!(
            accepted < sent.len(),
            "64 MiB went into a session nobody reads"
        );
    }
    let sending = async {
        session.server.write_all(&sent[accepted..]).await.unwrap();
        session.server.shutdown().await.unwrap();
    };
    let ((), (received, _)) = tokio::join!(sending, read_all(&mut session.client));
    assert!(received == sent);
}

#[tokio::test]
async fn a_servers_reset_reaches_the_client_behind_every_byte_sent_before_it() {
    let mut session = session().await;
    let sent = pattern(100_000);
    session.server.write_all(&sent).await.unwrap();
    // The relay has it all once our own send queue is empty; a reset would discard what is still in it.
    while crate::socket::unacknowledged(&session.server).unwrap() > 0 {
        tokio::task::yield_now().await;
    }
    reset(session.server);
    let (received, end) = read_all(&mut session.client).await;
    assert!(
        received == sent,
        "{} of {} bytes",
        received.len(),
        sent.len()
    );
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(session.relay.await.unwrap().ended_by, EndedBy::ServerReset);
}

#[tokio::test]
async fn a_clients_reset_reaches_the_server_as_a_reset() {
    let mut session = session().await;
    session.client.write_all(b"query").await.unwrap();
    let mut query = [0; 5];
    session.server.read_exact(&mut query).await.unwrap();
    reset(session.client);
    let (_, end) = read_all(&mut session.server).await;
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(session.relay.await.unwrap().ended_by, EndedBy::ClientReset);
}

#[tokio::test]
async fn a_client_that_closes_in_the_middle_of_a_result_resets_the_server() {
    let mut session = session().await;
    session.client.write_all(b"query").await.unwrap();
    drop(session.client);
    let chunk = pattern(MEBIBYTE);
    let error = loop {
        if let Err(error) = session.server.write_all(&chunk).await {
            break error;
        }
    };
    assert!(
        matches!(
            error.kind(),
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
        ),
        "{error}"
    );
    assert_eq!(session.relay.await.unwrap().ended_by, EndedBy::ClientClosed);
}

#[tokio::test]
async fn a_servers_last_words_arrive_although_the_client_goes_on_sending() {
    let mut session = session().await;
    session.server.write_all(b"FATAL").await.unwrap();
    drop(session.server);
    let chunk = pattern(MEBIBYTE);
    while session.client.write_all(&chunk).await.is_ok() {}
    let (received, _) = read_all(&mut session.client).await;
    assert_eq!(received, b"FATAL");
    assert_eq!(session.relay.await.unwrap().ended_by, EndedBy::ServerClosed);
}

#[tokio::test]
async fn a_silent_client_is_closed_some_time_after_its_server_closed() {
    let mut session = session_with(b"", Duration::from_millis(50)).await;
    drop(session.server);
    assert_eq!(
        session.relay.await.unwrap().ended_by,
        EndedBy::HalfClosedTimeout
    );
    let (received, _) = read_all(&mut session.client).await;
    assert_eq!(received, b"");
}

#[tokio::test]
async fn a_forced_end_resets_both_sides_at_once() {
    let mut session = session().await;
    session.force.cancel();
    assert_eq!(session.relay.await.unwrap().ended_by, EndedBy::Shutdown);
    for stream in [&mut session.client, &mut session.server] {
        assert_eq!(
            read_all(stream).await.1.unwrap_err().kind(),
            io::ErrorKind::ConnectionReset
        );
    }
}

#[tokio::test]
async fn a_reset_that_only_answers_the_clients_close_ends_the_session_as_closed_and_at_once() {
    let mut session = session().await;
    session
        .client
        .write_all(b"Terminate, close_notify")
        .await
        .unwrap();
    drop(session.client);
    let mut terminate = [0; 9];
    session.server.read_exact(&mut terminate).await.unwrap();
    // What is left unread turns this close into a reset.
    drop(session.server);
    let relayed = tokio::time::timeout(Duration::from_secs(5), session.relay).await;
    assert_eq!(relayed.unwrap().unwrap().ended_by, EndedBy::ClientClosed);
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_left_some_time_after_its_server_has_ended() {
    let mut session = session_with(b"", Duration::from_millis(50)).await;
    let sent = pattern(64 * MEBIBYTE);
    let some_time = Duration::from_millis(500);
    let mut accepted = 0;
    while let Ok(Ok(written)) =
        tokio::time::timeout(some_time, session.server.write(&sent[accepted..])).await
    {
        accepted += written;
    }
    // As long as there is a server, the client may take its time.
    assert!(!session.relay.is_finished());
    reset(session.server);
    assert_eq!(
        session.relay.await.unwrap().ended_by,
        EndedBy::HalfClosedTimeout
    );
    let (received, end) = read_all(&mut session.client).await;
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert!(received.len() < accepted);
}
