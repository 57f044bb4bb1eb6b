//! Building and parsing undo each other, and another implementation parses what is built.

use bytes::BytesMut;
use postgres_protocol::message::backend::Message;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::wire::frame::HEADER_BYTES;

/// What the fields of any message can be.
#[derive(Clone, Debug)]
struct Parts {
    names: Vec<Vec<u8>>,
    bytes: Vec<u8>,
    number: u32,
    small: i16,
    values: Vec<Option<Vec<u8>>>,
    formats: Vec<i16>,
    types: Vec<u32>,
}

fn parts() -> impl Strategy<Value = Parts> {
    let plain = (vec(any::<u8>(), 0..50), any::<u32>(), any::<i16>());
    let names = vec(vec(1_u8.., 1..30), 2..5);
    let values = vec(option::of(vec(any::<u8>(), 0..20)), 0..5);
    let lists = (vec(any::<i16>(), 0..4), vec(any::<u32>(), 0..4));
    (plain, names, values, lists).prop_map(
        |((bytes, number, small), names, values, (formats, types))| Parts {
            names,
            bytes,
            number,
            small,
            values,
            formats,
            types,
        },
    )
}

fn every_step(parts: &Parts) -> Vec<Authentication<'_>> {
    vec![
        Authentication::Ok,
        Authentication::Cleartext,
        Authentication::Md5(parts.number.to_be_bytes()),
        Authentication::Gss,
        Authentication::GssContinue(&parts.bytes),
        Authentication::Sspi,
        Authentication::Sasl(parts.names.iter().map(Vec::as_slice).collect()),
        Authentication::SaslContinue(&parts.bytes),
        Authentication::SaslFinal(&parts.bytes),
        Authentication::Other(2, &parts.bytes),
    ]
}

fn every_message(parts: &Parts) -> Vec<Backend<'_>> {
    let (first, second) = (parts.names[0].as_slice(), parts.names[1].as_slice());
    let format = || CopyFormat {
        overall: parts.small.to_be_bytes()[0],
        columns: parts.formats.clone(),
    };
    let fields: Vec<_> = parts
        .names
        .iter()
        .map(|name| (name[0], name.as_slice()))
        .collect();
    let column = Column {
        name: first,
        table: parts.number,
        number: parts.small,
        type_oid: parts.number,
        type_size: parts.small,
        type_modifier: -1,
        format: parts.small,
    };
    let mut messages: Vec<_> = every_step(parts)
        .into_iter()
        .map(Backend::Authentication)
        .collect();
    messages.extend([
        Backend::BackendKeyData {
            pid: parts.number,
            key: &parts.bytes,
        },
        Backend::BindComplete,
        Backend::CloseComplete,
        Backend::CommandComplete(first),
        Backend::CopyBoth(format()),
        Backend::CopyData(&parts.bytes),
        Backend::CopyDone,
        Backend::CopyIn(format()),
        Backend::CopyOut(format()),
        Backend::DataRow(parts.values.iter().map(Option::as_deref).collect()),
        Backend::EmptyQuery,
        Backend::Error(fields.clone()),
        Backend::FunctionCallResponse(None),
        Backend::FunctionCallResponse(Some(&parts.bytes)),
        Backend::NegotiateProtocolVersion {
            version: parts.number,
            unknown: parts.names.iter().map(Vec::as_slice).collect(),
        },
        Backend::NoData,
        Backend::Notice(fields),
        Backend::Notification {
            pid: parts.number,
            channel: first,
            payload: second,
        },
        Backend::ParameterDescription(parts.types.clone()),
        Backend::ParameterStatus {
            name: first,
            value: second,
        },
        Backend::ParseComplete,
        Backend::PortalSuspended,
        Backend::ReadyForQuery(b'T'),
        Backend::RowDescription(vec![column; parts.formats.len()]),
    ]);
    messages
}

proptest! {
    #[test]
    fn what_was_built_parses_to_what_it_was_built_from(parts in parts()) {
        for message in every_message(&parts) {
            let mut bytes = Vec::new();
            prop_assert_eq!(message.encode(&mut bytes), Ok(()));
            let parsed = Backend::parse(bytes[0], &bytes[HEADER_BYTES..]);
            prop_assert_eq!(parsed, Ok(message));
        }
    }

    #[test]
    fn whatever_parses_is_built_again_as_it_was(kind in any::<u8>(), body in vec(0_u8..14, 0..40)) {
        if let Ok(message) = Backend::parse(kind, &body) {
            let mut bytes = Vec::new();
            prop_assert_eq!(message.encode(&mut bytes), Ok(()));
            prop_assert_eq!(&bytes[HEADER_BYTES..], body);
        }
    }
}

#[test]
fn another_implementation_parses_what_is_built() {
    let mut ours = Vec::new();
    let key = Backend::BackendKeyData {
        pid: 7,
        key: &[0, 0, 0, 9],
    };
    let row = Backend::DataRow(vec![Some(b"one"), None]);
    let error = Backend::Error(vec![(b'S', b"ERROR"), (b'C', b"22012")]);
    let sasl = Backend::Authentication(Authentication::Sasl(vec![b"SCRAM-SHA-256"]));
    for message in [key, row, error, sasl] {
        message.encode(&mut ours).unwrap();
    }
    let mut bytes = BytesMut::from(ours.as_slice());
    let mut next = || Message::parse(&mut bytes).unwrap().unwrap();
    match next() {
        Message::BackendKeyData(body) => assert_eq!((body.process_id(), body.secret_key()), (7, 9)),
        _ => panic!("no BackendKeyData"),
    }
    match next() {
        Message::DataRow(body) => assert_eq!(body.buffer(), b"\0\0\0\x03one\xff\xff\xff\xff"),
        _ => panic!("no DataRow"),
    }
    assert!(matches!(next(), Message::ErrorResponse(_)));
    assert!(matches!(next(), Message::AuthenticationSasl(_)));
}

#[test]
fn what_no_server_sends_does_not_parse() {
    let cases: [(u8, &[u8], Malformed); 7] = [
        (b'Z', b"X", Malformed::Value),
        (b'Z', b"II", Malformed::Trailing),
        (b'1', b"x", Malformed::Trailing),
        (b'E', b"Sno terminator\0", Malformed::Short),
        (
            b'v',
            &[0, 3, 0, 0, 0xff, 0xff, 0xff, 0xff],
            Malformed::Value,
        ),
        (
            b'v',
            &[0, 3, 0, 0, 0x7f, 0xff, 0xff, 0xff],
            Malformed::Short,
        ),
        (b'?', b"", Malformed::Type),
    ];
    for (kind, body, expected) in cases {
        assert_eq!(Backend::parse(kind, body), Err(expected), "{body:?}");
    }
}
