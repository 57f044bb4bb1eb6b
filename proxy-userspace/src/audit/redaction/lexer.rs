//! Where the tokens of a SQL text begin and end, by the rules of PostgreSQL's own scanner
//! (src/backend/parser/scan.l; numbers as from version 16, with `standard_conforming_strings` on).
//!
//! It need not understand SQL, and must never be wrong about what is a literal: a text that PostgreSQL's scanner
//! refuses, or that versions scan differently, is a [`Doubt`]. Works on bytes in any encoding whose characters beyond
//! ASCII have no ASCII byte in them. Never recurses, never allocates, and passes each byte a bounded number of times.

/// Characters that operators are made of (scan.l, `op_chars`).
const OPERATOR: &[u8] = b"~!@#^&|`?+-*/%<>=";
/// An operator may end in `+` or `-` only if one of these is in it.
const BEFORE_SIGN: &[u8] = b"~!@#^&|`?%";
/// Characters that are tokens by themselves (scan.l, `self`), but for those of operators.
const SELF: &[u8] = b",()[].;:";

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Space,
    Comment,
    /// A string of any kind or a number.
    Literal,
    /// `$1`
    Parameter(u32),
    /// A keyword or an identifier.
    Word,
    /// An identifier in double quotes.
    Quoted,
    Operator,
    /// A character such as a comma or a bracket; `::`, `:=` and `..` come in pieces.
    Symbol,
}

/// A token and its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token<'text> {
    pub(super) kind: Kind,
    pub(super) text: &'text [u8],
}

/// Why a text cannot be taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// A string, a quoted identifier or a comment does not end, or what the text ends with might go on.
    Unterminated,
    /// A number or a parameter goes on as a word, as in `12ab`: an error from version 15 on, two tokens before.
    NumberWithoutEnd,
    /// A character that no token begins with.
    Character,
}

/// The tokens of a text; together they are the whole text. After a doubt there are none.
#[derive(Clone, Debug)]
pub(super) struct Tokens<'text> {
    rest: &'text [u8],
    /// What stands before `rest` is an operator.
    behind_operator: bool,
}

impl<'text> Tokens<'text> {
    pub(super) fn of(text: &'text [u8]) -> Self {
        Self {
            rest: text,
            behind_operator: false,
        }
    }
}

impl<'text> Iterator for Tokens<'text> {
    type Item = Result<Token<'text>, Doubt>;

    fn next(&mut self) -> Option<Self::Item> {
        let first = *self.rest.first()?;
        let scanned = self.scan(first).and_then(|(kind, length)| {
            // No rule yields an empty token; one that did would be an endless loop.
            let length = length.max(1);
            let (text, rest) = self
                .rest
                .split_at_checked(length)
                .ok_or(Doubt::Unterminated)?;
            Ok((Token { kind, text }, rest))
        });
        match scanned {
            Ok((token, rest)) => {
                self.rest = rest;
                Some(Ok(token))
            }
            Err(doubt) => {
                self.rest = &[];
                Some(Err(doubt))
            }
        }
    }
}

impl Tokens<'_> {
    /// The kind and length of the next token, whose first byte is `first`. A sign that an operator has lost is one by itself;
    /// what follows it is not looked at again for each of them.
    fn scan(&mut self, first: u8) -> Result<(Kind, usize), Doubt> {
        let is_lost = self.behind_operator && is_sign(first) && !self.rest.starts_with(b"--");
        let scanned = if is_lost {
            Ok((Kind::Operator, 1))
        } else {
            scan(first, self.rest)
        };
        self.behind_operator = matches!(scanned, Ok((Kind::Operator, _)));
        scanned
    }
}

/// The kind and length of the token at the start of `text`, whose first byte is `first`.
fn scan(first: u8, text: &[u8]) -> Result<(Kind, usize), Doubt> {
    let second = text.get(1).copied();
    match first {
        _ if is_space(first) => Ok((Kind::Space, run(text, is_space))),
        b'-' if second == Some(b'-') => Ok((Kind::Comment, run(text, is_not_newline))),
        b'/' if second == Some(b'*') => Ok((Kind::Comment, block_comment(text)?)),
        b'\'' => Ok((Kind::Literal, string(text, 0, false)?)),
        b'"' => Ok((Kind::Quoted, quoted(text, 0, b'"', false)?)),
        b'$' => dollar(text),
        b'0'..=b'9' => number(text),
        b'.' if second.is_some_and(|byte| byte.is_ascii_digit()) => number(text),
        // Two dots are one token, so that the second begins no number.
        b'.' if second == Some(b'.') => Ok((Kind::Symbol, 2)),
        _ if is_word_start(first) => word(first, text),
        _ if OPERATOR.contains(&first) => Ok((Kind::Operator, operator(text))),
        _ if SELF.contains(&first) => Ok((Kind::Symbol, 1)),
        _ => Err(Doubt::Character),
    }
}

