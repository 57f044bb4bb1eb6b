//! Names in certificates as policies and records have them: `CN=alice, O=Example`, in the certificate's order.
//!
//! What means something between values is escaped within one (RFC 4514, 2.4), so that no value reads like two.

use std::fmt::Write as _;

use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use crate::wire::text::hex;

/// A name in words.
pub(super) fn shown(name: &X509Name<'_>) -> String {
    let parts = name.iter_rdn().map(|part| {
        let attributes: Vec<_> = part.iter().map(attribute).collect();
        attributes.join(" + ")
    });
    let parts: Vec<_> = parts.collect();
    parts.join(", ")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let kind = attribute.attr_type();
    let kind = match oid2abbrev(kind, oid_registry()) {
        Ok(name) => name.to_owned(),
        Err(_) => kind.to_string(),
    };
    match text(attribute.attr_value().tag().0, attribute.as_slice()) {
        Some(text) => format!("{kind}={}", escaped(&text)),
        None => format!("{kind}=#{}", hex(attribute.as_slice())),
    }
}

/// The text of a value by its type's number (X.680, 8.4): whoever asks for a certificate may choose among them, and must not
/// get another name by it.
fn text(tag: u32, value: &[u8]) -> Option<String> {
    const BMP: u32 = 30;
    match tag {
        // UTF8String, NumericString, PrintableString, T61String, IA5String, VisibleString, GeneralString
        12 | 18..=20 | 22 | 26 | 27 => std::str::from_utf8(value).ok().map(str::to_owned),
        BMP => {
            let (units, rest) = value.as_chunks::<2>();
            let units: Vec<u16> = units.iter().copied().map(u16::from_be_bytes).collect();
            String::from_utf16(&units).ok().filter(|_| rest.is_empty())
        }
        _ => None,
    }
}

fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let last = value.chars().count().saturating_sub(1);
    for (place, character) in value.chars().enumerate() {
        let is_special = match character {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' => true,
            '#' => place == 0,
            ' ' => place == 0 || place == last,
            _ => false,
        };
        if character.is_control() {
            // Writing to a String cannot fail.
            let _ = character
                .to_string()
                .bytes()
                .try_for_each(|byte| write!(text, "\\{byte:02x}"));
            continue;
        }
        text.extend(is_special.then_some('\\'));
        text.push(character);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_one_whatever_its_type() {
        for tag in [12, 18, 19, 20, 22, 26, 27] {
            assert_eq!(text(tag, b"ab").as_deref(), Some("ab"));
        }
        assert_eq!(text(30, b"\0a\0b").as_deref(), Some("ab"));
        for (tag, value) in [(30, &b"\0a\0"[..]), (4, b"ab"), (12, b"\xff")] {
            assert_eq!(text(tag, value), None);
        }
    }

    #[test]
    fn no_value_reads_like_two() {
        for (value, expected) in [
            ("alice", "alice"),
            ("alice, O=Admins", "alice\\, O=Admins"),
            ("a+b", "a\\+b"),
            ("#1", "\\#1"),
            (" a ", "\\ a\\ "),
            ("a\\b", "a\\\\b"),
            ("a\nb", "a\\0ab"),
            ("\u{e9}", "\u{e9}"),
        ] {
            assert_eq!(escaped(value), expected);
        }
    }
}
