//! Passwords in SQL, which no record may hold, not even one that shows texts as they were sent.
//!
//! By the scanner's tokens: the string behind the word PASSWORD (roles, user mappings), and any string that assigns
//! one in a connection string (`password=…`, as for subscriptions and dblink). The string goes whole and nothing else
//! does, so that no other part of a statement can hide behind the rule.

use std::borrow::Cow;

use super::lexer::{Kind, Tokens};
use super::{Scanning, SqlText};

/// What stands in a record where the password stood.
const REDACTED: &[u8] = b"'[redacted]'";
const PASSWORD: &[u8] = b"password";

/// The text with each password replaced. A text that cannot be scanned stays as it is: hiding all of it would let a
/// client keep any statement out of the trail.
pub(super) fn without_passwords(text: SqlText<'_>) -> Cow<'_, [u8]> {
    if text.scanning != Scanning::Certain || !mentions_password(text.kept) {
        return Cow::Borrowed(text.kept);
    }
    let mut shown = Vec::with_capacity(text.kept.len());
    let mut behind_word = false;
    let mut scanned = 0;
    for token in Tokens::of(text.kept) {
        let Ok(token) = token else {
            break;
        };
        scanned += token.text.len();
        match token.kind {
            Kind::Literal if behind_word || assigns_password(token.text) => {
                shown.extend_from_slice(REDACTED);
            }
            _ => shown.extend_from_slice(token.text),
        }
        behind_word = match token.kind {
            Kind::Space | Kind::Comment => behind_word,
            Kind::Word => token.text.eq_ignore_ascii_case(PASSWORD),
            _ => false,
        };
    }
    let rest = text.kept.get(scanned..).unwrap_or_default();
    if text.is_cut && (behind_word || assigns_password(rest)) {
        // A password that the cut goes through.
        shown.extend_from_slice(REDACTED);
    } else {
        shown.extend_from_slice(rest);
    }
    Cow::Owned(shown)
}

fn mentions_password(text: &[u8]) -> bool {
    memchr::memchr2_iter(b'p', b'P', text).any(|at| {
        let word = text.get(at..at + PASSWORD.len());
        word.is_some_and(|word| word.eq_ignore_ascii_case(PASSWORD))
    })
}

/// Whether a string holds `password=`, with or without white space before the sign.
fn assigns_password(string: &[u8]) -> bool {
    string
        .windows(PASSWORD.len())
        .enumerate()
        .filter(|(_, window)| window.eq_ignore_ascii_case(PASSWORD))
        .any(|(at, _)| {
            let behind = string.get(at + PASSWORD.len()..).unwrap_or_default();
            behind.trim_ascii_start().first() == Some(&b'=')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, is_cut: bool) -> String {
        let shown = without_passwords(SqlText {
            kept: text.as_bytes(),
            is_cut,
            scanning: Scanning::Certain,
        });
        String::from_utf8(shown.into_owned()).unwrap()
    }

    #[test]
    fn passwords_go_and_everything_else_stays() {
        let cases = [
            (
                "alter role a PASSWORD 'x''y' login",
                "alter role a PASSWORD '[redacted]' login",
            ),
            (
                "create user a encrypted password /* c */\nE'x\\'y'; drop table t",
                "create user a encrypted password /* c */\n'[redacted]'; drop table t",
            ),
            (
                "create user mapping for a server s options (user 'u', password 'x')",
                "create user mapping for a server s options (user 'u', password '[redacted]')",
            ),
            (
                "create subscription s connection 'host=h Password = x' publication p",
                "create subscription s connection '[redacted]' publication p",
            ),
            (
                "select password from t where a = 'x'",
                "select password from t where a = 'x'",
            ),
            ("select 'password', 'x'", "select 'password', 'x'"),
            ("select \"password\" 'x'", "select \"password\" 'x'"),
            ("alter role a password null", "alter role a password null"),
            ("select 'x", "select 'x"),
            ("alter role a password 'x", "alter role a password 'x"),
        ];
        for (text, expected) in cases {
            assert_eq!(shown(text, false), expected, "{text}");
        }
    }

    #[test]
    fn a_cut_through_a_password_leaves_nothing_of_it() {
        let cases = [
            (
                "alter role a password 'secr",
                "alter role a password '[redacted]'",
            ),
            ("select dblink('password=secr", "select dblink('[redacted]'"),
            ("select password, 'x", "select password, 'x"),
        ];
        for (text, expected) in cases {
            assert_eq!(shown(text, true), expected, "{text}");
        }
    }

    #[test]
    fn a_text_that_cannot_be_scanned_stays_as_it_is() {
        let text = SqlText {
            kept: b"alter role a password 'x'",
            is_cut: false,
            scanning: Scanning::UnsafeEncoding,
        };
        assert_eq!(without_passwords(text), text.kept);
    }
}
