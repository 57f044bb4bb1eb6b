//! The words of one line of a transcript: bare words, bytes in quotes or hex, and `name="bytes"`.

use anyhow::{Context, Result, bail, ensure};

/// Most bytes one word may stand for: a repetition must not fill the memory by a slip of the pen.
const MAX_WORD_BYTES: usize = 64 << 20;

/// One word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// A word without quotes.
    Bare(String),
    /// `"text"` or `hex:0a0b`, either one perhaps repeated: `"x"*100`.
    Bytes(Vec<u8>),
    /// `name="text"`.
    Pair(String, Vec<u8>),
}

/// Splits a line.
///
/// # Errors
/// When quotes do not end, an escape or a hex digit is unknown, or a repetition is too long.
pub(super) fn words(line: &str) -> Result<Vec<Word>> {
    let mut rest = line.trim();
    let mut words = Vec::new();
    while !rest.is_empty() {
        let (word, after) = next(rest)?;
        ensure!(
            after.is_empty() || after.starts_with(char::is_whitespace),
            "no space before `{after}`"
        );
        words.push(word);
        rest = after.trim_start();
    }
    Ok(words)
}

fn next(text: &str) -> Result<(Word, &str)> {
    if let Some(inner) = text.strip_prefix('"') {
        let (bytes, after) = quoted(inner)?;
        let (bytes, after) = repeated(bytes, after)?;
        return Ok((Word::Bytes(bytes), after));
    }
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    let (bare, after) = text.split_at(end);
    if let Some((name, _)) = bare.split_once("=\"") {
        let value = text.get(name.len() + 2..).unwrap_or_default();
        let (bytes, after) = quoted(value)?;
        let (bytes, after) = repeated(bytes, after)?;
        return Ok((Word::Pair(name.to_owned(), bytes), after));
    }
    if let Some(hex) = bare.strip_prefix("hex:") {
        let (digits, times) = hex.find('*').map_or((hex, ""), |at| hex.split_at(at));
        let (bytes, rest) = repeated(from_hex(digits)?, times)?;
        ensure!(rest.is_empty(), "`{rest}` follows a repetition");
        return Ok((Word::Bytes(bytes), after));
    }
    ensure!(!bare.contains('"'), "a quote inside the word `{bare}`");
    Ok((Word::Bare(bare.to_owned()), after))
}

/// Reads up to the closing quote; `text` begins behind the opening one.
fn quoted(text: &str) -> Result<(Vec<u8>, &str)> {
    let mut escaped = false;
    for (at, character) in text.char_indices() {
        if character == '"' && !escaped {
            let (inner, rest) = text.split_at(at);
            return Ok((unescape(inner)?, rest.get(1..).unwrap_or_default()));
        }
        escaped = character == '\\' && !escaped;
    }
    bail!("quotes that do not end")
}

/// Replaces the escapes `\n \r \t \0 \\ \" \( \) \, \xHH`.
///
/// # Errors
/// When an escape is none of them.
pub(super) fn unescape(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            let mut room = [0; 4];
            bytes.extend_from_slice(character.encode_utf8(&mut room).as_bytes());
            continue;
        }
        bytes.push(match characters.next() {
            Some('n') => b'\n',
            Some('r') => b'\r',
            Some('t') => b'\t',
            Some('0') => 0,
            Some('x') => {
                let digits: String = characters.by_ref().take(2).collect();
                let byte = from_hex(&digits)?;
                *byte.first().context("\\x wants two hex digits")?
            }
            Some(same @ ('\\' | '"' | '(' | ')' | ',')) => same as u8,
            other => bail!("unknown escape \\{}", other.unwrap_or(' ')),
        });
    }
    Ok(bytes)
}

/// Reads hex digits, two a byte.
///
/// # Errors
/// When they are odd in number or not all hex.
pub(super) fn from_hex(digits: &str) -> Result<Vec<u8>> {
    ensure!(
        digits.len().is_multiple_of(2) && digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "`{digits}` is not pairs of hex digits"
    );
    let pairs = digits.as_bytes().chunks(2);
    pairs
        .map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?))
        .collect()
}

/// Applies a repetition `*n` that directly follows.
fn repeated(bytes: Vec<u8>, text: &str) -> Result<(Vec<u8>, &str)> {
    let Some(times) = text.strip_prefix('*') else {
        return Ok((bytes, text));
    };
    let end = times.find(char::is_whitespace).unwrap_or(times.len());
    let (times, rest) = times.split_at(end);
    let times: usize = times
        .parse()
        .with_context(|| format!("`{times}` is no number of repetitions"))?;
    ensure!(
        bytes.len().saturating_mul(times) <= MAX_WORD_BYTES,
        "more than {MAX_WORD_BYTES} bytes in a word"
    );
    Ok((bytes.repeat(times), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_and_their_bytes_decoded() {
        let line = r#" query "a\"b\n\x00é" hex:00ff hex:61*3 "xy"*2 user=me options="-c a=b" "" "#;
        let expected = [
            Word::Bare("query".to_owned()),
            Word::Bytes(b"a\"b\n\0\xc3\xa9".to_vec()),
            Word::Bytes(vec![0, 255]),
            Word::Bytes(b"aaa".to_vec()),
            Word::Bytes(b"xyxy".to_vec()),
            Word::Bare("user=me".to_owned()),
            Word::Pair("options".to_owned(), b"-c a=b".to_vec()),
            Word::Bytes(Vec::new()),
        ];
        assert_eq!(words(line).unwrap(), expected);
    }

    #[test]
    fn what_cannot_be_decoded_is_refused() {
        for line in [
            r#""open"#,
            r#""\q""#,
            r#""\x0""#,
            "hex:0",
            "hex:0g",
            r#""a"b"#,
            r#""a"*x"#,
            r#"a"b""#,
            r#""aaaa"*99999999"#,
        ] {
            assert!(words(line).is_err(), "{line} is taken");
        }
    }
}
