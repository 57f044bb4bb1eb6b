//! What an `S:` line demands: kinds of messages in order, each perhaps with what it must say.

use std::fmt;

use anyhow::{Context, Result, bail, ensure};

use super::words::{from_hex, unescape};
use crate::wire::Message;

/// One thing that must come from the server next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// What it is.
    pub what: What,
    /// How often.
    pub count: Count,
    /// As the fixture has it.
    text: String,
}

/// Something a server sends or does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A message of this type, and what it says if that was stated.
    Message(u8, Option<String>),
    /// The one-byte answer to an encryption request.
    Byte(u8),
    /// Exactly these bytes, which are no message.
    Raw(Vec<u8>),
    /// The end, with a FIN.
    Eof,
    /// The end, with a RST.
    Reset,
}

/// How often something must come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// This many times.
    Exactly(usize),
    /// Once or more.
    OneOrMore,
}

impl fmt::Display for Expectation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

/// Reads what follows `S:`.
///
/// # Errors
/// When an item has no known form.
pub(super) fn parse(line: &str) -> Result<Vec<Expectation>> {
    let mut rest = line.trim();
    let mut expectations = Vec::new();
    while !rest.is_empty() {
        let end = item_end(rest)?;
        let (item, after) = rest.split_at(end);
        expectations.push(expectation(item).with_context(|| format!("in `{item}`"))?);
        rest = after.trim_start();
    }
    ensure!(!expectations.is_empty(), "nothing is expected");
    Ok(expectations)
}

/// Where the first item ends: at the first space outside its parentheses.
fn item_end(text: &str) -> Result<usize> {
    let (mut inside, mut escaped) = (false, false);
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => {}
            '(' => inside = true,
            ')' => inside = false,
            _ if character.is_whitespace() && !inside => return Ok(at),
            _ => {}
        }
        escaped = character == '\\' && !escaped;
    }
    ensure!(!inside, "a parenthesis that does not end");
    Ok(text.len())
}

fn expectation(item: &str) -> Result<Expectation> {
    let (body, count) = counted(item)?;
    let (name, detail) = match body.split_once('(') {
        Some((name, rest)) => {
            let detail = rest.strip_suffix(')').context("no ) at the end")?;
            (name, Some(detail.replace("\\(", "(").replace("\\)", ")")))
        }
        None => (body, None),
    };
    let what = match (name, detail.as_deref()) {
        ("eof", None) => What::Eof,
        ("reset", None) => What::Reset,
        ("byte", Some(detail)) => match detail.as_bytes() {
            [byte] => What::Byte(*byte),
            _ => bail!("byte(…) wants one character"),
        },
        ("text", Some(text)) => What::Raw(unescape(text)?),
        ("raw", Some(hex)) => What::Raw(from_hex(&hex.replace(' ', ""))?),
        _ => match name.as_bytes() {
            [kind] if KINDS.contains(kind) => What::Message(*kind, detail),
            _ => bail!("the server sends no such thing"),
        },
    };
    if let What::Message(kind, Some(detail)) = &what {
        check_detail(*kind, detail)?;
    }
    Ok(Expectation {
        what,
        count,
        text: item.to_owned(),
    })
}

/// Splits `+` or `*n` off, where it does not belong to a detail.
fn counted(item: &str) -> Result<(&str, Count)> {
    if let Some(body) = item.strip_suffix('+') {
        return Ok((body, Count::OneOrMore));
    }
    match item.rsplit_once('*') {
        Some((body, times)) if !times.ends_with(')') => {
            let times = times.parse().context("no number behind *")?;
            ensure!(times > 0, "zero times is nothing");
            Ok((body, Count::Exactly(times)))
        }
        _ => Ok((item, Count::Exactly(1))),
    }
}

/// The types of the server's messages.
const KINDS: &[u8] = b"123ACDEGHIKNRSTVWZcdnstv";

/// Details that can be checked, by type; see [`holds`].
fn check_detail(kind: u8, detail: &str) -> Result<()> {
    match kind {
        b'R' | b'K' => {
            detail.parse::<u32>().context("a number belongs here")?;
        }
        b'Z' => ensure!(matches!(detail, "I" | "T" | "E"), "a status is I, T or E"),
        b'D' | b'd' => {
            unescape(detail)?;
        }
        b'E' | b'N' => ensure!(
            detail
                .split(' ')
                .next_back()
                .is_some_and(|code| code.len() == 5),
            "a SQLSTATE belongs here"
        ),
        b'A' | b'C' | b'S' | b'v' => {}
        _ => bail!("nothing is known about what such a message says"),
    }
    Ok(())
}

/// Whether `message`, of the kind expected, says `detail`.
pub(super) fn holds(message: &Message, detail: &str) -> bool {
    found(message).is_some_and(|found| match message.kind {
        // Severity and SQLSTATE, or the SQLSTATE alone.
        b'E' | b'N' => found == detail || found.split(' ').nth(1) == Some(detail),
        // The name and the value, or the name alone.
        b'S' => found == detail || found.split('=').next() == Some(detail),
        _ => found == detail,
    })
}

