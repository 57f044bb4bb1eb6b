//! Passwords in SQL, which no record may hold, not even one that shows texts as they were sent.
//!
//! By the scanner's tokens: the string behind the word PASSWORD or another secret's name (roles, user mappings, named
//! arguments), any string that holds one (connection strings, statements to be executed), and what is put together with
//! a string that asks for one (`format('… PASSWORD %L', …)`). Such a string goes whole. What stands in dollars is looked into
//! instead, since it may be a program that somebody wants to read (DO, functions). Of a URI only the password goes.

mod mentions;
mod uri;

use std::borrow::Cow;

use super::SqlText;
use super::lexer::{Doubt, Kind, Token, Tokens};
use mentions::{Holding, holding, is_connection_string, is_name, mentions_secret};
use uri::Within;

/// What stands in a record where a string was that is or holds a secret.
const REDACTED: &[u8] = b"'[redacted]'";
/// What stands for what is no string: a line that cannot be taken apart, a password in a URI.
const REDACTED_PIECE: &[u8] = b"[redacted]";
/// How deep strings in dollars are looked into that stand in one another.
const MAX_DEPTH: usize = 4;
/// How often a text is taken up again behind what PostgreSQL's scanner refuses.
const MAX_RESUMED: usize = 16;

/// Whether a message, which is no SQL but may quote some, or a connection string, may hold a secret or begin one.
pub(super) fn may_be_in_message(message: &[u8]) -> bool {
    holding(message) != Holding::Nothing
        || matches!(uri::without_passwords(message, Within::Cut), Cow::Owned(_))
}

