//! Passwords in SQL, which no record may hold, not even one that shows texts as they were sent.
//!
//! By the scanner's tokens: the string behind the word PASSWORD or another secret's name (roles, user mappings, named
//! arguments), and any string that holds one: `password=…` in a connection string (subscriptions, dblink), `PASSWORD '…'`
//! in a statement to be executed. Such a string goes whole. What stands in dollars is looked into instead, since it may be
//! a program that somebody wants to read (DO, functions). Of a URI only the password goes. Nothing else does, so that no
//! other part of a statement can hide behind the rules.

use std::borrow::Cow;
use std::sync::LazyLock;

use aho_corasick::AhoCorasick;
use memchr::memmem;

use super::SqlText;
use super::lexer::{Kind, Token, Tokens};

/// What stands in a record where a string was that is or holds a secret.
const REDACTED: &[u8] = b"'[redacted]'";
/// What stands for a secret that is no string.
const REDACTED_VALUE: &[u8] = b"[redacted]";
/// What secrets are called: of roles, and in connection strings and options (libpq, postgres_fdw).
const NAMES: [&str; 5] = [
    "password",
    "sslpassword",
    "scram_client_key",
    "scram_server_key",
    "oauth_client_secret",
];
/// How deep strings in dollars are looked into that stand in one another.
const MAX_DEPTH: usize = 4;
/// What comes before a URI's user.
const AUTHORITY: &[u8] = b"://";

/// Finds any of them, whatever their case.
#[expect(
    clippy::expect_used,
    reason = "only a list too long to be searched for fails, and this one never changes"
)]
static MENTIONS: LazyLock<AhoCorasick> = LazyLock::new(|| {
    let mut searched = AhoCorasick::builder();
    let searched = searched.ascii_case_insensitive(true).build(NAMES);
    searched.expect("five words can be searched for")
});

/// The text with each password replaced. A text that cannot be scanned stays as it is but for URIs: hiding all of it would
/// let a client keep any statement out of the trail.
pub(super) fn without_passwords(text: SqlText<'_>) -> Cow<'_, [u8]> {
    let shown = if text.doubt().is_none() && mentions_secret(text.kept) {
        let mut redactor = Redactor::new(MAX_DEPTH);
        redactor.take_all(text.kept);
        Cow::Owned(redactor.shown)
    } else {
        Cow::Borrowed(text.kept)
    };
    match memmem::find(&shown, AUTHORITY) {
        Some(_) => without_uri_passwords(shown),
        None => shown,
    }
}

/// What the tokens before one say about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behind {
    Nothing,
    /// A secret's name.
    Name,
    /// A secret's name and a sign that gives it a value.
    Sign,
    /// A string that ends with such a sign: what is appended to it is the value.
    Beginning,
    /// Within a value that is no string, up to white space.
    Value,
}

struct Redactor {
    shown: Vec<u8>,
    behind: Behind,
    /// How much deeper it may look.
    depth: usize,
}

impl Redactor {
    fn new(depth: usize) -> Self {
        Self {
            shown: Vec::new(),
            behind: Behind::Nothing,
            depth,
        }
    }

    /// Shows a whole text. Of one that is cut off, or that PostgreSQL's scanner refuses, the rest may be a secret's beginning.
    fn take_all(&mut self, text: &[u8]) -> bool {
        let mut scanned = 0;
        for token in Tokens::of(text) {
            let Ok(token) = token else {
                break;
            };
            scanned += token.text.len();
            self.take(token);
        }
        let rest = text.get(scanned..).unwrap_or_default();
        if !rest.is_empty() && (self.behind != Behind::Nothing || holds_secret(rest)) {
            self.shown.extend_from_slice(REDACTED);
        } else {
            self.shown.extend_from_slice(rest);
        }
        rest.is_empty()
    }

    fn take(&mut self, token: Token<'_>) {
        let text = token.text;
        if self.is_within_dollars() && self.hides_value(token) {
            return;
        }
        match token.kind {
            Kind::Literal => self.literal(text),
            _ => self.shown.extend_from_slice(text),
        }
        self.behind = match (token.kind, self.behind) {
            (Kind::Space | Kind::Comment, behind) => behind,
            (Kind::Word | Kind::Quoted, _) if is_name(text) => Behind::Name,
            // `:=` comes in pieces.
            (Kind::Symbol, behind @ Behind::Name) if text == b":" => behind,
            (Kind::Operator, Behind::Name) if matches!(text, b"=" | b"=>") => Behind::Sign,
            (Kind::Operator, Behind::Beginning) if text == b"||" => Behind::Sign,
            (Kind::Literal, _) if ends_with_sign(text) => Behind::Beginning,
            _ => Behind::Nothing,
        };
    }

    /// At the top a value that is no string is an expression; in dollars it may be a connection string's.
    fn is_within_dollars(&self) -> bool {
        self.depth < MAX_DEPTH
    }