fn run(text: &[u8], belongs: impl Fn(u8) -> bool) -> usize {
    text.iter().take_while(|byte| belongs(**byte)).count()
}

/// As scan.l's `space`; the vertical tab is none before version 16, and an error there.
pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

fn is_not_newline(byte: u8) -> bool {
    !matches!(byte, b'\n' | b'\r')
}

fn is_word_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || !byte.is_ascii()
}

fn is_word_part(byte: u8) -> bool {
    is_word_start(byte) || byte.is_ascii_digit() || byte == b'$'
}

/// A comment that may contain others.
fn block_comment(text: &[u8]) -> Result<usize, Doubt> {
    let mut depth = 0_usize;
    let mut at = 0;
    loop {
        match (text.get(at), text.get(at + 1)) {
            (Some(b'/'), Some(b'*')) => {
                depth += 1;
                at += 2;
            }
            (Some(b'*'), Some(b'/')) => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return Ok(at);
                }
            }
            (Some(_), _) => at += 1,
            (None, _) => return Err(Doubt::Unterminated),
        }
    }
}

/// The end of what is quoted from `start` on, where the opening quote is. A doubled quote does not end it, and with
/// `escapes` neither does one behind a backslash.
fn quoted(text: &[u8], start: usize, quote: u8, escapes: bool) -> Result<usize, Doubt> {
    let mut at = start + 1;
    loop {
        match text.get(at) {
            Some(b'\\') if escapes => at += 2,
            Some(byte) if *byte == quote => {
                if text.get(at + 1) != Some(&quote) {
                    return Ok(at + 1);
                }
                at += 2;
            }
            Some(_) => at += 1,
            None => return Err(Doubt::Unterminated),
        }
    }
}

/// The end of a string whose opening quote is at `start`, with all its continuations.
fn string(text: &[u8], start: usize, escapes: bool) -> Result<usize, Doubt> {
    let mut end = quoted(text, start, b'\'', escapes)?;
    while let Some(next) = continuation(text, end) {
        end = quoted(text, next, b'\'', escapes)?;
    }
    Ok(end)
}

/// Where a string that was closed at `end` opens again: behind white space with a newline in it (scan.l,
/// `quotecontinue`). It then goes on by the rules it began with.
fn continuation(text: &[u8], end: usize) -> Option<usize> {
    let mut at = end;
    let mut newline = false;
    loop {
        match text.get(at)? {
            b'\n' | b'\r' => {
                newline = true;
                at += 1;
            }
            byte if is_space(*byte) => at += 1,
            b'-' if text.get(at + 1) == Some(&b'-') => {
                at += run(text.get(at..)?, is_not_newline);
            }
            b'\'' if newline => return Some(at),
            _ => return None,
        }
    }
}

/// A parameter or a dollar-quoted string.
fn dollar(text: &[u8]) -> Result<(Kind, usize), Doubt> {
    let behind = text.get(1..).unwrap_or_default();
    let digits = run(behind, |byte| byte.is_ascii_digit());
    if digits > 0 {
        let number = behind.iter().take(digits).fold(0_u32, |number, digit| {
            let digit = u32::from(digit.wrapping_sub(b'0'));
            number.saturating_mul(10).saturating_add(digit)
        });
        return ended(Kind::Parameter(number), text, digits + 1);
    }
    let is_tag_part = |byte| is_word_part(byte) && byte != b'$';
    let tag = run(behind, is_tag_part);
    let delimiter = match text.get(..tag + 2) {
        Some(delimiter) if delimiter.ends_with(b"$") => delimiter,
        Some(_) => return Err(Doubt::Character),
        None => return Err(Doubt::Unterminated),
    };
    let body = text.get(delimiter.len()..).unwrap_or_default();
    let length = body
        .windows(delimiter.len())
        .position(|window| window == delimiter)
        .ok_or(Doubt::Unterminated)?;
    Ok((Kind::Literal, length + 2 * delimiter.len()))
}

