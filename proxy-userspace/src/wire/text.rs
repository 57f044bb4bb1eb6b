//! Bytes made printable for records: texts in no known encoding, and digests.

use std::borrow::Cow;
use std::fmt::Write as _;

/// [`as_printable`] as a text of its own.
pub fn printable(bytes: &[u8]) -> String {
    as_printable(bytes).into_owned()
}

/// The text itself where the bytes are UTF-8; otherwise every byte that is not printable ASCII, and the backslash,
/// as `\xNN`, so that no byte is lost.
pub fn as_printable(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        if (byte.is_ascii_graphic() || *byte == b' ') && *byte != b'\\' {
            escaped.push(char::from(*byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(escaped, "\\x{byte:02x}");
        }
    }
    Cow::Owned(escaped)
}

/// Two lower-case hexadecimal digits for each byte.
pub fn hex(bytes: &[u8]) -> String {
    let mut digits = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(digits, "{byte:02x}");
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utf8_stays_and_other_bytes_are_escaped_without_loss() {
        let cases: [(&[u8], &str); 4] = [
            (b"plain \\ text\n", "plain \\ text\n"),
            ("grüße".as_bytes(), "grüße"),
            (b"latin\xe9", "latin\\xe9"),
            (b"\\xe9\xe9", "\\x5cxe9\\xe9"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(printable(bytes), expected);
        }
    }

    #[test]
    fn every_byte_is_two_hexadecimal_digits() {
        assert_eq!(hex(&[0, 0x0f, 0xab, 0xff]), "000fabff");
        assert_eq!(hex(&[]), "");
    }
}
