//! What a `C:` line says: one message of the client's, or something the client does to its connection.
//!
//! Layouts are those of the documentation's section "Message Formats".

use std::vec::IntoIter;

use anyhow::{Context, Result, bail, ensure};

use super::words::{Word, from_hex, words};
use crate::wire::{
    CANCEL_REQUEST, GSSENC_REQUEST, PROTOCOL_3_0, SSL_REQUEST, message as typed, packet,
};

/// One thing a client does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientItem {
    /// Sends these bytes.
    Bytes(Vec<u8>),
    /// Answers an md5 request for this user and password.
    Md5 {
        /// The user the hash is made for.
        user: Vec<u8>,
        /// The password.
        password: Vec<u8>,
    },
    /// Begins SCRAM-SHA-256 with this password.
    ScramFirst(Vec<u8>),
    /// Goes on with SCRAM after the server's challenge.
    ScramFinal,
    /// Closes the sending side.
    ShutDown,
    /// Closes the socket.
    Close,
    /// Closes the socket with a reset.
    Abort,
}

/// Reads what follows `C:`.
///
/// # Errors
/// When it is no known message or its arguments do not fit.
pub(super) fn parse(line: &str) -> Result<ClientItem> {
    let mut arguments = Arguments(words(line)?.into_iter());
    let verb = arguments.bare()?;
    let item = match verb.as_str() {
        "md5" => ClientItem::Md5 {
            user: arguments.bare()?.into_bytes(),
            password: arguments.bytes()?,
        },
        "scram-first" => ClientItem::ScramFirst(arguments.bytes()?),
        "scram-final" => ClientItem::ScramFinal,
        "shutdown" => ClientItem::ShutDown,
        "close-socket" => ClientItem::Close,
        "abort" => ClientItem::Abort,
        _ => ClientItem::Bytes(match untyped(&verb, &mut arguments)? {
            Some(bytes) => bytes,
            None => message(&verb, &mut arguments)?,
        }),
    };
    let rest: Vec<Word> = arguments.0.collect();
    ensure!(rest.is_empty(), "{rest:?} is left over");
    Ok(item)
}

/// A StartupMessage as in [`parse`]'s `startup`, from the words behind it.
///
/// # Errors
/// When a word is no `name=value`.
pub(super) fn startup(line: &str) -> Result<Vec<u8>> {
    startup_packet(&mut Arguments(words(line)?.into_iter()))
}

/// Everything that is not a typed message with a name.
fn untyped(verb: &str, arguments: &mut Arguments) -> Result<Option<Vec<u8>>> {
    Ok(Some(match verb {
        "startup" => startup_packet(arguments)?,
        "packet" => {
            let code = version_or_number(&arguments.bare()?)?;
            packet(code, &arguments.all_bytes()?)?
        }
        "sslrequest" => packet(SSL_REQUEST, &[])?,
        "gssencrequest" => packet(GSSENC_REQUEST, &[])?,
        "cancelrequest" => {
            let pid = number(&arguments.bare()?)?;
            let body = [&pid.to_be_bytes()[..], &arguments.all_bytes()?].concat();
            packet(CANCEL_REQUEST, &body)?
        }
        "raw" => raw(arguments)?,
        "header" => {
            let kind = arguments.kind()?;
            let length = number(&arguments.bare()?)?;
            [&[kind][..], &length.to_be_bytes()].concat()
        }
        "message" => {
            let kind = arguments.kind()?;
            typed(kind, &arguments.all_bytes()?)?
        }
        _ => return Ok(None),
    }))
}

fn message(verb: &str, arguments: &mut Arguments) -> Result<Vec<u8>> {
    match verb {
        "query" => typed(b'Q', &[arguments.all_bytes()?, vec![0]].concat()),
        "parse" => {
            let mut body = [arguments.string()?, arguments.string()?].concat();
            body.extend(counted(&arguments.numbers(4)?)?);
            typed(b'P', &body)
        }
        "bind" => bind(arguments),
        "describe" => arguments.named(b'D'),
        "close" => arguments.named(b'C'),
        "execute" => {
            let mut body = arguments.string()?;
            let rows = arguments.optional_bare()?.unwrap_or("0".to_owned());
            body.extend(number(&rows)?.to_be_bytes());
            typed(b'E', &body)
        }
        "sync" => typed(b'S', &[]),
        "flush" => typed(b'H', &[]),
        "terminate" => typed(b'X', &[]),
        "function" => function(arguments),
        "copydata" => typed(b'd', &arguments.all_bytes()?),
        "copydone" => typed(b'c', &[]),
        "copyfail" => typed(b'f', &arguments.string()?),
        "password" => typed(b'p', &arguments.string()?),
        "sasl-initial" => sasl_initial(arguments),
        "sasl-response" => typed(b'p', &arguments.all_bytes()?),
        _ => bail!("no message is called `{verb}`"),
    }
}