/// The text with each password replaced. A text that cannot be scanned stays as it is but for URIs: hiding all of it would
/// let a client keep any statement out of the trail.
pub(super) fn without_passwords(text: SqlText<'_>) -> Cow<'_, [u8]> {
    if text.doubt().is_some() {
        return uri::without_passwords(text.kept, Within::Anything);
    }
    if !may_hold_secret(text.kept) {
        return Cow::Borrowed(text.kept);
    }
    let mut redactor = Redactor::new(MAX_DEPTH);
    redactor.take_all(text.kept, text.is_cut);
    Cow::Owned(redactor.shown)
}

/// Most texts do not, and need not be scanned.
fn may_hold_secret(text: &[u8]) -> bool {
    mentions_secret(text) || uri::is_in(text)
}

/// What the tokens before one say about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behind {
    Nothing,
    /// A secret's name.
    Name,
    /// A secret's name and a sign that gives it a value.
    Sign,
    /// The same, and a word: a function that makes the value of something else, if a bracket follows.
    Function,
    /// Something that is put together with a secret; so many brackets were opened since.
    Parts(usize),
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

    /// Shows a whole text. Behind what PostgreSQL's scanner refuses it goes on; what does not end is shown line by line.
    fn take_all(&mut self, mut text: &[u8], is_cut: bool) {
        for _ in 0..=MAX_RESUMED {
            let Some((doubt, rest)) = self.take_tokens(text) else {
                return;
            };
            text = rest;
            match (doubt, rest) {
                (Doubt::NumberWithoutEnd | Doubt::Character, [first, behind @ ..]) => {
                    self.shown.push(*first);
                    text = behind;
                }
                _ => break,
            }
        }
        self.take_lines(text, is_cut);
    }

    /// Shows tokens; gives back what is not one, and why.
    fn take_tokens<'text>(&mut self, text: &'text [u8]) -> Option<(Doubt, &'text [u8])> {
        let mut scanned = 0;
        for token in Tokens::of(text) {
            match token {
                Ok(token) => {
                    scanned += token.text.len();
                    self.take(token);
                }
                Err(doubt) => return Some((doubt, text.get(scanned..).unwrap_or_default())),
            }
        }
        None
    }

    fn take_lines(&mut self, text: &[u8], is_cut: bool) {
        let within = if is_cut {
            Within::Cut
        } else {
            Within::Anything
        };
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            if self.behind == Behind::Nothing && holding(line) == Holding::Nothing {
                self.shown
                    .extend_from_slice(&uri::without_passwords(line, within));
            } else {
                self.shown.extend_from_slice(REDACTED_PIECE);
                self.shown
                    .extend(line.last().filter(|last| **last == b'\n'));
            }
            self.behind = Behind::Nothing;
        }
    }

    fn take(&mut self, token: Token<'_>) {
        let text = token.text;
        let mut asks_for_more = false;
        match (token.kind, self.behind) {
            (Kind::Literal, _) => asks_for_more = self.take_literal(text),
            (Kind::Comment, _) => self
                .shown
                .extend_from_slice(&uri::without_passwords(text, Within::String)),
            // A string in many other languages.
            (Kind::Quoted, Behind::Sign) if self.is_within_dollars() => {
                self.shown.extend_from_slice(REDACTED);
            }
            _ => self.shown.extend_from_slice(text),
        }
        self.behind = match (token.kind, self.behind) {
            (Kind::Space | Kind::Comment, behind) => behind,
            (Kind::Symbol, _) if text == b";" => Behind::Nothing,
            (Kind::Symbol, Behind::Function | Behind::Sign) if text == b"(" => Behind::Parts(0),
            (Kind::Symbol, Behind::Parts(open)) => match text {
                b"(" => Behind::Parts(open + 1),
                b")" => open.checked_sub(1).map_or(Behind::Nothing, Behind::Parts),
                _ => Behind::Parts(open),
            },
            (_, behind @ Behind::Parts(_)) => behind,
            (Kind::Literal, _) if asks_for_more => Behind::Parts(0),
            (Kind::Word | Kind::Quoted, _) if is_name(text) => Behind::Name,
            (Kind::Word | Kind::Quoted, Behind::Sign | Behind::Function) => Behind::Function,
            (Kind::Symbol, Behind::Function) if text == b"." => Behind::Function,
            // `:=` comes in pieces.
            (Kind::Symbol, Behind::Name) if text == b":" => Behind::Name,
            (Kind::Operator, Behind::Name) if matches!(text, b"=" | b"=>") => Behind::Sign,
            _ => Behind::Nothing,
        };
    }

    /// Shows a string or a number, or what stands for it. Tells whether a secret is to be put together with it.
    fn take_literal(&mut self, literal: &[u8]) -> bool {
        let is_secret = matches!(self.behind, Behind::Name | Behind::Sign | Behind::Parts(_));
        let found = holding(literal);
        match self.looked_into(literal) {
            Some(inner) if !is_secret => self.shown.extend_from_slice(&inner),
            _ if is_secret || found == Holding::Secret => self.shown.extend_from_slice(REDACTED),
            _ => self
                .shown
                .extend_from_slice(&uri::without_passwords(literal, Within::String)),
        }
        found == Holding::Place
    }

    /// What stands there need not be SQL.
    fn is_within_dollars(&self) -> bool {
        self.depth < MAX_DEPTH
    }

    /// A string in dollars with the secrets in it replaced; none if it is no such string, or may be a secret altogether.
    fn looked_into(&self, literal: &[u8]) -> Option<Vec<u8>> {
        let (delimiter, body) = in_dollars(literal)?;
        if !may_hold_secret(body) || is_connection_string(body) || uri::is_one(body) {
            return None;
        }
        let mut inner = Self::new(self.depth.checked_sub(1)?);
        inner.shown.extend_from_slice(delimiter);
        if Tokens::of(body).all(|token| token.is_ok()) {
            inner.take_tokens(body);
        } else {
            // Of another language than SQL, in which strings may end elsewhere.
            inner.take_lines(body, false);
        }
        inner.shown.extend_from_slice(delimiter);
        Some(inner.shown)
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

#[cfg(test)]
mod tests;
