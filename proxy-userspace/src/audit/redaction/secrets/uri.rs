//! Passwords in URIs.

use std::borrow::Cow;

use memchr::{memchr, memmem};

use super::REDACTED_PIECE;
use crate::audit::redaction::lexer::is_space;

/// What comes before a URI's user.
const AUTHORITY: &[u8] = b"://";

/// What a URI stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Within {
    /// A string or a comment, whole.
    String,
    /// The beginning of one, as far as it was kept.
    Cut,
    /// Anything: what ends a string may be the end of one, and what follows a statement.
    Anything,
}

/// Whether there may be one.
pub(super) fn is_in(text: &[u8]) -> bool {
    memmem::find(text, AUTHORITY).is_some()
}

/// Whether a text is one and nothing else: no program begins so, or has no white space.
pub(super) fn is_one(text: &[u8]) -> bool {
    let text = text.trim_ascii();
    let scheme = text.iter().take_while(|byte| byte.is_ascii_alphabetic());
    let length = scheme.count();
    length > 0
        && text
            .get(length..)
            .is_some_and(|behind| behind.starts_with(AUTHORITY))
        && !text.iter().any(|byte| is_space(*byte))
}

/// The text without what stands between `:` and `@` behind `://`, where libpq would look for a password
/// (`conninfo_uri_parse_options` in src/interfaces/libpq/fe-connect.c). At a cut the `@` may be missing.
pub(super) fn without_passwords(text: &[u8], within: Within) -> Cow<'_, [u8]> {
    let mut shown = Vec::new();
    let mut taken = 0;
    for at in memmem::find_iter(text, AUTHORITY) {
        let start = at + AUTHORITY.len();
        let behind = text.get(start..).unwrap_or_default();
        let ends = |byte: &u8| match byte {
            b'@' | b'/' | b'\'' => true,
            b'"' | b'$' | b';' => within == Within::Anything,
            byte => is_space(*byte),
        };
        let end = match behind.iter().position(ends) {
            Some(end) if behind.get(end) == Some(&b'@') => end,
            None if within == Within::Cut => behind.len(),
            _ => continue,
        };
        let colon = memchr(b':', behind.get(..end).unwrap_or_default());
        if let Some(before) = colon.and_then(|colon| text.get(taken..=start + colon)) {
            shown.extend_from_slice(before);
            shown.extend_from_slice(REDACTED_PIECE);
            taken = start + end;
        }
    }
    if taken == 0 {
        return Cow::Borrowed(text);
    }
    shown.extend_from_slice(text.get(taken..).unwrap_or_default());
    Cow::Owned(shown)
}
