//! The same with TLS on one leg or on both.

use std::sync::{Arc, Mutex};
use std::task::ready;

use super::*;
use crate::leg::Leg;
use crate::tls::tests::tls_pair;

/// Which legs have TLS: the client's, the server's.
const COMBINATIONS: [(bool, bool); 3] = [(true, true), (true, false), (false, true)];

/// A client and a server, speaking plaintext as far as they can tell, with a relay between them.
struct Encrypted {
    client: Leg,
    server: Leg,
    relay: JoinHandle<Relayed>,
    force: CancellationToken,
    seen: Seen,
}

/// What the observer saw: of the client, of the server.
type Seen = Arc<Mutex<(Vec<u8>, Vec<u8>)>>;

struct Recording(Seen);

impl Observer for Recording {
    fn sent(&mut self, by: Side, bytes: &[u8]) {
        let mut seen = self.0.lock().unwrap();
        match by {
            Side::Client => seen.0.extend(bytes),
            Side::Server => seen.1.extend(bytes),
        }
    }

    fn poll_ready(&mut self, _side: Side, _context: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

async fn pair(is_tls: bool) -> (Leg, Leg) {
    if is_tls {
        return tls_pair().await;
    }
    let (near, far) = socket_pair().await;
    (near.into(), far.into())
}

async fn session((client_tls, server_tls): (bool, bool), leftover: &[u8]) -> Encrypted {
    let (client, client_leg) = pair(client_tls).await;
    let (upstream_leg, server) = pair(server_tls).await;
    let legs = Legs {
        client: client_leg,
        upstream: upstream_leg,
        from_client: BytesMut::from(leftover),
        from_server: BytesMut::from(leftover),
        shortcut: None,
    };
    let force = CancellationToken::new();
    let (stop, seen) = (force.clone(), Seen::default());
    let mut observer = Recording(Arc::clone(&seen));
    let relay = tokio::spawn(async move {
        let stops = Stops {
            force: &stop,
            revoked: &CancellationToken::new(),
        };
        relay(legs, &mut observer, PATIENT, stops).await
    });
    Encrypted {
        client,
        server,
        relay,
        force,
        seen,
    }
}

async fn read_to_end(leg: &mut Leg) -> (Vec<u8>, io::Result<()>) {
    let mut received = BytesMut::new();
    loop {
        match leg.read_buf(&mut received, 256 * 1024).await {
            Ok(0) => return (received.to_vec(), Ok(())),
            Ok(_) => {}
            Err(error) => return (received.to_vec(), Err(error)),
        }
    }
}

/// Writes everything, closes, and reads everything, all at once.
async fn talk(mut leg: Leg, sent: &[u8]) -> Vec<u8> {
    let (mut left, mut received, mut buffer) = (sent, Vec::new(), vec![0; 64 * 1024]);
    let (mut has_closed, mut has_ended) = (false, false);
    let mut port = leg.port();
    std::future::poll_fn(|context| {
        if !has_closed
            && port.poll_write_all(context, &mut left).is_ready()
            && let Poll::Ready(closed) = port.poll_shutdown(context)
        {
            closed.unwrap();
            has_closed = true;
        }
        while !has_ended {
            let read = ready!(port.poll_read(context, &mut buffer)).unwrap();
            received.extend(&buffer[..read]);
            has_ended = read == 0;
        }
        if has_closed {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    received
}

#[tokio::test]
async fn leftovers_go_first_and_both_sides_end_with_a_goodbye() {
    for combination in COMBINATIONS {
        let mut session = session(combination, b"first ").await;
        session.client.write_all(b"second").await.unwrap();
        session.client.shut_down().await.unwrap();
        let (received, end) = read_to_end(&mut session.server).await;
        assert_eq!(received, b"first second", "{combination:?}");
        end.unwrap();
        session.server.write_all(b"answer").await.unwrap();
        session.server.shut_down().await.unwrap();
        let (received, end) = read_to_end(&mut session.client).await;
        assert_eq!(received, b"first answer", "{combination:?}");
        end.unwrap();
        let relayed = session.relay.await.unwrap();
        assert_eq!(relayed.ended_by, EndedBy::ClientClosed);
        assert_eq!((relayed.to_server, relayed.to_client), (12, 12));
        let seen = session.seen.lock().unwrap();
        assert_eq!(*seen, (b"second".to_vec(), b"answer".to_vec()));
    }
}

#[tokio::test]
async fn both_directions_full_at_once_and_both_closing_lose_no_byte() {
    for combination in COMBINATIONS {
        let Encrypted {
            client,
            server,
            relay,
            ..
        } = session(combination, b"").await;
        let sent = pattern(8 * MEBIBYTE);
        let (at_client, at_server) = tokio::join!(talk(client, &sent), talk(server, &sent));
        assert!(at_client == sent && at_server == sent, "{combination:?}");
        let relayed = relay.await.unwrap();
        assert_eq!(
            (relayed.to_client, relayed.to_server),
            (sent.len() as u64, sent.len() as u64)
        );
    }
}

#[tokio::test]
async fn a_slow_reader_holds_the_sender_back() {
    for combination in COMBINATIONS {
        let mut session = session(combination, b"").await;
        let sent = pattern(64 * MEBIBYTE);
        let mut left = &sent[..];
        {
            let mut port = session.server.port();
            let writing = std::future::poll_fn(|context| port.poll_write_all(context, &mut left));
            let written = tokio::time::timeout(Duration::from_millis(500), writing).await;
            assert!(written.is_err(), "64 MiB went into a session nobody reads");
        }
        let rest = left.to_vec();
        let sending = async {
            session.server.write_all(&rest).await.unwrap();
            session.server.shut_down().await.unwrap();
        };
        let ((), (received, end)) = tokio::join!(sending, read_to_end(&mut session.client));
        end.unwrap();
        assert!(received == sent, "{combination:?}");
    }
}

#[tokio::test]
async fn a_server_that_is_cut_off_is_never_an_orderly_end_for_the_client() {
    for combination in [(true, true), (false, true)] {
        let mut session = session(combination, b"").await;
        let sent = pattern(100_000);
        session.server.write_all(&sent).await.unwrap();
        // A FIN without close_notify.
        drop(session.server.into_stream());
        let (received, end) = read_to_end(&mut session.client).await;
        assert!(received == sent, "{combination:?}");
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(session.relay.await.unwrap().ended_by, EndedBy::ServerReset);
    }
}

#[tokio::test]
async fn a_client_that_is_cut_off_is_never_an_orderly_end_for_the_server() {
    for combination in [(true, true), (true, false)] {
        let mut session = session(combination, b"").await;
        session.client.write_all(b"query").await.unwrap();
        drop(session.client.into_stream());
        let (received, end) = read_to_end(&mut session.server).await;
        assert_eq!(received, b"query", "{combination:?}");
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(session.relay.await.unwrap().ended_by, EndedBy::ClientReset);
    }
}

#[tokio::test]
async fn garbage_in_place_of_ciphertext_fails_its_peer_alone() {
    for combination in [(true, true), (false, true)] {
        let mut session = session(combination, b"").await;
        session.server.write_all(b"said before").await.unwrap();
        let mut raw = session.server.into_stream();
        raw.write_all(&[0x17, 3, 3, 0, 4, 1, 2, 3, 4])
            .await
            .unwrap();
        let (received, end) = read_to_end(&mut session.client).await;
        assert_eq!(received, b"said before", "{combination:?}");
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(session.relay.await.unwrap().ended_by, EndedBy::ServerReset);
    }
}

#[tokio::test]
async fn a_servers_last_words_arrive_although_the_client_goes_on_sending() {
    for combination in COMBINATIONS {
        let mut session = session(combination, b"").await;
        session.server.write_all(b"FATAL").await.unwrap();
        session.server.shut_down().await.unwrap();
        drop(session.server);
        let chunk = pattern(MEBIBYTE);
        while session.client.write_all(&chunk).await.is_ok() {}
        let (received, _) = read_to_end(&mut session.client).await;
        assert_eq!(received, b"FATAL", "{combination:?}");
        assert_eq!(session.relay.await.unwrap().ended_by, EndedBy::ServerClosed);
    }
}

#[tokio::test]
async fn a_forced_end_resets_both_sides_at_once() {
    for combination in COMBINATIONS {
        let mut session = session(combination, b"").await;
        session.force.cancel();
        assert_eq!(session.relay.await.unwrap().ended_by, EndedBy::Shutdown);
        for leg in [&mut session.client, &mut session.server] {
            let error = read_to_end(leg).await.1.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
    }
}
