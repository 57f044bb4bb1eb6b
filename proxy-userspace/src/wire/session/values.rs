//! Values of Bind and FunctionCall: as many of them as the limit takes.

use std::sync::Arc;

use bytes::Bytes;

use super::event::{Parameters, Value};
use crate::wire::cursor::{Cursor, Malformed};

impl Parameters {
    /// Bytes kept of the values, and what keeping them costs.
    pub(super) fn kept_bytes(&self) -> usize {
        let of_value =
            |value: &Value| size_of::<Value>() + value.kept.as_ref().map_or(0, Bytes::len);
        let of_values = |values: &[Value]| values.iter().map(of_value).sum::<usize>();
        self.values.as_deref().map_or(0, of_values) + self.formats.len() * size_of::<i16>()
    }

    /// The same without its values.
    pub(super) fn without_values(&self) -> Self {
        Self {
            count: self.count,
            formats: Arc::default(),
            values: None,
        }
    }
}

/// Reads formats, count and values. `body` is the beginning of a field list that is `length` bytes long; `keep` is how
/// many bytes of values are kept, if any. `result_formats` are those behind the values: a list in Bind, one in
/// FunctionCall. Tells whether the server will refuse the whole; what was read before that shows is kept.
pub(super) fn read(
    body: &[u8],
    length: u64,
    keep: Option<usize>,
    result_formats: ResultFormats,
) -> (Parameters, bool) {
    let mut parameters = Parameters::default();
    let is_cut = (body.len() as u64) < length;
    match read_fields(body, keep, result_formats, &mut parameters) {
        Ok(()) => (parameters, is_cut),
        // Of a body that was not kept whole the end is not known to be wrong.
        Err(Malformed::Short) if is_cut => (parameters, false),
        Err(_) => (parameters, true),
    }
}

/// What follows the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResultFormats {
    /// A count and so many of them.
    List,
    /// One.
    One,
}

fn read_fields(
    body: &[u8],
    keep: Option<usize>,
    result_formats: ResultFormats,
    parameters: &mut Parameters,
) -> Result<(), Malformed> {
    let mut cursor = Cursor::new(body);
    let formats = usize::from(cursor.u16()?);
    let raw_formats = cursor.bytes(formats * size_of::<i16>())?;
    let count = usize::from(cursor.u16()?);
    parameters.count = count;
    if let Some(limit) = keep {
        let pairs = raw_formats.chunks_exact(size_of::<i16>());
        let format = |raw: &[u8]| raw.first_chunk().map(|raw| i16::from_be_bytes(*raw));
        parameters.formats = pairs.filter_map(format).collect();
        parameters.values = Some(keep_values(cursor, count, limit).into());
    }
    for _ in 0..count {
        cursor.value()?;
    }
    let trailing = match result_formats {
        ResultFormats::List => usize::from(cursor.u16()?),
        ResultFormats::One => 1,
    };
    cursor.bytes(trailing * size_of::<i16>())?;
    cursor.end()?;
    // "bind message has %d parameter formats but %d parameters" (src/backend/tcop/postgres.c, fastpath.c)
    if formats > 1 && formats != count {
        return Err(Malformed::Value);
    }
    Ok(())
}

/// The values from the first on, until the limit is reached or the bytes end. A NULL costs as much as its length word,
/// so that the number of values is bounded too.
fn keep_values(mut cursor: Cursor<'_>, count: usize, limit: usize) -> Vec<Value> {
    let mut kept = Vec::new();
    let mut room = limit;
    while kept.len() < count && room > 0 {
        let Ok(length) = cursor.i32() else { break };
        room = room.saturating_sub(size_of::<i32>());
        let Ok(length) = usize::try_from(length) else {
            if length != -1 {
                break;
            }
            kept.push(Value {
                kept: None,
                length: 0,
            });
            continue;
        };
        let there = cursor.rest();
        let taken = length.min(room).min(there.len());
        room -= taken;
        kept.push(Value {
            kept: Some(Bytes::copy_from_slice(
                there.get(..taken).unwrap_or_default(),
            )),
            length: length as u64,
        });
        if cursor.bytes(length).is_err() {
            break;
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(formats: &[i16], values: &[Option<&[u8]>], results: &[i16]) -> Vec<u8> {
        let mut body = Vec::new();
        let count = |length: usize| u16::try_from(length).unwrap().to_be_bytes();
        body.extend(count(formats.len()));
        body.extend(formats.iter().flat_map(|format| format.to_be_bytes()));
        body.extend(count(values.len()));
        for value in values {
            match value {
                None => body.extend((-1_i32).to_be_bytes()),
                Some(value) => {
                    body.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
                    body.extend(*value);
                }
            }
        }
        body.extend(count(results.len()));
        body.extend(results.iter().flat_map(|format| format.to_be_bytes()));
        body
    }

    fn all(body: &[u8], keep: Option<usize>) -> (Parameters, bool) {
        read(body, body.len() as u64, keep, ResultFormats::List)
    }

    #[test]
    fn values_are_kept_up_to_the_limit_and_no_further() {
        let body = body(&[1], &[Some(b"abcdef"), None, Some(b"gh"), None], &[0]);
        let (parameters, malformed) = all(&body, Some(1000));
        assert!(!malformed);
        assert_eq!(parameters.count, 4);
        assert_eq!(*parameters.formats, [1]);
        let kept = |text: &'static str, length| Value {
            kept: Some(Bytes::from(text)),
            length,
        };
        let null = Value {
            kept: None,
            length: 0,
        };
        let expected = [kept("abcdef", 6), null.clone(), kept("gh", 2), null];
        assert_eq!(parameters.values.as_deref(), Some(&expected[..]));
        let (cut, malformed) = all(&body, Some(4 + 5));
        assert!(!malformed);
        assert_eq!(cut.values.as_deref(), Some(&[kept("abcde", 6)][..]));
        assert_eq!(
            all(&body, Some(4 + 6)).0.values.as_deref(),
            Some(&[kept("abcdef", 6)][..])
        );
        assert_eq!(all(&body, None).0.values, None);
    }

    #[test]
    fn what_the_server_refuses_is_known_to_be_malformed() {
        let good = body(&[0, 1], &[Some(b"a"), Some(b"b")], &[]);
        assert!(!all(&good, Some(10)).1);
        let mut trailing = good.clone();
        trailing.push(0);
        let cases = [
            trailing,
            good[..good.len() - 1].to_vec(),
            body(&[0, 1, 0], &[Some(b"a"), Some(b"b")], &[]),
            b"".to_vec(),
            b"\0\0\0\x01\xff\xff\xff\xfe\0\0".to_vec(),
        ];
        for body in cases {
            assert!(all(&body, Some(10)).1, "{body:?}");
        }
    }

    #[test]
    fn a_body_that_was_cut_is_not_called_malformed() {
        let whole = body(&[], &[Some(b"abcdef")], &[0]);
        let (parameters, malformed) = read(
            &whole[..10],
            whole.len() as u64,
            Some(100),
            ResultFormats::List,
        );
        assert!(!malformed);
        assert_eq!(parameters.count, 1);
        let value = parameters.values.unwrap()[0].clone();
        assert_eq!(
            (value.kept.unwrap().as_ref(), value.length),
            (b"ab".as_slice(), 6)
        );
    }
}
