//! Building and parsing undo each other, and another implementation builds the same.

use bytes::BytesMut;
use postgres_protocol::IsNull;
use postgres_protocol::message::frontend as other;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::wire::frame::HEADER_BYTES;

/// What the fields of any message can be.
#[derive(Clone, Debug)]
struct Parts {
    names: (Vec<u8>, Vec<u8>),
    bytes: Vec<u8>,
    number: u32,
    values: Vec<Option<Vec<u8>>>,
    formats: Vec<i16>,
    results: Vec<i16>,
    types: Vec<u32>,
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    vec(1_u8.., 0..80)
}

fn parts() -> impl Strategy<Value = Parts> {
    let values = vec(option::of(vec(any::<u8>(), 0..20)), 0..5);
    let lists = (
        vec(any::<i16>(), 0..3),
        vec(any::<i16>(), 0..3),
        vec(any::<u32>(), 0..3),
    );
    let plain = ((name(), name()), vec(any::<u8>(), 0..50), any::<u32>());
    (plain, values, lists).prop_map(|((names, bytes, number), values, lists)| {
        let (mut formats, results, types) = lists;
        if formats.len() > 1 {
            formats.resize(values.len(), 1);
        }
        Parts {
            names,
            bytes,
            number,
            values,
            formats,
            results,
            types,
        }
    })
}

fn every_message(parts: &Parts) -> Vec<Frontend<'_>> {
    let (first, second) = (parts.names.0.as_slice(), parts.names.1.as_slice());
    let values: Vec<_> = parts.values.iter().map(Option::as_deref).collect();
    vec![
        Frontend::Bind(Bind {
            portal: first,
            statement: second,
            formats: parts.formats.clone(),
            values: values.clone(),
            result_formats: parts.results.clone(),
        }),
        Frontend::Close(Named::Statement(first)),
        Frontend::Close(Named::Portal(first)),
        Frontend::CopyData(&parts.bytes),
        Frontend::CopyDone,
        Frontend::CopyFail(first),
        Frontend::Describe(Named::Statement(first)),
        Frontend::Describe(Named::Portal(first)),
        Frontend::Execute {
            portal: first,
            max_rows: parts.number.cast_signed(),
        },
        Frontend::Flush,
        Frontend::FunctionCall(FunctionCall {
            function: parts.number,
            formats: parts.formats.clone(),
            arguments: values,
            result_format: parts.results.first().copied().unwrap_or(0),
        }),
        Frontend::Parse(Parse {
            statement: first,
            text: second,
            types: parts.types.clone(),
        }),
        Frontend::Password(&parts.bytes),
        Frontend::Query(first),
        Frontend::Sync,
        Frontend::Terminate,
    ]
}

proptest! {
    #[test]
    fn what_was_built_parses_to_what_it_was_built_from(parts in parts()) {
        for message in every_message(&parts) {
            let mut bytes = Vec::new();
            prop_assert_eq!(message.encode(&mut bytes), Ok(()));
            let parsed = Frontend::parse(bytes[0], &bytes[HEADER_BYTES..]);
            prop_assert_eq!(parsed, Ok(message));
        }
    }

    #[test]
    fn whatever_parses_is_built_again_as_it_was(kind in any::<u8>(), body in vec(0_u8..4, 0..40)) {
        if let Ok(message) = Frontend::parse(kind, &body) {
            let mut bytes = Vec::new();
            prop_assert_eq!(message.encode(&mut bytes), Ok(()));
            // Of these the server does not read the body to its end.
            if !matches!(kind, b'X' | b'c' | b'f') {
                prop_assert_eq!(&bytes[HEADER_BYTES..], body);
            }
        }
    }
}

#[test]
fn another_implementation_builds_the_same_bytes() {
    let mut theirs = BytesMut::new();
    let write = |value: Option<&[u8]>, out: &mut BytesMut| match value {
        None => Ok(IsNull::Yes),
        Some(value) => {
            out.extend_from_slice(value);
            Ok(IsNull::No)
        }
    };
    let values: [Option<&[u8]>; 2] = [Some(b"value"), None];
    other::bind("p", "s", [1, 0], values, write, [1], &mut theirs)
        .unwrap_or_else(|_| panic!("their bind"));
    other::close(b'S', "s", &mut theirs).unwrap();
    other::copy_done(&mut theirs);
    other::copy_fail("why", &mut theirs).unwrap();
    other::describe(b'P', "p", &mut theirs).unwrap();
    other::execute("p", 7, &mut theirs).unwrap();
    other::flush(&mut theirs);
    other::parse("s", "select $1", [23, 0], &mut theirs).unwrap();
    other::query("select 1", &mut theirs).unwrap();
    other::sync(&mut theirs);
    other::terminate(&mut theirs);
    let messages = [
        Frontend::Bind(Bind {
            portal: b"p",
            statement: b"s",
            formats: vec![1, 0],
            values: values.to_vec(),
            result_formats: vec![1],
        }),
        Frontend::Close(Named::Statement(b"s")),
        Frontend::CopyDone,
        Frontend::CopyFail(b"why"),
        Frontend::Describe(Named::Portal(b"p")),
        Frontend::Execute {
            portal: b"p",
            max_rows: 7,
        },
        Frontend::Flush,
        Frontend::Parse(Parse {
            statement: b"s",
            text: b"select $1",
            types: vec![23, 0],
        }),
        Frontend::Query(b"select 1"),
        Frontend::Sync,
        Frontend::Terminate,
    ];
    let mut ours = Vec::new();
    for message in &messages {
        message.encode(&mut ours).unwrap();
    }
    assert_eq!(ours, theirs);
}

#[test]
fn what_the_server_refuses_does_not_parse() {
    let cases: [(u8, &[u8], Malformed); 9] = [
        (b'Q', b"no end", Malformed::Short),
        (b'Q', b"text\0more", Malformed::Trailing),
        (b'P', b"s\0text\0\0\x01\0\0\0", Malformed::Short),
        (b'B', b"p\0s\0\0\x02\0\0\0\0\0\0\0\0", Malformed::Value),
        (
            b'B',
            b"p\0s\0\0\0\0\x01\xff\xff\xff\xfe\0\0",
            Malformed::Value,
        ),
        (b'D', b"Xname\0", Malformed::Value),
        (b'E', b"p\0\0\0\0", Malformed::Short),
        (b'S', b"x", Malformed::Trailing),
        (b'?', b"", Malformed::Type),
    ];
    for (kind, body, expected) in cases {
        assert_eq!(Frontend::parse(kind, body), Err(expected), "{body:?}");
    }
}

#[test]
fn what_could_not_be_parsed_cannot_be_built() {
    let mut out = Vec::new();
    let uneven = Bind {
        formats: vec![0, 1],
        ..Bind::default()
    };
    assert_eq!(
        Frontend::Query(b"a\0b").encode(&mut out),
        Err(Unwritable::Nul)
    );
    assert_eq!(
        Frontend::Bind(uneven).encode(&mut out),
        Err(Unwritable::Value)
    );
    assert!(out.is_empty());
}
