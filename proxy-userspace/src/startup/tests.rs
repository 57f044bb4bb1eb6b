//! The opening between real sockets, with both peers scripted.

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use bytes::Bytes;
use rustls::pki_types::ServerName;

use super::*;
use crate::leg::Leg;
use crate::socket::socket_pair;
use crate::tls::tests::trusting_client;
use crate::wire::error_response::{FatalError, SqlState};

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
const GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 48];
const STARTUP: &[u8] = b"\0\0\0\x11\0\x03\0\0user\0me\0\0";

fn deadline() -> Instant {
    Instant::now() + std::time::Duration::from_secs(30)
}

fn client_leg(stream: TcpStream) -> ClientLeg {
    ClientLeg::new(stream, Arc::new(Certificates::ephemeral().unwrap()))
}

/// A client and a server around a negotiation.
struct Opened {
    client: TcpStream,
    server: TcpStream,
    leg: ClientLeg,
    upstream: Stream,
}

async fn open() -> Opened {
    let (client, leg) = socket_pair().await;
    let (upstream, server) = socket_pair().await;
    Opened {
        client,
        server,
        leg: client_leg(leg),
        upstream: upstream.into(),
    }
}

async fn negotiation(
    leg: &mut ClientLeg,
    upstream: &mut Stream,
) -> Result<Negotiated, StartupError> {
    let first = leg.next_packet(deadline()).await?;
    let mut so_far = Negotiated::from(first.opening);
    negotiate(leg, upstream, deadline(), &mut so_far, &mut |_| Ok(())).await?;
    Ok(so_far)
}

async fn expect(stream: &mut (impl AsyncRead + Unpin), bytes: &[u8]) {
    let mut read = vec![0; bytes.len()];
    stream.read_exact(&mut read).await.unwrap();
    assert_eq!(read, bytes);
}

#[tokio::test]
async fn refused_encryption_leads_to_a_readable_session_whatever_was_asked_for() {
    for requests in [
        vec![],
        vec![SSL_REQUEST],
        vec![GSS_REQUEST],
        vec![GSS_REQUEST, SSL_REQUEST],
    ] {
        let mut opened = open().await;
        let (mut client, mut server) = (opened.client, opened.server);
        let script = async {
            for request in &requests {
                // A byte at a time: no packet may be expected in one piece.
                for byte in request {
                    client.write_all(&[*byte]).await.unwrap();
                }
                expect(&mut server, request).await;
                server.write_all(b"N").await.unwrap();
                expect(&mut client, b"N").await;
            }
            client.write_all(STARTUP).await.unwrap();
        };
        let ((), negotiated) =
            tokio::join!(script, negotiation(&mut opened.leg, &mut opened.upstream));
        let negotiated = negotiated.unwrap();
        assert!(negotiated.readable);
        assert!(matches!(negotiated.opening, Opening::Startup(_)));
        let asked = requests.len() as u64;
        assert_eq!(negotiated.passed, (8 * asked, asked));
        let expected = if requests.is_empty() {
            Encryption::None
        } else {
            Encryption::Refused
        };
        assert_eq!(negotiated.encryption, expected);
        assert_eq!(
            opened.leg.buffer, STARTUP,
            "the startup packet is the relay's to forward"
        );
    }
}

#[tokio::test]
async fn a_request_that_the_server_closes_on_is_sent_once() {
    let mut opened = open().await;
    opened.client.write_all(&SSL_REQUEST).await.unwrap();
    let server = async {
        expect(&mut opened.server, &SSL_REQUEST).await;
        drop(opened.server);
    };
    let ((), negotiated) = tokio::join!(server, negotiation(&mut opened.leg, &mut opened.upstream));
    assert_eq!(negotiated.unwrap().passed, (8, 0));
    assert!(opened.leg.buffer.is_empty());
}

#[tokio::test]
async fn accepted_encryption_ends_what_can_be_read_and_no_byte_behind_the_answer_is_taken() {
    for (request, answer, encryption) in [
        (SSL_REQUEST, b'S', Encryption::Tls),
        (GSS_REQUEST, b'G', Encryption::Gss),
    ] {
        let mut opened = open().await;
        opened.client.write_all(&request).await.unwrap();
        opened
            .server
            .write_all(&[answer, b'x', b'y'])
            .await
            .unwrap();
        let negotiated = negotiation(&mut opened.leg, &mut opened.upstream)
            .await
            .unwrap();
        assert_eq!(
            (negotiated.encryption, negotiated.readable),
            (encryption, false)
        );
        expect(&mut opened.client, &[answer]).await;
        expect(&mut opened.upstream, b"xy").await;
    }
}

#[tokio::test]
async fn what_was_sent_along_with_a_request_is_left_for_the_server_to_judge() {
    let mut opened = open().await;
    let early = [&SSL_REQUEST[..], STARTUP].concat();
    opened.client.write_all(&early).await.unwrap();
    // Both must be there before the first packet is looked at.
    while opened.leg.buffer.len() < early.len() {
        opened.leg.read(deadline()).await.unwrap();
    }
    let negotiated = negotiation(&mut opened.leg, &mut opened.upstream)
        .await
        .unwrap();
    assert!(
        !negotiated.readable,
        "the startup packet was taken at its word"
    );
    assert_eq!(opened.leg.buffer, early);
}

