//! What a record may show of a SQL text.
//!
//! Done on the writer's thread, never on a session's. Where the text cannot be taken apart with certainty it is
//! withheld and the record says why; nothing is ever shown on a guess. docs/audit.md says what stays visible.

mod encoding;
mod fingerprint;
mod lexer;
mod secrets;

use std::borrow::Cow;

use serde::Serialize;

pub(super) use encoding::{ScanSettings, Scanning};

use crate::config::Redaction;
use crate::wire::text::{as_printable, printable};
use fingerprint::Fingerprint;
use lexer::{Doubt, Kind, Token, Tokens};

/// A SQL text as it was kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct SqlText<'text> {
    /// Its bytes, or the first of them.
    pub(super) kept: &'text [u8],
    /// Whether there was more.
    pub(super) is_cut: bool,
    /// Whether the session's settings let it be scanned.
    pub(super) scanning: Scanning,
}

impl SqlText<'_> {
    /// Why it cannot be scanned with certainty, if it cannot. A text of ASCII alone is the same in every encoding, and one
    /// without a backslash is read alike whatever strings may escape.
    fn doubt(&self) -> Option<Withheld> {
        let has_backslash = || memchr::memchr(b'\\', self.kept).is_some();
        match self.scanning {
            Scanning::Certain => None,
            Scanning::UnsafeEncoding => {
                (!self.kept.is_ascii() || has_backslash()).then_some(Withheld::Encoding)
            }
            Scanning::EscapeStrings => has_backslash().then_some(Withheld::EscapeStrings),
        }
    }
}

/// Why a record lacks a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Withheld {
    /// The operator wants fingerprints only.
    FingerprintOnly,
    /// In the client's encoding bytes of a character can look like a quote or a backslash, or it is not known.
    Encoding,
    /// `standard_conforming_strings` is off, or not known.
    EscapeStrings,
    /// More was under way at once than is remembered.
    Limit,
    /// PostgreSQL's scanner refuses the text, or its versions scan it differently.
    NotScanned,
}

/// What a record shows of a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shown<'text> {
    pub(super) text: Option<Cow<'text, str>>,
    pub(super) fingerprint: Option<String>,
    pub(super) withheld: Option<Withheld>,
    /// Whether the text is what was sent, as far as it was kept.
    pub(super) is_as_sent: bool,
}

impl Shown<'_> {
    fn withheld(reason: Withheld) -> Self {
        Self {
            text: None,
            fingerprint: None,
            withheld: Some(reason),
            is_as_sent: false,
        }
    }
}

/// Redacts a text as the operator asked.
pub(super) fn show(text: SqlText<'_>, redaction: Redaction) -> Shown<'_> {
    if text.is_cut && text.kept.is_empty() {
        return Shown::withheld(Withheld::Limit);
    }
    if redaction == Redaction::Full {
        let (shown, is_as_sent) = match secrets::without_passwords(text) {
            Cow::Borrowed(bytes) => (readable(bytes, text.is_cut), true),
            Cow::Owned(bytes) => {
                let shown = readable(&bytes, text.is_cut).into_owned();
                (shown.into(), bytes == text.kept)
            }
        };
        return Shown {
            text: Some(shown),
            fingerprint: None,
            withheld: None,
            is_as_sent,
        };
    }
    if let Some(doubt) = text.doubt() {
        return Shown::withheld(doubt);
    }
    let Ok(highest) = highest_parameter(text) else {
        return Shown::withheld(Withheld::NotScanned);
    };
    let fingerprint = (!text.is_cut).then(|| {
        let mut fingerprint = Fingerprint::new();
        certain_tokens(text).for_each(|token| fingerprint.take(token));
        fingerprint.finish()
    });
    match redaction {
        Redaction::FingerprintOnly => Shown {
            text: None,
            fingerprint,
            withheld: Some(Withheld::FingerprintOnly),
            is_as_sent: false,
        },
        Redaction::Full | Redaction::LiteralsRemoved => Shown {
            text: Some(printable(&without_literals(text, highest)).into()),
            fingerprint,
            withheld: None,
            is_as_sent: false,
        },
    }
}

/// Whether an error's message may tell a secret that the record of `text` does not: it may quote what was taken out of the
/// text, or what lies beyond where it was cut. `text` is the failed statement's, if it has one.
pub(super) fn error_may_hold_secret(message: &[u8], text: Option<SqlText<'_>>) -> bool {
    let is_shown_whole = |text: SqlText<'_>| !text.is_cut && show(text, Redaction::Full).is_as_sent;
    text.is_some_and(|text| !is_shown_whole(text)) || secrets::may_be_in_message(message)
}

/// Bytes made printable; half a character at a cut is left out.
pub(super) fn readable(bytes: &[u8], is_cut: bool) -> Cow<'_, str> {
    let whole = match std::str::from_utf8(bytes) {
        Err(error) if is_cut && error.error_len().is_none() => {
            bytes.get(..error.valid_up_to()).unwrap_or(bytes)
        }
        _ => bytes,
    };
    as_printable(whole)
}

/// The highest parameter number in a text, which is scanned to its end.
fn highest_parameter(text: SqlText<'_>) -> Result<u32, Doubt> {
    let mut highest = 0;
    for token in Tokens::of(text.kept) {
        match token {
            Ok(Token {
                kind: Kind::Parameter(number),
                ..
            }) => highest = highest.max(number),
            Ok(_) => {}
            // Only the cut itself; what comes before it is certain.
            Err(Doubt::Unterminated) if text.is_cut => {}
            Err(doubt) => return Err(doubt),
        }
    }
    Ok(highest)
}

/// The tokens that end where they seem to: of a text that was cut, all but the last one.
fn certain_tokens(text: SqlText<'_>) -> impl Iterator<Item = Token<'_>> {
    let mut left = text.kept.len();
    Tokens::of(text.kept).map_while(move |token| {
        let token = token.ok()?;
        left = left.saturating_sub(token.text.len());
        (left > 0 || !text.is_cut).then_some(token)
    })
}

/// The text with a parameter for every literal and a space for every comment.
fn without_literals(text: SqlText<'_>, highest: u32) -> Vec<u8> {
    let mut shown = Vec::with_capacity(text.kept.len());
    let mut number = highest;
    let mut behind_literal = false;
    for token in certain_tokens(text) {
        let piece = match token.kind {
            Kind::Literal => {
                number = number.saturating_add(1);
                Cow::Owned(format!("${number}").into_bytes())
            }
            Kind::Comment => Cow::Borrowed(&b" "[..]),
            _ => Cow::Borrowed(token.text),
        };
        let joins = |byte: Option<&u8>| byte.is_some_and(|byte| is_word_part(*byte));
        // `select'x'y` must not become one word.
        if (behind_literal && joins(piece.first()))
            || (token.kind == Kind::Literal && joins(shown.last()))
        {
            shown.push(b' ');
        }
        shown.extend_from_slice(&piece);
        behind_literal = token.kind == Kind::Literal;
    }
    shown
}

fn is_word_part(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || !byte.is_ascii()
}

#[cfg(test)]
mod tests;