    fn hides_value(&mut self, token: Token<'_>) -> bool {
        match (self.behind, token.kind) {
            (Behind::Value, Kind::Space | Kind::Comment) => {
                self.behind = Behind::Nothing;
                false
            }
            (Behind::Value, _) => true,
            (Behind::Sign, Kind::Space | Kind::Comment | Kind::Literal) => false,
            (Behind::Sign, _) => {
                self.shown.extend_from_slice(REDACTED_VALUE);
                self.behind = Behind::Value;
                true
            }
            _ => false,
        }
    }

    fn literal(&mut self, literal: &[u8]) {
        if matches!(self.behind, Behind::Name | Behind::Sign) {
            self.shown.extend_from_slice(REDACTED);
            return;
        }
        match self.looked_into(literal) {
            Some(inner) => self.shown.extend_from_slice(&inner),
            None if holds_secret(literal) => self.shown.extend_from_slice(REDACTED),
            None => self.shown.extend_from_slice(literal),
        }
    }

    /// A string in dollars with the secrets in it replaced; none if it is no such string, or cannot be taken apart.
    fn looked_into(&self, literal: &[u8]) -> Option<Vec<u8>> {
        let (delimiter, body) = in_dollars(literal)?;
        if !mentions_secret(body) {
            return None;
        }
        let mut inner = Self::new(self.depth.checked_sub(1)?);
        inner.shown.extend_from_slice(delimiter);
        let is_whole = inner.take_all(body);
        inner.shown.extend_from_slice(delimiter);
        is_whole.then_some(inner.shown)
    }
}

/// The delimiter of a string in dollars, and what stands between the two.
fn in_dollars(literal: &[u8]) -> Option<(&[u8], &[u8])> {
    let behind = literal.strip_prefix(b"$")?;
    let end = behind.iter().position(|byte| *byte == b'$')?;
    let delimiter = literal.get(..end + 2)?;
    let body = literal.strip_prefix(delimiter)?.strip_suffix(delimiter)?;
    Some((delimiter, body))
}

/// Whether a word or a quoted identifier is what a secret is called.
fn is_name(token: &[u8]) -> bool {
    let bare = token.strip_prefix(b"\"").unwrap_or(token);
    let bare = bare.strip_suffix(b"\"").unwrap_or(bare);
    let mut names = NAMES.iter();
    names.any(|name| bare.eq_ignore_ascii_case(name.as_bytes()))
}

/// Whether a secret's name stands anywhere: most texts have none, and need not be scanned.
fn mentions_secret(text: &[u8]) -> bool {
    MENTIONS.is_match(text)
}

/// Whether a string, or the beginning of one, holds `password=` or `password '`, with or without white space between.
fn holds_secret(string: &[u8]) -> bool {
    let inside = string.strip_suffix(b"'").unwrap_or(string);
    MENTIONS.find_iter(inside).any(|mention| {
        let behind = inside.get(mention.end()..).unwrap_or_default();
        let next = behind.trim_ascii_start().first();
        next.is_some_and(|next| matches!(next, b'=' | b'\'' | b'$' | b'\\'))
    })
}

/// Whether a string ends where a secret's value would begin: `'password='`.
fn ends_with_sign(literal: &[u8]) -> bool {
    let inside = literal.strip_suffix(b"'").unwrap_or(literal);
    let before = inside.trim_ascii_end().strip_suffix(b"=");
    let before = before.map(<[u8]>::trim_ascii_end);
    before.is_some_and(|before| {
        let mut mentions = MENTIONS.find_iter(before);
        mentions.any(|mention| mention.end() == before.len())
    })
}

/// The text without what stands between `:` and `@` behind `://`, where libpq would look for a password
/// (`conninfo_uri_parse_options` in fe-connect.c).
fn without_uri_passwords(text: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
    let mut shown = Vec::new();
    let mut taken = 0;
    for at in memmem::find_iter(&text, AUTHORITY) {
        let start = at + AUTHORITY.len();
        let behind = text.get(start..).unwrap_or_default();
        let ends = |byte: &u8| {
            matches!(byte, b'@' | b'/' | b'\'' | b'"' | b'$') || byte.is_ascii_whitespace()
        };
        let Some(end) = behind
            .iter()
            .position(ends)
            .filter(|end| behind.get(*end) == Some(&b'@'))
        else {
            continue;
        };
        let user = behind.get(..end).unwrap_or_default();
        if let Some(colon) = memchr::memchr(b':', user)
            && let Some(before) = text.get(taken..=start + colon)
        {
            shown.extend_from_slice(before);
            shown.extend_from_slice(REDACTED_VALUE);
            taken = start + end;
        }
    }
    if taken == 0 {
        return text;
    }
    shown.extend_from_slice(text.get(taken..).unwrap_or_default());
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests;
