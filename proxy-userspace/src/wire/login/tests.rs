//! Logins as streams of messages.

use super::*;

/// Messages in the order sent; `p` is the client's.
type Talk<'a> = &'a [(u8, &'a [u8])];

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    bytes.extend(body);
    bytes
}

/// Runs a stream through the watch in one piece and byte by byte; both must agree.
fn watch(stream: &[u8]) -> LoginWatch {
    let mut whole = LoginWatch::new();
    whole.observe(stream);
    let mut bytewise = LoginWatch::new();
    stream.chunks(1).for_each(|byte| bytewise.observe(byte));
    assert_eq!(whole.outcome(), bytewise.outcome());
    assert_eq!(whole.backend_pid(), bytewise.backend_pid());
    whole
}

fn accepted_login() -> Vec<u8> {
    let mut stream = message(b'R', &[0, 0, 0, 10, b'S', 0, 0]);
    stream.extend(message(b'R', &[0, 0, 0, 11, b'x']));
    stream.extend(message(b'R', &[0, 0, 0, 0]));
    stream.extend(message(b'N', &[b'x'; 5000]));
    stream.extend(message(b'S', b"a\0b\0"));
    stream.extend(message(b'K', &[0, 0, 1, 2, 9, 9, 9, 9]));
    stream.extend(message(b'Z', b"I"));
    stream
}

#[test]
fn a_login_is_accepted_at_ready_for_query_and_the_backend_is_known() {
    let stream = accepted_login();
    let login = watch(&stream);
    assert_eq!(login.outcome(), &LoginOutcome::Accepted);
    assert_eq!(login.backend_pid(), Some(258));
    let before_ready = watch(&stream[..stream.len() - 1]);
    assert_eq!(before_ready.outcome(), &LoginOutcome::Unanswered);
}

#[test]
fn an_error_before_ready_for_query_is_a_rejection_with_its_sqlstate() {
    let mut after_ok = message(b'R', &[0, 0, 0, 0]);
    after_ok.extend(message(
        b'E',
        b"SFATAL\0VFATAL\0C3D000\0Mno such database\0\0",
    ));
    let cases = [
        (message(b'E', b"SFATAL\0C28P01\0Mwrong\0\0"), Some("28P01")),
        (message(b'E', b"SFATAL\0Mno state\0\0"), None),
        (message(b'E', b""), None),
        (message(b'E', b"Cshort\0\0"), None),
        (after_ok, Some("3D000")),
    ];
    for (stream, sqlstate) in cases {
        let expected = LoginOutcome::Rejected {
            sqlstate: sqlstate.map(str::to_owned),
        };
        assert_eq!(watch(&stream).outcome(), &expected);
    }
}

/// What the server asks and the client answers, each cut into bytes.
fn method(talk: Talk<'_>) -> Option<Method> {
    let mut login = LoginWatch::new();
    for (kind, body) in talk {
        for byte in message(*kind, body).chunks(1) {
            match kind {
                b'p' => login.observe_client(byte),
                _ => login.observe(byte),
            }
        }
    }
    login.method()
}

#[test]
fn the_method_is_what_the_server_asked_for_and_the_client_chose() {
    let scram = b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0".as_slice();
    let chosen = |name: &'static [u8]| [(b'R', scram), (b'p', name), (b'R', &[0; 4])];
    let cases: [(Talk<'_>, Option<Method>); 12] = [
        (&[], None),
        (&[(b'R', &[0; 4])], Some(Method::None)),
        (&[(b'R', &[0, 0, 0, 3])], Some(Method::Password)),
        (
            &[(b'R', &[0, 0, 0, 3]), (b'p', b"x\0"), (b'R', &[0; 4])],
            Some(Method::Password),
        ),
        (&[(b'R', &[0, 0, 0, 5, 1, 2, 3, 4])], Some(Method::Md5)),
        (
            &[(b'R', &[0, 0, 0, 7]), (b'R', &[0, 0, 0, 8])],
            Some(Method::Gss),
        ),
        (&[(b'R', &[0, 0, 0, 9])], Some(Method::Sspi)),
        (&[(b'R', &[0, 0, 0, 2])], Some(Method::Other)),
        (&[(b'R', scram)], Some(Method::Sasl)),
        (
            &chosen(b"SCRAM-SHA-256\0\0\0\0\x01n"),
            Some(Method::ScramSha256),
        ),
        (
            &chosen(b"SCRAM-SHA-256-PLUS\0\0\0\0\x01p"),
            Some(Method::ScramSha256Plus),
        ),
        (
            &chosen(b"OAUTHBEARER\0\xff\xff\xff\xff"),
            Some(Method::OauthBearer),
        ),
    ];
    for (talk, expected) in cases {
        assert_eq!(method(talk), expected, "{talk:?}");
    }
}

#[test]
fn a_mechanism_is_looked_for_in_the_first_answer_to_sasl_only() {
    let sasl = (b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0".as_slice());
    let first = (b'p', b"SCRAM-SHA-256\0rest".as_slice());
    let second = (b'p', b"OAUTHBEARER\0".as_slice());
    assert_eq!(method(&[sasl, first, second]), Some(Method::ScramSha256));
    assert_eq!(method(&[second, sasl]), Some(Method::Sasl));
    assert_eq!(method(&[sasl, (b'p', b"unknown\0")]), Some(Method::Other));
    assert_eq!(
        method(&[sasl, (b'p', b"no terminator")]),
        Some(Method::Sasl)
    );
}

#[test]
fn what_the_server_says_of_versions_keys_and_channel_binding_is_known() {
    let mut login = LoginWatch::new();
    login.observe(&message(b'v', &[0, 3, 0, 0, 0, 0, 0, 0]));
    assert_eq!(login.negotiated_protocol(), Some(3 << 16));
    assert!(!login.offers_channel_binding());
    login.observe(&message(
        b'R',
        b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0",
    ));
    assert!(login.offers_channel_binding());
    login.observe(&message(b'R', &[0; 4]));
    login.observe(&message(
        b'K',
        &[[0, 0, 0, 9].as_slice(), &[1; 256]].concat(),
    ));
    assert_eq!(login.backend_pid(), Some(9));
    assert_eq!(login.cancel_key_bytes(), Some(256));
    assert!(!login.is_done());
}

#[test]
fn a_client_that_breaks_the_protocol_leaves_the_answer_to_the_server() {
    let mut login = LoginWatch::new();
    login.observe_client(b"!\0\0\0\x04");
    login.observe_client(b"more");
    login.observe(&message(b'E', b"SFATAL\0C08P01\0\0"));
    let sqlstate = Some("08P01".to_owned());
    assert_eq!(login.outcome(), &LoginOutcome::Rejected { sqlstate });
}

#[test]
fn what_is_not_protocol_three_is_opaque_and_ends_the_watch() {
    let streams = [
        b"HTTP/1.1 400".to_vec(),
        message(b'Z', b"I"),
        vec![b'R', 0, 0, 0, 3],
        vec![0x15, 3, 3, 0, 2],
    ];
    for stream in streams {
        let login = watch(&stream);
        assert_eq!(login.outcome(), &LoginOutcome::Opaque, "{stream:?}");
        assert!(login.is_done());
    }
}

#[test]
fn a_promised_gigabyte_is_not_allocated() {
    let mut login = LoginWatch::new();
    login.observe(&[b'N', 0x3f, 0xff, 0xff, 0xff]);
    for _ in 0..1000 {
        login.observe(&[0; 1000]);
    }
    assert!(login.server.prefix.capacity() <= 2 * MAX_BODY_BYTES);
    assert!(!login.is_done());
}
