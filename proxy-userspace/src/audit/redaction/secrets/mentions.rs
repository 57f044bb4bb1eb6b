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
/// What a connection string consists of (`PQconninfoOptions` in src/interfaces/libpq/fe-connect.c, versions 15 to 18).
const CONNECTION_OPTIONS: [&str; 50] = [
    "application_name",
    "channel_binding",
    "client_encoding",
    "connect_timeout",
    "dbname",
    "fallback_application_name",
    "gssdelegation",
    "gssencmode",
    "gsslib",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "load_balance_hosts",
    "max_protocol_version",
    "min_protocol_version",
    "oauth_client_id",
    "oauth_client_secret",
    "oauth_issuer",
    "oauth_scope",
    "options",
    "passfile",
    "password",
    "port",
    "replication",
    "require_auth",
    "requirepeer",
    "scram_client_key",
    "scram_server_key",
    "service",
    "servicefile",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcert",
    "sslcertmode",
    "sslcompression",
    "sslcrl",
    "sslcrldir",
    "sslkey",
    "sslkeylogfile",
    "sslmode",
    "sslnegotiation",
    "sslpassword",
    "sslrootcert",
    "sslsni",
    "target_session_attrs",
    "user",
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
    let is_left_out = quoted.is_empty() || is_format(quoted);
    match (is_left_out, has_sign || has_quote) {
        (true, true) => Holding::Place,
        // Without anything behind it a name alone is one word among others.
        (true, false) if is_apart => Holding::Place,
        (false, true) => Holding::Secret,
        _ => Holding::Nothing,
    }
}

/// Whether a text begins with a place that format() fills: `%L`, `%1$s`, `%-10s`.
fn is_format(text: &[u8]) -> bool {
    let Some(mut rest) = text.strip_prefix(b"%") else {
        return false;
    };
    let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let number = digits(rest);
    if rest.get(number) == Some(&b'$') {
        rest = rest.get(number + 1..).unwrap_or_default();
    }
    rest = rest.strip_prefix(b"-").unwrap_or(rest);
    rest = rest.get(digits(rest)..).unwrap_or_default();
    let ends = |byte: &u8| {
        byte.is_ascii_whitespace() || matches!(byte, b'\'' | b'\\' | b'$' | b')' | b',' | b';')
    };
    match rest {
        [b's' | b'L' | b'I', behind @ ..] => behind.first().is_none_or(ends),
        _ => false,
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

/// Whether it is a connection string from beginning to end: options that libpq knows with their values, and nothing else.
pub(super) fn is_connection_string(text: &[u8]) -> bool {
    let mut rest = text.trim_ascii();
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let Some(behind) = without_option(rest) else {
            return false;
        };
        rest = behind.trim_ascii_start();
    }
    true
}

/// What follows `name = value` (`conninfo_parse` in src/interfaces/libpq/fe-connect.c).
fn without_option(text: &[u8]) -> Option<&[u8]> {
    let is_part = |byte: &&u8| byte.is_ascii_lowercase() || **byte == b'_';
    let (name, behind) = text.split_at_checked(text.iter().take_while(is_part).count())?;
    let mut known = CONNECTION_OPTIONS.iter();
    known.find(|option| option.as_bytes() == name)?;
    let value = behind.trim_ascii_start().strip_prefix(b"=")?;
    let value = value.trim_ascii_start();
    let (mut at, quoted) = match value.first() {
        Some(b'\'') => (1, true),
        _ => (0, false),
    };
    loop {
        match value.get(at) {
            Some(b'\\') => at += 2,
            Some(b'\'') if quoted => return value.get(at + 1..),
            Some(byte) if !quoted && byte.is_ascii_whitespace() => return value.get(at..),
            Some(_) => at += 1,
            None => return (!quoted).then_some(&[]),
        }
    }
}
