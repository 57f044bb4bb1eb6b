//! Every order in which a client can open.

use super::*;

const SSL: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
const GSS: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 48];
const CANCEL: [u8; 16] = [0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 0, 1, 0, 0, 0, 2];
const STARTUP: &[u8] = b"\0\0\0\x11\0\x03\0\0user\0me\0\0";
const CLIENT_HELLO: [u8; 5] = [0x16, 3, 1, 0, 200];

fn is_opened(step: &Step) -> bool {
    matches!(step, Step::Opened(_))
}

#[test]
fn a_terminated_client_may_ask_for_gss_and_then_for_tls_or_for_neither() {
    let orders: [(&[&[u8]], Encryption); 4] = [
        (&[], Encryption::None),
        (&[&GSS], Encryption::Refused),
        (&[&SSL], Encryption::TlsTerminated),
        (&[&GSS, &SSL], Encryption::TlsTerminated),
    ];
    for (requests, encryption) in orders {
        for last in [STARTUP, &CANCEL] {
            let mut negotiation = Negotiation::terminating();
            for request in requests {
                for end in 0..request.len() {
                    assert_eq!(negotiation.next(&request[..end]), Ok(Step::Read));
                }
                let expected = if **request == SSL {
                    Step::StartTls { bytes: 8 }
                } else {
                    Step::Answer {
                        bytes: 8,
                        answer: b'N',
                    }
                };
                assert_eq!(negotiation.next(request), Ok(expected));
            }
            assert!(is_opened(&negotiation.next(last).unwrap()));
            assert_eq!(negotiation.encryption(), encryption, "{requests:?}");
        }
    }
}

#[test]
fn direct_tls_is_the_very_first_byte_or_none() {
    let mut direct = Negotiation::terminating();
    assert_eq!(
        direct.next(&CLIENT_HELLO[..1]),
        Ok(Step::StartTls { bytes: 0 })
    );
    assert_eq!(direct.encryption(), Encryption::DirectTlsTerminated);
    // Inside, TLS is another opening that PostgreSQL does not know.
    assert_eq!(direct.next(&CLIENT_HELLO), Err(OpeningError::Length));
    // It answers requests inside direct TLS with a no, once.
    let no = Step::Answer {
        bytes: 8,
        answer: b'N',
    };
    assert_eq!(direct.next(&SSL), Ok(no));
    let again = Violation::Repeated {
        code: opening::SSL_REQUEST,
    };
    assert_eq!(direct.next(&SSL), Ok(Step::Refuse(again)));
    assert!(is_opened(&direct.next(STARTUP).unwrap()));

    let mut late = Negotiation::terminating();
    late.next(&GSS).unwrap();
    assert_eq!(late.next(&CLIENT_HELLO), Err(OpeningError::Length));
}

#[test]
fn what_comes_along_with_a_request_is_never_taken_for_what_tls_carries() {
    let cases = [
        (SSL, Violation::DataAfterSslRequest),
        (GSS, Violation::DataAfterGssRequest),
    ];
    for (request, violation) in cases {
        for behind in [b"x".as_slice(), STARTUP, &SSL, &CLIENT_HELLO] {
            let early = [&request[..], behind].concat();
            let step = Negotiation::terminating().next(&early);
            assert_eq!(step, Ok(Step::Refuse(violation)), "{behind:?}");
            let step = Negotiation::relaying().next(&early);
            assert_eq!(step, Ok(Step::Opaque), "the server judges {behind:?}");
        }
    }
}

#[test]
fn no_request_is_answered_twice_nor_inside_the_tls_it_led_to() {
    for (first, second, code) in [
        (SSL, SSL, opening::SSL_REQUEST),
        (SSL, GSS, opening::GSS_REQUEST),
        (GSS, GSS, opening::GSS_REQUEST),
    ] {
        let mut negotiation = Negotiation::terminating();
        negotiation.next(&first).unwrap();
        let expected = Step::Refuse(Violation::Repeated { code });
        assert_eq!(negotiation.next(&second), Ok(expected));
    }
    let mut inside = Negotiation::inside_tls(Encryption::TlsTerminated);
    assert!(matches!(inside.next(&SSL), Ok(Step::Refuse(_))));
}

#[test]
fn a_relayed_request_is_the_servers_to_answer_and_only_a_no_goes_on() {
    let answers = [
        (Some(b'N'), true, Encryption::Refused),
        (Some(b'S'), false, Encryption::Tls),
        (Some(b'G'), false, Encryption::Gss),
        (Some(b'E'), false, Encryption::None),
        (None, false, Encryption::None),
    ];
    for (answer, goes_on, encryption) in answers {
        let mut negotiation = Negotiation::relaying();
        assert_eq!(negotiation.next(&SSL), Ok(Step::Forward { bytes: 8 }));
        assert_eq!(negotiation.answered(answer), goes_on, "{answer:?}");
        assert_eq!(negotiation.encryption(), encryption, "{answer:?}");
    }
    let mut both = Negotiation::relaying();
    for request in [GSS, SSL] {
        assert_eq!(both.next(&request), Ok(Step::Forward { bytes: 8 }));
        assert!(both.answered(Some(b'N')));
    }
    assert_eq!(both.next(&SSL), Ok(Step::Opaque), "a third request");
    let mut direct = Negotiation::relaying();
    assert_eq!(direct.next(&CLIENT_HELLO), Ok(Step::Opaque));
    assert_eq!(direct.encryption(), Encryption::DirectTls);
}

#[test]
fn violations_are_told_in_postgresqls_words() {
    let error = Violation::DataAfterSslRequest.error().encode();
    let has = |text: &[u8]| error.windows(text.len()).any(|window| window == text);
    assert!(has(b"C08P01\0"));
    assert!(has(b"Mreceived unencrypted data after SSL request\0"));
    assert!(has(b"man-in-the-middle"));
    let code = opening::SSL_REQUEST;
    let repeated = Violation::Repeated { code }.error();
    assert_eq!(repeated.sqlstate(), SqlState::FeatureNotSupported);
}
