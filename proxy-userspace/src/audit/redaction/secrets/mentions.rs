//! Where a text speaks of a secret, and whether it holds one.

use std::sync::LazyLock;

use aho_corasick::AhoCorasick;

/// What secrets are called: of roles, and in connection strings and options (libpq, postgres_fdw).
const NAMES: [&str; 5] = [
    "password",
    "sslpassword",
    "scram_client_key",
    "scram_server_key",
    "oauth_client_secret",
];
/// What a connection string may begin with (`PQconninfoOptions` in src/interfaces/libpq/fe-connect.c).
const CONNECTION_OPTIONS: [&str; 12] = [
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "sslmode",
    "service",
    "options",
    "application_name",
    "connect_timeout",
    "client_encoding",
];

/// Finds any of the names, whatever their case.
#[expect(
    clippy::expect_used,
    reason = "only a list too long to be searched for fails, and this one never changes"
)]
static MENTIONS: LazyLock<AhoCorasick> = LazyLock::new(|| {
    let mut searched = AhoCorasick::builder();
    let searched = searched.ascii_case_insensitive(true).build(NAMES);
    searched.expect("five words can be searched for")
});

/// What there is of secrets in a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Holding {
    Nothing,
    /// A place for one: `PASSWORD %L`, or it ends where one would begin.
    Place,
    /// One.
    Secret,
}

/// Whether a secret's name stands anywhere: most texts have none, and need not be scanned.
pub(super) fn mentions_secret(text: &[u8]) -> bool {
    MENTIONS.is_match(text)
}

/// Whether a word or a quoted identifier is what a secret is called.
pub(super) fn is_name(token: &[u8]) -> bool {
    let bare = token.strip_prefix(b"\"").unwrap_or(token);
    let bare = bare.strip_suffix(b"\"").unwrap_or(bare);
    let mut names = NAMES.iter();
    names.any(|name| bare.eq_ignore_ascii_case(name.as_bytes()))
}

/// What a string, or a piece of a text that cannot be scanned, holds.
pub(super) fn holding(string: &[u8]) -> Holding {
    let inside = match string.strip_suffix(b"'") {
        Some(inside) => inside,
        None => inside_dollars(string),
    };
    let mentions = MENTIONS.find_iter(inside);
    let found = mentions.map(|mention| {
        let behind = inside.get(mention.end()..).unwrap_or_default();
        behind_name(behind)
    });
    found.max().unwrap_or(Holding::Nothing)
}

fn inside_dollars(string: &[u8]) -> &[u8] {
    super::in_dollars(string).map_or(string, |(_, body)| body)
}

/// What the text behind a name says: `= x`, `'x'`, ` %L` or the end.
fn behind_name(text: &[u8]) -> Holding {
    // Of a name in double quotes.
    let text = text.strip_prefix(b"\"").unwrap_or(text);
    let bare = text.trim_ascii_start();
    let is_apart = bare.len() < text.len();
    let value = without_sign(bare);
    let has_sign = value.len() < bare.len();
    let value = value.trim_ascii_start();
    let quoted = without_quote(value);
    let has_quote = quoted.len() < value.len();
    match quoted.first() {
        // Without anything behind it a name alone is one word among others.
        None | Some(b'%') if has_sign || has_quote || is_apart => Holding::Place,
        Some(_) if has_sign || has_quote => Holding::Secret,
        _ => Holding::Nothing,
    }
}

fn without_sign(text: &[u8]) -> &[u8] {
    [&b"=>"[..], b":=", b"="]
        .into_iter()
        .find_map(|sign| text.strip_prefix(sign))
        .unwrap_or(text)
}

/// Without the beginning of a string: `'`, `''`, `E'`, `\'`, `$$`.
fn without_quote(text: &[u8]) -> &[u8] {
    let prefixed = match text {
        [b'e' | b'E' | b'n' | b'N', rest @ ..] => rest,
        [b'u' | b'U', b'&', rest @ ..] => rest,
        _ => text,
    };
    let is_quote = |byte: &u8| matches!(byte, b'\'' | b'\\' | b'$');
    let quotes = prefixed.iter().take_while(|byte| is_quote(byte)).count();
    match prefixed.get(quotes..) {
        Some(rest) if quotes > 0 => rest,
        _ => text,
    }
}

/// Whether it can be nothing but a connection string: `name=value`, and no bracket, without which no program does anything.
pub(super) fn is_connection_string(text: &[u8]) -> bool {
    let text = text.trim_ascii_start();
    let length = text
        .iter()
        .take_while(|byte| byte.is_ascii_lowercase() || **byte == b'_')
        .count();
    let (name, behind) = text.split_at_checked(length).unwrap_or_default();
    let mut known = CONNECTION_OPTIONS.iter();
    known.any(|option| option.as_bytes() == name)
        && behind.trim_ascii_start().starts_with(b"=")
        && !text.contains(&b'(')
}