/// A number (scan.l: `decinteger`, `hexinteger`, `octinteger`, `bininteger`, `numeric`, `real`).
fn number(text: &[u8]) -> Result<(Kind, usize), Doubt> {
    let based = match text {
        [b'0', b'x' | b'X', ..] => based_digits(text, |byte| byte.is_ascii_hexdigit()),
        [b'0', b'o' | b'O', ..] => based_digits(text, |byte| matches!(byte, b'0'..=b'7')),
        [b'0', b'b' | b'B', ..] => based_digits(text, |byte| matches!(byte, b'0' | b'1')),
        _ => 0,
    };
    if based > 0 {
        return ended(Kind::Literal, text, based);
    }
    let mut length = digits(text, 0);
    let is_range = length > 0 && text.get(length + 1) == Some(&b'.');
    if text.get(length) == Some(&b'.') && !is_range {
        length += 1 + digits(text, length + 1);
    }
    if matches!(text.get(length), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(text.get(length + 1), Some(b'+' | b'-')));
        let exponent = digits(text, length + 1 + sign);
        if exponent > 0 {
            length += 1 + sign + exponent;
        }
    }
    ended(Kind::Literal, text, length)
}

/// Length of the decimal digits at `start`, with single underscores between them.
fn digits(text: &[u8], start: usize) -> usize {
    let mut at = start;
    loop {
        match (text.get(at), text.get(at + 1)) {
            (Some(b'0'..=b'9'), _) => at += 1,
            (Some(b'_'), Some(b'0'..=b'9')) if at > start => at += 2,
            _ => return at - start,
        }
    }
}

/// Length of `0x`, `0o` or `0b` and its digits, each of which an underscore may precede; 0 without any digit.
fn based_digits(text: &[u8], is_digit: impl Fn(u8) -> bool) -> usize {
    let mut at = 2;
    loop {
        let underscore = usize::from(text.get(at) == Some(&b'_'));
        match text.get(at + underscore) {
            Some(digit) if is_digit(*digit) => at += underscore + 1,
            _ if at > 2 => return at,
            _ => return 0,
        }
    }
}

/// A number or parameter of `length`, unless a word follows at once.
fn ended(kind: Kind, text: &[u8], length: usize) -> Result<(Kind, usize), Doubt> {
    let behind = text.get(length..).unwrap_or_default();
    if !behind.first().is_some_and(|byte| is_word_start(*byte)) {
        return Ok((kind, length));
    }
    // At the end of the text it may be the beginning of an exponent or of digits.
    let junk = run(behind, |byte| {
        is_word_part(byte) || matches!(byte, b'+' | b'-')
    });
    if junk == behind.len() {
        return Err(Doubt::Unterminated);
    }
    Err(Doubt::NumberWithoutEnd)
}

/// A word, or what a one-letter word makes of the quote behind it.
fn word(first: u8, text: &[u8]) -> Result<(Kind, usize), Doubt> {
    match (first, text.get(1), text.get(2)) {
        (b'e' | b'E', Some(b'\''), _) => Ok((Kind::Literal, string(text, 1, true)?)),
        (b'b' | b'B' | b'x' | b'X' | b'n' | b'N', Some(b'\''), _) => {
            Ok((Kind::Literal, string(text, 1, false)?))
        }
        (b'u' | b'U', Some(b'&'), Some(b'\'')) => Ok((Kind::Literal, string(text, 2, false)?)),
        (b'u' | b'U', Some(b'&'), Some(b'"')) => Ok((Kind::Quoted, quoted(text, 2, b'"', false)?)),
        _ => Ok((Kind::Word, run(text, is_word_part))),
    }
}

fn is_sign(byte: u8) -> bool {
    matches!(byte, b'+' | b'-')
}

/// Length of an operator: it ends where a comment begins, and loses `+` and `-` at its end as in scan.l. No further than
/// that is looked.
fn operator(text: &[u8]) -> usize {
    let mut length = 0;
    let mut keeps_signs = false;
    let mut signs = 0;
    while let Some(byte) = text.get(length).filter(|byte| OPERATOR.contains(byte)) {
        if let (b'-', Some(b'-')) | (b'/', Some(b'*')) = (byte, text.get(length + 1)) {
            break;
        }
        keeps_signs |= BEFORE_SIGN.contains(byte);
        signs = if is_sign(*byte) { signs + 1 } else { 0 };
        length += 1;
    }
    if keeps_signs {
        length
    } else {
        length.saturating_sub(signs).max(1)
    }
}

#[cfg(test)]
mod tests;
