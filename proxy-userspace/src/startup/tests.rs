//! The opening between real sockets, with both peers scripted.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::*;
use crate::socket::socket_pair;

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
const GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 48];
const STARTUP: &[u8] = b"\0\0\0\x11\0\x03\0\0user\0me\0\0";

fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

/// A client and a server around a negotiation.
struct Opened {
    client: TcpStream,
    server: TcpStream,
    leg: ClientLeg,
    upstream: TcpStream,
}

async fn open() -> Opened {
    let (client, leg) = socket_pair().await;
    let (upstream, server) = socket_pair().await;
    Opened {
        client,
        server,
        leg: ClientLeg::new(leg),
        upstream,
    }
}

async fn negotiation(
    leg: &mut ClientLeg,
    upstream: &mut TcpStream,
) -> Result<Negotiated, StartupError> {
    let first = leg.next_packet(deadline()).await?;
    let mut so_far = Negotiated::from(first.opening.clone());
    negotiate(leg, upstream, first, deadline(), &mut so_far).await?;
    Ok(so_far)
}

async fn expect(stream: &mut TcpStream, bytes: &[u8]) {
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
        opened
            .leg
            .stream
            .read_buf(&mut opened.leg.buffer)
            .await
            .unwrap();
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

#[tokio::test]
async fn a_refused_client_reads_the_reason_after_being_told_that_there_is_no_encryption() {
    let (mut client, leg) = socket_pair().await;
    let error = FatalError::new(SqlState::CannotConnectNow, "no server".to_owned());
    let script = async {
        client.write_all(&SSL_REQUEST).await.unwrap();
        expect(&mut client, b"N").await;
        client.write_all(STARTUP).await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        drop(client);
        answer
    };
    let (answer, last) = tokio::join!(script, refuse(ClientLeg::new(leg), &error, deadline()));
    assert!(matches!(last, Some(Opening::Startup(_))), "{last:?}");
    assert_eq!(answer, error.encode());
}

#[tokio::test]
async fn a_client_that_asks_for_ever_is_not_answered_for_ever() {
    let (mut client, leg) = socket_pair().await;
    let error = FatalError::new(SqlState::CannotConnectNow, "no server".to_owned());
    client.write_all(&SSL_REQUEST.repeat(100)).await.unwrap();
    refuse(ClientLeg::new(leg), &error, deadline()).await;
    let mut answers = Vec::new();
    // The close may arrive as a reset, since most of the requests were never read.
    let _ = client.read_to_end(&mut answers).await;
    assert!(
        answers.len() <= MAX_REQUESTS_BEFORE_REFUSAL + 1,
        "{answers:?}"
    );
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
        let mut leg = ClientLeg::new(leg);
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