#[tokio::test]
async fn a_second_request_of_a_kind_is_left_for_the_server_to_judge() {
    let mut opened = open().await;
    opened.client.write_all(&SSL_REQUEST).await.unwrap();
    opened.server.write_all(b"N").await.unwrap();
    let (mut client, mut leg) = (opened.client, opened.leg);
    let script = async {
        expect(&mut client, b"N").await;
        client.write_all(&SSL_REQUEST).await.unwrap();
    };
    let ((), negotiated) = tokio::join!(script, negotiation(&mut leg, &mut opened.upstream));
    assert!(!negotiated.unwrap().readable);
    assert_eq!(leg.buffer, SSL_REQUEST[..]);
}

/// What a client reads inside TLS after its startup packet.
async fn read_inside(stream: TcpStream) -> Bytes {
    let name = ServerName::try_from("anything.example").unwrap();
    let mut leg = Leg::connect(stream.into(), trusting_client(), name)
        .await
        .unwrap();
    leg.write_all(STARTUP).await.unwrap();
    let mut answer = BytesMut::new();
    while leg.read_buf(&mut answer, 1000).await.unwrap() > 0 {}
    answer.freeze()
}

#[tokio::test]
async fn a_refused_client_reads_the_reason_inside_the_tls_it_asked_for() {
    for requests in [vec![], vec![SSL_REQUEST], vec![GSS_REQUEST, SSL_REQUEST]] {
        let (mut client, leg) = socket_pair().await;
        let error = FatalError::new(SqlState::CannotConnectNow, "no server".to_owned());
        let is_direct = requests.is_empty();
        let script = async {
            for request in requests {
                client.write_all(&request).await.unwrap();
                let answer: &[u8] = if request == SSL_REQUEST { b"S" } else { b"N" };
                expect(&mut client, answer).await;
            }
            read_inside(client).await
        };
        let (answer, last) = tokio::join!(script, refuse(client_leg(leg), &error, deadline()));
        let (opening, encryption) = last;
        assert!(matches!(opening, Some(Opening::Startup(_))), "{opening:?}");
        let expected = if is_direct {
            Encryption::DirectTlsTerminated
        } else {
            Encryption::TlsTerminated
        };
        assert_eq!(encryption, expected);
        assert_eq!(answer, error.encode());
    }
}

#[tokio::test]
async fn a_refused_client_that_goes_on_without_gss_reads_the_reason_in_plain_text() {
    let (mut client, leg) = socket_pair().await;
    let error = FatalError::new(SqlState::CannotConnectNow, "no server".to_owned());
    let script = async {
        client.write_all(&GSS_REQUEST).await.unwrap();
        expect(&mut client, b"N").await;
        client.write_all(STARTUP).await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        drop(client);
        answer
    };
    let (answer, last) = tokio::join!(script, refuse(client_leg(leg), &error, deadline()));
    assert_eq!(last.1, Encryption::Refused);
    assert_eq!(answer, error.encode());
}

#[tokio::test]
async fn what_comes_along_with_a_request_ends_the_opening_with_postgresqls_words() {
    let (mut client, leg) = socket_pair().await;
    let error = FatalError::new(SqlState::CannotConnectNow, "no server".to_owned());
    client.write_all(&SSL_REQUEST.repeat(100)).await.unwrap();
    let last = refuse(client_leg(leg), &error, deadline()).await;
    assert_eq!(last, (None, Encryption::None));
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert!(
        answer.starts_with(b"E") && answer.windows(5).any(|field| field == b"08P01"),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_client_that_never_finishes_its_handshake_is_given_up_at_the_deadline() {
    let (mut client, leg) = socket_pair().await;
    client.write_all(&[0x16, 3, 1]).await.unwrap();
    let soon = Instant::now() + std::time::Duration::from_millis(50);
    let turned = super::open(client_leg(leg), soon).await.err().unwrap();
    assert!(matches!(
        turned,
        Turned::HandshakeTimedOut(Encryption::DirectTlsTerminated)
    ));
}

#[tokio::test]
async fn bytes_that_are_no_packet_are_answered_as_the_server_would() {
    let cases: [(&[u8], bool); 2] = [
        (b"\0\0\0\x0c\0\x03\0\0user", true),
        (b"GET / HTTP/1.1\r\n\r\n", false),
    ];
    for (bytes, is_answered) in cases {
        let (mut client, leg) = socket_pair().await;
        client.write_all(bytes).await.unwrap();
        let mut leg = client_leg(leg);
        let Err(StartupError::Malformed(error)) = leg.next_packet(deadline()).await else {
            panic!("{bytes:?} was taken for a packet");
        };
        let script = async {
            client.shutdown().await.unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            answer
        };
        let (answer, ()) = tokio::join!(script, refuse_malformed(leg, error, deadline()));
        assert_eq!(
            answer.windows(5).any(|field| field == b"08P01"),
            is_answered,
            "{answer:?}"
        );
    }
}

#[tokio::test]
async fn a_handshake_that_fails_is_remembered_as_the_encryption_that_was_attempted() {
    let error = FatalError::new(SqlState::CannotConnectNow, "no server".to_owned());
    for (request, expected) in [
        (&SSL_REQUEST[..], Encryption::TlsTerminated),
        // The first byte of a hello, and nothing of a hello behind it.
        (
            &b"\x16\x03\x03\x00\x01\xff"[..],
            Encryption::DirectTlsTerminated,
        ),
    ] {
        let (mut client, leg) = socket_pair().await;
        client.write_all(request).await.unwrap();
        client.shutdown().await.unwrap();
        let last = refuse(client_leg(leg), &error, deadline()).await;
        assert_eq!(last, (None, expected));
    }
}
