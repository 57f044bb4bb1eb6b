//! Passwords in URIs.

use std::borrow::Cow;

use memchr::{memchr, memmem};

/// What comes before a URI's user.
const AUTHORITY: &[u8] = b"://";
/// What stands for a password.
const REDACTED: &[u8] = b"[redacted]";

/// The text without what stands between `:` and `@` behind `://`, where libpq would look for a password
/// (`conninfo_uri_parse_options` in src/interfaces/libpq/fe-connect.c). At a cut the `@` may be missing.
pub(super) fn without_passwords(text: Cow<'_, [u8]>, is_cut: bool) -> Cow<'_, [u8]> {
    let mut shown = Vec::new();
    let mut taken = 0;
    for at in memmem::find_iter(&text, AUTHORITY) {
        let start = at + AUTHORITY.len();
        let behind = text.get(start..).unwrap_or_default();
        let ends = |byte: &u8| matches!(byte, b'@' | b'/' | b'\'') || byte.is_ascii_whitespace();
        let end = match behind.iter().position(ends) {
            Some(end) if behind.get(end) == Some(&b'@') => end,
            None if is_cut => behind.len(),
            _ => continue,
        };
        let colon = memchr(b':', behind.get(..end).unwrap_or_default());
        if let Some(before) = colon.and_then(|colon| text.get(taken..=start + colon)) {
            shown.extend_from_slice(before);
            shown.extend_from_slice(REDACTED);
            taken = start + end;
        }
    }
    if taken == 0 {
        return text;
    }
    shown.extend_from_slice(text.get(taken..).unwrap_or_default());
    Cow::Owned(shown)
}