/// What a message says, in the form a fixture states it; nothing for types without such a form.
pub(super) fn found(message: &Message) -> Option<String> {
    let body = message.body.as_slice();
    match message.kind {
        b'R' => Some(word(body, 0)?.to_string()),
        b'K' => Some(body.len().checked_sub(4)?.to_string()),
        b'Z' => Some(char::from(*body.first()?).to_string()),
        b'C' => strings(body).into_iter().next(),
        b'E' | b'N' => {
            let (severity, code) = (message.field(b'V')?, message.field(b'C')?);
            Some(format!("{severity} {code}"))
        }
        b'S' => Some(strings(body).join("=")),
        b'A' => Some(strings(body.get(4..)?).join(" ")),
        b'v' => {
            let (version, count) = (word(body, 0)?, word(body, 4)?);
            let mut parts = vec![format!("{}.{}", version >> 16, version & 0xffff)];
            let options = strings(body.get(8..)?).into_iter();
            parts.extend(options.take(usize::try_from(count).ok()?));
            Some(parts.join(" "))
        }
        b'd' => Some(escape(body)),
        b'D' => row(body),
        _ => None,
    }
}

/// A DataRow's values as text: escaped, joined by commas, NULL where there is none.
fn row(body: &[u8]) -> Option<String> {
    let mut rest = body.get(2..)?;
    let mut values = Vec::new();
    while !rest.is_empty() {
        let length = i32::from_be_bytes(rest.first_chunk::<4>().copied()?);
        rest = rest.get(4..)?;
        let Ok(length) = usize::try_from(length) else {
            values.push("NULL".to_owned());
            continue;
        };
        values.push(escape(rest.get(..length)?));
        rest = rest.get(length..)?;
    }
    Some(values.join(","))
}

/// Escapes as a fixture does it: printable text as it is, everything else as `\n`, `\t` or `\xHH`.
fn escape(bytes: &[u8]) -> String {
    bytes
        .escape_ascii()
        .to_string()
        .replace("\\'", "'")
        .replace("\\\"", "\"")
}

fn word(body: &[u8], at: usize) -> Option<u32> {
    body.get(at..)?
        .first_chunk::<4>()
        .copied()
        .map(u32::from_be_bytes)
}

/// NUL-terminated strings.
fn strings(body: &[u8]) -> Vec<String> {
    let body = body.strip_suffix(b"\0").unwrap_or(body);
    body.split(|byte| *byte == 0)
        .map(|text| String::from_utf8_lossy(text).into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Message {
        Message {
            kind,
            body: body.to_vec(),
        }
    }

    #[test]
    fn items_are_split_outside_their_parentheses() {
        let items = parse("1 T D(a b,NULL)*3 C(SELECT 1) S+ byte(N) raw(15 03) eof").unwrap();
        let whats: Vec<String> = items
            .iter()
            .map(|item| format!("{:?}", item.what))
            .collect();
        assert_eq!(
            whats,
            [
                "Message(49, None)",
                "Message(84, None)",
                "Message(68, Some(\"a b,NULL\"))",
                "Message(67, Some(\"SELECT 1\"))",
                "Message(83, None)",
                "Byte(78)",
                "Raw([21, 3])",
                "Eof",
            ]
        );
        assert_eq!(items[2].count, Count::Exactly(3));
        assert_eq!(items[4].count, Count::OneOrMore);
    }

    #[test]
    fn items_that_can_never_hold_are_refused() {
        for line in [
            "",
            "Q",
            "Z(X)",
            "T(1)",
            "D(a",
            "1*x",
            "1*0",
            "byte",
            "byte(ab)",
            "raw(1)",
            "ende",
            "R(ok)",
            "D(\\q)",
            "E(FATAL)x",
        ] {
            assert!(parse(line).is_err(), "{line} is taken");
        }
    }

    #[test]
    fn details_are_compared_with_what_a_message_says() {
        let cases: [(Message, &str, &str); 9] = [
            (message(b'R', b"\0\0\0\x05abcd"), "5", "0"),
            (message(b'K', &[0; 36]), "32", "4"),
            (message(b'Z', b"T"), "T", "I"),
            (message(b'C', b"INSERT 0 1\0"), "INSERT 0 1", "INSERT"),
            (
                message(b'E', b"SX\0VFATAL\0C28000\0\0"),
                "28000",
                "ERROR 28000",
            ),
            (message(b'S', b"a\0b\0"), "a", "a=c"),
            (message(b'A', b"\0\0\0\x01c\0p\0"), "c p", "c"),
            (
                message(b'v', b"\0\x03\0\0\0\0\0\x01_pq_.x\0"),
                "3.0 _pq_.x",
                "3.0",
            ),
            (
                message(b'D', b"\0\x02\0\0\0\x02a\n\xff\xff\xff\xff"),
                "a\\n,NULL",
                "a,NULL",
            ),
        ];
        for (message, right, wrong) in cases {
            assert!(holds(&message, right), "{message:?} is not {right}");
            assert!(!holds(&message, wrong), "{message:?} is {wrong}");
        }
    }
}
