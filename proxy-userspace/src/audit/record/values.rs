//! Parameters of a statement, as they are written.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::ser::{SerializeSeq as _, SerializeStruct as _};
use serde::{Serialize, Serializer};

use crate::wire::session::{Parameters, event::Value};

/// The format code for binary values (protocol documentation, "Formats and Format Codes").
const BINARY: i16 = 1;

/// `{"count": 2, "values": ["text", null]}`; without `values` where none are kept.
#[derive(Debug)]
pub(super) struct Values<'a>(pub(super) &'a Parameters);

impl Serialize for Values<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut values = serializer.serialize_struct("Values", 2)?;
        values.serialize_field("count", &self.0.count)?;
        if let Some(kept) = &self.0.values {
            values.serialize_field("values", &List(self.0, kept))?;
        }
        values.end()
    }
}

struct List<'a>(&'a Parameters, &'a [Value]);

impl Serialize for List<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(parameters, values) = self;
        let mut list = serializer.serialize_seq(Some(values.len()))?;
        for (index, value) in values.iter().enumerate() {
            // One format is for all, none is text for all.
            let format = match &*parameters.formats {
                [] => None,
                [all] => Some(all),
                each => each.get(index),
            };
            list.serialize_element(&One {
                value,
                is_binary: format == Some(&BINARY),
            })?;
        }
        list.end()
    }
}

/// A string where all of a text is there; otherwise an object that says what there is and how long the whole was.
struct One<'a> {
    value: &'a Value,
    is_binary: bool,
}

impl Serialize for One<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(kept) = &self.value.kept else {
            return serializer.serialize_none();
        };
        let is_cut = self.value.length > kept.len() as u64;
        let (name, shown) = match text_of(kept, is_cut).filter(|_| !self.is_binary) {
            Some(text) if !is_cut => return serializer.serialize_str(text),
            Some(text) => ("text", text.to_owned()),
            None => ("base64", STANDARD.encode(kept)),
        };
        let mut value = serializer.serialize_struct("Value", 2)?;
        value.serialize_field(name, &shown)?;
        value.serialize_field("bytes", &self.value.length)?;
        value.end()
    }
}

/// The bytes as UTF-8, less half a character at a cut.
fn text_of(bytes: &[u8], is_cut: bool) -> Option<&str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(error) if is_cut && error.error_len().is_none() => bytes
            .get(..error.valid_up_to())
            .and_then(|whole| std::str::from_utf8(whole).ok()),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use serde_json::{Value as Json, json};

    fn value(kept: &'static [u8], length: u64) -> Value {
        Value {
            kept: Some(Bytes::from_static(kept)),
            length,
        }
    }

    fn written(formats: &[i16], values: Option<Vec<Value>>) -> Json {
        let parameters = Parameters {
            count: 3,
            formats: formats.into(),
            values: values.map(Into::into),
        };
        serde_json::to_value(Values(&parameters)).unwrap()
    }

    #[test]
    fn text_is_text_and_everything_else_is_base64() {
        let null = Value {
            kept: None,
            length: 0,
        };
        let values = || vec![value(b"a\n", 2), value(b"\xff", 1), null.clone()];
        let as_text = json!({"count": 3, "values": ["a\n", {"base64": "/w==", "bytes": 1}, null]});
        let binary = json!({"base64": "YQo=", "bytes": 2});
        let as_binary =
            json!({"count": 3, "values": [binary, {"base64": "/w==", "bytes": 1}, null]});
        assert_eq!(written(&[], Some(values())), as_text);
        assert_eq!(written(&[0], Some(values())), as_text);
        assert_eq!(written(&[0, 1, 0], Some(values())), as_text);
        assert_eq!(written(&[1], Some(values())), as_binary);
        assert_eq!(written(&[1, 0, 0], Some(values())), as_binary);
    }

    #[test]
    fn a_value_that_was_cut_tells_its_length() {
        let values = vec![value("ab\u{e9}".as_bytes().get(..3).unwrap(), 9)];
        let expected = json!({"count": 3, "values": [{"text": "ab", "bytes": 9}]});
        assert_eq!(written(&[], Some(values)), expected);
    }

    #[test]
    fn values_that_were_not_kept_are_counted() {
        assert_eq!(written(&[], None), json!({"count": 3}));
    }
}
