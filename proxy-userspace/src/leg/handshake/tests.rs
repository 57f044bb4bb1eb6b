//! Handshakes with clients that speak TLS in their own words, down to the segment.

use std::task::{Context, Waker};

use rustls::{AlertDescription, ClientConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::socket::socket_pair;
use crate::tls::tests::trusting_client;
use crate::tls::{Admitted, Certificates, admit};

/// A record of handshake type that holds no handshake message.
const NONSENSE: &[u8] = &[0x16, 3, 3, 0, 4, 0xff, 0, 0, 0];

/// A client's connection that has nothing to do with its socket.
fn client(config: Arc<ClientConfig>) -> ClientConnection {
    let name = "anything.example".try_into().unwrap();
    ClientConnection::new(config, name).unwrap()
}

fn pg_client() -> ClientConnection {
    client(trusting_client())
}

/// What `tls` wants to send.
fn flight(tls: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut bytes).unwrap();
    }
    bytes
}

async fn admitted(stream: TcpStream, first: &[u8]) -> Result<Admitted, HandshakeError> {
    let certificates = Certificates::ephemeral().unwrap();
    admit(stream.into(), first.into(), &certificates, None).await
}

/// Reads until the handshake is done as far as the client is concerned; what it has to say then is not sent yet.
async fn complete(tls: &mut ClientConnection, stream: &mut TcpStream) {
    let mut received = vec![0; 16 * 1024];
    while tls.is_handshaking() {
        let read = stream.read(&mut received).await.unwrap();
        let mut left = &received[..read];
        while !left.is_empty() {
            tls.read_tls(&mut left).unwrap();
        }
        tls.process_new_packets().unwrap();
    }
}

/// Reads until an alert or the end, and closes.
async fn verdict(mut tls: ClientConnection, mut stream: TcpStream) -> Option<rustls::Error> {
    let mut received = vec![0; 16 * 1024];
    loop {
        let read = stream.read(&mut received).await.unwrap();
        if read == 0 {
            return None;
        }
        let mut left = &received[..read];
        while !left.is_empty() {
            tls.read_tls(&mut left).unwrap();
            if let Err(error) = tls.process_new_packets() {
                return Some(error);
            }
        }
    }
}

#[tokio::test]
async fn a_hello_may_be_cut_anywhere_between_what_was_read_and_what_was_not() {
    let hello_bytes = flight(&mut pg_client()).len();
    for cut in [0, 1, 5, hello_bytes / 2, hello_bytes - 1, hello_bytes] {
        let (mut near, far) = socket_pair().await;
        let mut tls = pg_client();
        let hello = flight(&mut tls);
        let (first, rest) = hello.split_at(cut.min(hello.len()));
        let talk = async {
            near.write_all(rest).await.unwrap();
            complete(&mut tls, &mut near).await;
            near.write_all(&flight(&mut tls)).await.unwrap();
            near
        };
        let (admitted, _near) = tokio::join!(admitted(far, first), talk);
        let admitted = admitted.unwrap_or_else(|error| panic!("{cut}: {error}"));
        assert_eq!(admitted.server_name.as_deref(), Some("anything.example"));
    }
}

#[tokio::test]
async fn what_came_along_with_the_end_of_a_handshake_is_read_without_the_socket() {
    let (mut near, far) = socket_pair().await;
    let mut tls = pg_client();
    let talk = async {
        near.write_all(&flight(&mut tls)).await.unwrap();
        complete(&mut tls, &mut near).await;
        io::Write::write_all(&mut tls.writer(), b"startup packet").unwrap();
        // One segment, from the end of the handshake on.
        near.write_all(&flight(&mut tls)).await.unwrap();
        near
    };
    let (admitted, _near) = tokio::join!(admitted(far, b""), talk);
    let mut leg = admitted.unwrap().leg;
    let mut buffer = [0; 100];
    let mut context = Context::from_waker(Waker::noop());
    let read = leg.port().poll_read(&mut context, &mut buffer);
    assert!(
        matches!(read, std::task::Poll::Ready(Ok(14))) && buffer.starts_with(b"startup packet"),
        "{read:?}"
    );
}

#[tokio::test]
async fn a_client_that_breaks_the_rules_of_tls_reads_an_alert_at_once() {
    let mut other = ClientConfig::clone(&trusting_client());
    other.alpn_protocols = vec![b"http/1.1".to_vec()];
    let cases = [
        (
            Arc::new(other),
            b"".as_slice(),
            AlertDescription::NoApplicationProtocol,
        ),
        (trusting_client(), NONSENSE, AlertDescription::BadRecordMac),
    ];
    for (config, behind, alert) in cases {
        for is_read_already in [false, true] {
            let (mut near, far) = socket_pair().await;
            let mut tls = client(Arc::clone(&config));
            let said = [&flight(&mut tls)[..], behind].concat();
            let (first, rest) = said.split_at(if is_read_already { said.len() } else { 0 });
            near.write_all(rest).await.unwrap();
            let (failed, verdict) = tokio::join!(admitted(far, first), verdict(tls, near));
            assert!(matches!(failed, Err(HandshakeError::Tls(_))), "{alert:?}");
            assert_eq!(verdict, Some(rustls::Error::AlertReceived(alert)));
        }
    }
}

/// rustls has no alert for what is no hello.
#[tokio::test]
async fn what_is_no_hello_fails_and_ends_the_connection() {
    let (mut near, far) = socket_pair().await;
    near.write_all(NONSENSE).await.unwrap();
    let talk = async {
        let mut received = Vec::new();
        near.read_to_end(&mut received).await.unwrap();
        drop(near);
        received
    };
    let (failed, received) = tokio::join!(admitted(far, b""), talk);
    assert!(matches!(failed, Err(HandshakeError::Tls(_))));
    assert_eq!(received, b"");
}

#[tokio::test]
async fn a_client_that_ends_its_connection_has_failed_and_not_spoken() {
    let hello = flight(&mut pg_client());
    for said in [&hello[..hello.len() / 2], &hello[..]] {
        let (mut near, far) = socket_pair().await;
        near.write_all(said).await.unwrap();
        near.shutdown().await.unwrap();
        let failed = admitted(far, b"").await;
        assert!(
            matches!(&failed, Err(HandshakeError::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof),
            "{:?}",
            failed.err()
        );
        drop(near);
    }
}
