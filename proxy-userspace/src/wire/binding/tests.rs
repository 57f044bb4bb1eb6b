//! Offers and choices, in one piece and cut at every byte.

use super::*;

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    bytes.extend(body);
    bytes
}

fn offer(mechanisms: &[&[u8]]) -> Vec<u8> {
    let mut body = AUTHENTICATION_SASL.to_vec();
    for name in mechanisms {
        body.extend_from_slice(name);
        body.push(0);
    }
    body.push(0);
    message(b'R', &body)
}

fn choice(mechanism: &[u8], data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap().to_be_bytes();
    message(b'p', &[mechanism, b"\0", &length, data].concat())
}

/// Everything the server says first, then everything the client says, cut into pieces of `size`.
fn run(
    mut binding: Binding,
    server: &[u8],
    client: &[u8],
    size: usize,
) -> (Vec<u8>, Result<Vec<u8>, Doomed>) {
    let (mut to_client, mut to_server) = (BytesMut::new(), BytesMut::new());
    for piece in server.chunks(size) {
        binding.server_sent(piece, &mut to_client);
    }
    for piece in client.chunks(size) {
        binding.client_sent(piece);
        if let Err(doomed) = binding.release(&mut to_server) {
            assert!(to_server.is_empty(), "the server heard of it");
            return (to_client.to_vec(), Err(doomed));
        }
    }
    assert!(binding.is_done());
    (to_client.to_vec(), Ok(to_server.to_vec()))
}

fn sizes() -> impl Iterator<Item = usize> {
    (1..8).chain([usize::MAX])
}

#[test]
fn a_choice_that_cannot_succeed_is_stopped_and_every_other_passes_unchanged() {
    let cases = [
        (choice(SCRAM, b"n,,n=,r=nonce"), None),
        (choice(SCRAM, b"y,,n=,r=nonce"), Some(Doomed::CouldBind)),
        (
            choice(SCRAM_PLUS, b"p=tls-server-end-point,,n=,r=x"),
            Some(Doomed::BoundToOurs),
        ),
        (choice(b"OAUTHBEARER", b"y,,"), None),
        (choice(SCRAM, b""), None),
        (message(b'p', b"SCRAM-SHA-256"), None),
        (message(b'X', b""), None),
        (b"p\0\0\xff\xff".to_vec(), None),
        (b"p\0\0\0\0".to_vec(), None),
    ];
    let offered = offer(&[SCRAM_PLUS, SCRAM]);
    for (chosen, doomed) in cases {
        for size in sizes() {
            let (to_client, to_server) = run(Binding::guarding(), &offered, &chosen, size);
            assert_eq!(to_client, offered, "the offer is relayed as it is");
            match doomed {
                Some(doomed) => assert_eq!(to_server, Err(doomed)),
                None => assert_eq!(to_server, Ok(chosen.clone())),
            }
        }
    }
}

#[test]
fn without_the_offer_nothing_is_judged() {
    let could_bind = choice(SCRAM, b"y,,n=,r=nonce");
    let negotiated = message(b'v', &[0, 3, 0, 0, 0, 0, 0, 0]);
    let openings = [
        offer(&[SCRAM]),
        offer(&[b"OAUTHBEARER"]),
        message(b'R', &3_u32.to_be_bytes()),
        message(b'R', &0_u32.to_be_bytes()),
        message(b'E', b"SFATAL\0C28000\0\0"),
        [negotiated, offer(&[SCRAM])].concat(),
        b"HTTP/1.1 400".to_vec(),
        message(b'R', &[0; 5000]),
    ];
    for opening in openings {
        for binding in [Binding::guarding, Binding::stripping] {
            for size in sizes() {
                let (to_client, to_server) = run(binding(), &opening, &could_bind, size);
                assert_eq!(to_client, opening);
                assert_eq!(to_server, Ok(could_bind.clone()));
            }
        }
    }
}

#[test]
fn for_a_client_without_tls_the_mechanism_is_taken_out_and_nothing_else() {
    let negotiated = message(b'v', &[0, 3, 0, 2, 0, 0, 0, 0]);
    let behind = message(b'N', b"what comes next");
    let server = [&negotiated[..], &offer(&[SCRAM_PLUS, SCRAM]), &behind].concat();
    let expected = [&negotiated[..], &offer(&[SCRAM]), &behind].concat();
    let chosen = choice(SCRAM, b"n,,n=,r=nonce");
    for size in sizes() {
        let (to_client, to_server) = run(Binding::stripping(), &server, &chosen, size);
        assert_eq!(to_client, expected);
        assert_eq!(to_server, Ok(chosen.clone()));
    }
    let (to_client, _) = run(Binding::stripping(), &offer(&[SCRAM_PLUS]), &chosen, 1);
    assert_eq!(to_client, offer(&[]));
}

#[test]
fn a_client_that_speaks_too_early_is_held_until_the_server_has_spoken() {
    let mut binding = Binding::guarding();
    let (mut to_client, mut to_server) = (BytesMut::new(), BytesMut::new());
    let chosen = choice(SCRAM_PLUS, b"p=tls-server-end-point,,");
    binding.client_sent(&chosen);
    assert_eq!(binding.release(&mut to_server), Ok(()));
    assert!(to_server.is_empty() && binding.wants_client());
    binding.server_sent(&offer(&[SCRAM_PLUS, SCRAM]), &mut to_client);
    assert_eq!(binding.release(&mut to_server), Err(Doomed::BoundToOurs));
    let mut flooded = Binding::guarding();
    flooded.client_sent(&[0; MAX_HELD_BYTES - 1]);
    assert!(flooded.wants_client());
    flooded.client_sent(&[0]);
    assert!(!flooded.wants_client());
}

#[test]
fn the_reason_names_every_way_out() {
    let encoded = Doomed::CouldBind.error().encode();
    let text = String::from_utf8_lossy(&encoded);
    for way in [
        "C28000",
        "own certificate and key",
        "passthrough",
        "server_sslmode",
        "channel_binding=disable",
    ] {
        assert!(text.contains(way), "{text}");
    }
}
