//! What a server sent, and what of it may differ between two sessions.

use super::fixture::Case;
use crate::wire::Message;

/// One piece of what the server sent; together they are all its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// A message.
    Message(Message),
    /// Bytes that are no message: the answer to an encryption request, or what a fixture takes as it is.
    Raw(Vec<u8>),
}

/// A reply for failure messages.
pub(super) fn show(reply: &Reply) -> String {
    match reply {
        Reply::Raw(bytes) => format!("raw {}", bytes.escape_ascii()),
        Reply::Message(message) => {
            let body = message.body.get(..200).unwrap_or(&message.body);
            format!("{} {}", char::from(message.kind), body.escape_ascii())
        }
    }
}

/// Blanks what two sessions cannot have in common, by type and position, and nothing else.
///
/// Blanked are: process id and secret of BackendKeyData, the process id of NotificationResponse, the salt of an md5
/// request, the nonce and the signature of SCRAM, and the stream of WAL and keepalives between CopyBothResponse and
/// CommandComplete (a keepalive may come behind the server's CopyDone), of which each session sees another part; and where the case says so, the values of some columns of
/// every DataRow, and the file, line and routine of every ErrorResponse.
pub(super) fn masked(replies: &[Reply], case: &Case) -> Vec<Reply> {
    let mut streaming = false;
    let mut masked = Vec::new();
    for reply in replies {
        let Reply::Message(message) = reply else {
            masked.push(reply.clone());
            continue;
        };
        streaming = match message.kind {
            b'W' => true,
            b'C' | b'E' => false,
            _ => streaming,
        };
        if !(streaming && is_streamed(message)) {
            masked.push(Reply::Message(mask(message, case)));
        }
    }
    masked
}

/// XLogData or a keepalive (documentation, "Streaming Replication Protocol").
pub(super) fn is_streamed(message: &Message) -> bool {
    message.kind == b'd' && matches!(message.body.first(), Some(b'w' | b'k'))
}

fn mask(message: &Message, case: &Case) -> Message {
    let columns = case.masked_columns.as_slice();
    let mut body = message.body.clone();
    let authentication = body.first_chunk::<4>().copied().map(u32::from_be_bytes);
    match (message.kind, authentication) {
        (b'K', _) => blank(&mut body, 0, usize::MAX),
        (b'A', _) => blank(&mut body, 0, 4),
        (b'R', Some(5)) => blank(&mut body, 4, 4),
        // AuthenticationSASLContinue: r=nonce,s=salt,i=iterations (RFC 5802); the salt belongs to the role.
        (b'R', Some(11)) if body.get(4..6) == Some(b"r=") => {
            let end = body
                .iter()
                .position(|byte| *byte == b',')
                .unwrap_or(body.len());
            blank(&mut body, 6, end.saturating_sub(6));
        }
        // AuthenticationSASLFinal: v=signature
        (b'R', Some(12)) if body.get(4..6) == Some(b"v=") => blank(&mut body, 6, usize::MAX),
        (b'E', _) if case.masks_source => body = without_source(&body),
        (b'D', _) if !columns.is_empty() => body = without_columns(&body, columns),
        _ => {}
    }
    Message {
        kind: message.kind,
        body,
    }
}

fn blank(body: &mut [u8], from: usize, count: usize) {
    body.iter_mut()
        .skip(from)
        .take(count)
        .for_each(|byte| *byte = b'#');
}

/// An ErrorResponse without its fields F, L and R (documentation, "Error and Notice Message Fields").
fn without_source(body: &[u8]) -> Vec<u8> {
    let fields = body.split_inclusive(|byte| *byte == 0);
    let kept = fields.filter(|field| !matches!(field.first(), Some(b'F' | b'L' | b'R')));
    kept.flatten().copied().collect()
}

/// A DataRow whose masked columns are a question mark; one that cannot be read stays as it is.
fn without_columns(body: &[u8], columns: &[usize]) -> Vec<u8> {
    let Some((count, mut rest)) = body.split_at_checked(2) else {
        return body.to_vec();
    };
    let mut new = count.to_vec();
    let mut column = 1;
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let size = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
        let Some((value, after)) = after.split_at_checked(size) else {
            return body.to_vec();
        };
        if columns.contains(&column) {
            new.extend(b"\0\0\0\x01?");
        } else {
            new.extend([&length[..], value].concat());
        }
        (column, rest) = (column + 1, after);
    }
    new
}

#[cfg(test)]
mod tests {
    use super::super::fixture::parse;
    use super::*;

    fn case(settings: &str) -> Case {
        let text = format!("case one\n{settings}\nC: sync\nS: Z");
        parse("test.txt", &text).unwrap().remove(0)
    }

    fn message(kind: u8, body: &[u8]) -> Reply {
        Reply::Message(Message {
            kind,
            body: body.to_vec(),
        })
    }

    fn body(kind: u8, body: &[u8], settings: &str) -> String {
        match masked(&[message(kind, body)], &case(settings)).as_slice() {
            [Reply::Message(message)] => message.body.escape_ascii().to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_what_must_differ_is_masked() {
        assert_eq!(body(b'K', b"\0\0\0\x07abcd", ""), "########");
        assert_eq!(body(b'A', b"\0\0\0\x07c\0p\0", ""), "####c\\x00p\\x00");
        assert_eq!(
            body(b'R', b"\0\0\0\x05salt", ""),
            "\\x00\\x00\\x00\\x05####"
        );
        assert_eq!(
            body(b'R', b"\0\0\0\x0br=nonce,s=salt,i=4096", ""),
            "\\x00\\x00\\x00\\x0br=#####,s=salt,i=4096"
        );
        assert_eq!(
            body(b'R', b"\0\0\0\x0cv=sig", ""),
            "\\x00\\x00\\x00\\x0cv=###"
        );
        assert_eq!(body(b'R', b"\0\0\0\0", ""), "\\x00\\x00\\x00\\x00");
        assert_eq!(
            body(b'E', b"CXX000\0Ff\0\0", "mask column 1"),
            "CXX000\\x00Ff\\x00\\x00"
        );
    }

    #[test]
    fn only_the_place_in_the_source_is_taken_from_an_error() {
        let error = b"SFATAL\0C08P01\0Mmessage\0Ffile.c\0L1\0Rroutine\0\0";
        assert_eq!(
            body(b'E', error, "mask source"),
            "SFATAL\\x00C08P01\\x00Mmessage\\x00\\x00"
        );
    }

    #[test]
    fn a_masked_column_keeps_its_place_and_its_neighbours() {
        let row = b"\0\x03\0\0\0\x01a\0\0\0\x03bcd\xff\xff\xff\xff";
        let expected = b"\0\x03\0\0\0\x01a\0\0\0\x01?\xff\xff\xff\xff";
        assert_eq!(
            body(b'D', row, "mask column 2"),
            expected.escape_ascii().to_string()
        );
    }

    #[test]
    fn the_stream_of_a_replication_is_left_out_and_what_follows_it_is_not() {
        let replies = [
            message(b'W', b""),
            message(b'd', b"k123"),
            message(b'd', b"w123"),
            message(b'd', b"x"),
            message(b'c', b""),
            message(b'd', b"k123"),
            message(b'C', b"COPY 0\0"),
            message(b'd', b"k123"),
        ];
        let left = masked(&replies, &case(""));
        assert_eq!(left.len(), 5, "{left:?}");
    }
}