fn startup_packet(arguments: &mut Arguments) -> Result<Vec<u8>> {
    let mut code = PROTOCOL_3_0;
    let mut body = Vec::new();
    for word in arguments.0.by_ref() {
        let (name, value) = match word {
            Word::Pair(name, value) => (name, value),
            Word::Bare(text) => match text.split_once('=') {
                Some((name, value)) => (name.to_owned(), value.as_bytes().to_vec()),
                None if body.is_empty() => {
                    code = version_or_number(&text)?;
                    continue;
                }
                None => bail!("`{text}` is no name=value"),
            },
            Word::Bytes(_) => bail!("a startup parameter without a name"),
        };
        body.extend([name.as_bytes(), b"\0", &value, b"\0"].concat());
    }
    body.push(0);
    packet(code, &body)
}

fn raw(arguments: &mut Arguments) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for word in arguments.0.by_ref() {
        bytes.extend(match word {
            Word::Bare(digits) => from_hex(&digits)?,
            Word::Bytes(more) => more,
            Word::Pair(..) => bail!("raw takes hex digits and strings"),
        });
    }
    Ok(bytes)
}

/// `bind "portal" "statement" [formats n…] [values v…] [results n…]`
fn bind(arguments: &mut Arguments) -> Result<Vec<u8>> {
    let mut body = [arguments.string()?, arguments.string()?].concat();
    for section in ["formats", "values", "results"] {
        let is_here = arguments.skip(section);
        body.extend(match section {
            "values" => arguments.values(is_here)?,
            _ if is_here => counted(&arguments.numbers(2)?)?,
            _ => counted(&[])?,
        });
    }
    typed(b'B', &body)
}

/// `function oid [formats n…] [values v…] [result n]`
fn function(arguments: &mut Arguments) -> Result<Vec<u8>> {
    let mut body = number(&arguments.bare()?)?.to_be_bytes().to_vec();
    let formats = if arguments.skip("formats") {
        arguments.numbers(2)?
    } else {
        Vec::new()
    };
    body.extend(counted(&formats)?);
    let is_here = arguments.skip("values");
    body.extend(arguments.values(is_here)?);
    let result = if arguments.skip("result") {
        number(&arguments.bare()?)?
    } else {
        0
    };
    body.extend(u16::try_from(result)?.to_be_bytes());
    typed(b'F', &body)
}

/// `sasl-initial MECHANISM "data"` with a length, or `sasl-initial MECHANISM none` without data.
fn sasl_initial(arguments: &mut Arguments) -> Result<Vec<u8>> {
    let mut body = arguments.bare()?.into_bytes();
    body.push(0);
    if arguments.skip("none") {
        body.extend((-1_i32).to_be_bytes());
    } else {
        let data = arguments.all_bytes()?;
        body.extend(u32::try_from(data.len())?.to_be_bytes());
        body.extend(data);
    }
    typed(b'p', &body)
}

/// Puts a 16-bit count before fields.
fn counted(fields: &[Vec<u8>]) -> Result<Vec<u8>> {
    let count = u16::try_from(fields.len())?;
    Ok([count.to_be_bytes().to_vec(), fields.concat()].concat())
}

/// `3.2`, or a number as in [`number`].
fn version_or_number(text: &str) -> Result<u32> {
    match text.split_once('.') {
        Some((major, minor)) => {
            let (major, minor): (u16, u16) = (major.parse()?, minor.parse()?);
            Ok(u32::from(major) << 16 | u32::from(minor))
        }
        None => number(text),
    }
}

/// A number of 32 bits: decimal, negative too, or hex after `0x`.
fn number(text: &str) -> Result<u32> {
    let parsed = match (text.strip_prefix("0x"), text.starts_with('-')) {
        (Some(hex), _) => u32::from_str_radix(hex, 16).ok(),
        (None, true) => text.parse::<i32>().ok().map(i32::cast_unsigned),
        (None, false) => text.parse().ok(),
    };
    parsed.with_context(|| format!("`{text}` is no number of 32 bits"))
}

/// The words behind the verb, taken one after the other.
struct Arguments(IntoIter<Word>);

impl Arguments {
    fn peek(&self) -> Option<&Word> {
        self.0.as_slice().first()
    }

    fn bare(&mut self) -> Result<String> {
        match self.0.next() {
            Some(Word::Bare(text)) => Ok(text),
            other => bail!("a word is missing, not {other:?}"),
        }
    }

    fn optional_bare(&mut self) -> Result<Option<String>> {
        match self.peek() {
            Some(Word::Bare(_)) => self.bare().map(Some),
            _ => Ok(None),
        }
    }

    /// Takes the next word if it is this one.
    fn skip(&mut self, word: &str) -> bool {
        let is_next = matches!(self.peek(), Some(Word::Bare(text)) if text == word);
        if is_next {
            let _ = self.0.next();
        }
        is_next
    }

    /// A message's type: one character, or `0xHH`.
    fn kind(&mut self) -> Result<u8> {
        let word = self.bare()?;
        match word.as_bytes() {
            [kind] => Ok(*kind),
            _ => Ok(u8::try_from(number(&word)?)?),
        }
    }

    fn bytes(&mut self) -> Result<Vec<u8>> {
        match self.0.next() {
            Some(Word::Bytes(bytes)) => Ok(bytes),
            other => bail!("a string is missing, not {other:?}"),
        }
    }

    /// A string with its terminator.
    fn string(&mut self) -> Result<Vec<u8>> {
        let mut bytes = self.bytes()?;
        bytes.push(0);
        Ok(bytes)
    }

    /// All the strings that follow, joined.
    fn all_bytes(&mut self) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        while self.peek().is_some() {
            all.extend(self.bytes()?);
        }
        Ok(all)
    }

    /// The numbers that follow, in this many bytes each.
    fn numbers(&mut self, width: usize) -> Result<Vec<Vec<u8>>> {
        let mut fields = Vec::new();
        while let Some(Word::Bare(text)) = self.peek()
            && let Ok(value) = number(text)
        {
            let bytes = value.to_be_bytes();
            fields.push(
                bytes
                    .get(4 - width..)
                    .context("a width of 2 or 4")?
                    .to_vec(),
            );
            let _ = self.0.next();
        }
        Ok(fields)
    }

    /// The values that follow: `null` or strings, each with its length, behind their count.
    fn values(&mut self, is_here: bool) -> Result<Vec<u8>> {
        let mut fields = Vec::new();
        while let Some(word) = self.peek().filter(|_| is_here) {
            if *word == Word::Bare("null".to_owned()) {
                fields.push((-1_i32).to_be_bytes().to_vec());
            } else if let Word::Bytes(value) = word {
                let length = u32::try_from(value.len())?.to_be_bytes();
                fields.push([&length[..], value].concat());
            } else {
                break;
            }
            let _ = self.0.next();
        }
        counted(&fields)
    }

    /// `S "name"` or `P "name"`: what Describe and Close are about.
    fn named(&mut self, kind: u8) -> Result<Vec<u8>> {
        let of = self.kind()?;
        typed(kind, &[vec![of], self.string()?].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(line: &str) -> Vec<u8> {
        match parse(line).unwrap() {
            ClientItem::Bytes(bytes) => bytes,
            other => panic!("{line} is {other:?}"),
        }
    }

    #[test]
    fn messages_have_the_layout_of_the_documentation() {
        let cases: [(&str, &[u8]); 16] = [
            ("startup 3.2 user=me", b"\0\0\0\x11\0\x03\0\x02user\0me\0\0"),
            ("sslrequest", b"\0\0\0\x08\x04\xd2\x16\x2f"),
            (
                "cancelrequest 7 hex:01020304",
                b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x07\x01\x02\x03\x04",
            ),
            ("query \"a\" \"b\"", b"Q\0\0\0\x07ab\0"),
            ("parse \"s\" \"q\" 23", b"P\0\0\0\x0es\0q\0\0\x01\0\0\0\x17"),
            ("bind \"\" \"s\"", b"B\0\0\0\x0d\0s\0\0\0\0\0\0\0"),
            (
                "bind \"p\" \"\" formats 1 values null \"x\" results 1 0",
                b"B\0\0\0\x1cp\0\0\0\x01\0\x01\0\x02\xff\xff\xff\xff\0\0\0\x01x\0\x02\0\x01\0\0",
            ),
            ("describe S \"s\"", b"D\0\0\0\x07Ss\0"),
            ("close P \"\"", b"C\0\0\0\x06P\0"),
            ("execute \"\" -1", b"E\0\0\0\x09\0\xff\xff\xff\xff"),
            ("sync", b"S\0\0\0\x04"),
            ("header Q 0x3fffffff", b"Q\x3f\xff\xff\xff"),
            ("message 0x51 \"x\"", b"Q\0\0\0\x05x"),
            ("raw 00 01ff \"a\"", b"\x00\x01\xffa"),
            (
                "function 177 values \"1\" result 1",
                b"F\0\0\0\x13\0\0\0\xb1\0\0\0\x01\0\0\0\x011\0\x01",
            ),
            ("sasl-initial X none", b"p\0\0\0\x0aX\0\xff\xff\xff\xff"),
        ];
        for (line, expected) in cases {
            assert_eq!(bytes(line), expected, "{line}");
        }
    }

    #[test]
    fn lines_that_are_no_message_are_refused() {
        for line in [
            "",
            "quarry \"x\"",
            "query",
            "query x",
            "sync 1",
            "parse \"s\"",
            "startup user",
            "header Q",
            "header Q 99999999999",
            "execute \"\" many",
            "raw 0",
        ] {
            let is_empty_query = line == "query";
            assert_eq!(parse(line).is_ok(), is_empty_query, "{line}");
        }
    }
}
