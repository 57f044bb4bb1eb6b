//! Takes secrets out of command lines before they are recorded.
//!
//! A command line is for people to recognise a program by; where an argument might be a secret it goes. The rules
//! err on the side of taking too much.

use super::script::Script;

/// What stands in a record where a secret stood.
const REDACTED: &str = "[redacted]";
/// How much of a command line is kept.
const MAX_ARGUMENTS: usize = 64;
const MAX_ARGUMENT_CHARS: usize = 512;
/// Over all arguments: a record must fit into one datagram of the journal's even if every character needs escaping.
const MAX_COMMAND_LINE_CHARS: usize = 4096;

/// In how many URIs of an argument secrets are looked for; what comes behind them goes.
const MAX_URIS: usize = 16;

/// Words that make the value beside them a secret.
const SECRET_WORDS: [&str; 8] = [
    "pass",
    "pwd",
    "secret",
    "token",
    "apikey",
    "api_key",
    "credential",
    "scram_",
];

/// Redacts and bounds a command line.
pub(super) fn arguments(arguments: Vec<String>) -> Vec<String> {
    let mut kept = Vec::new();
    let mut room = MAX_COMMAND_LINE_CHARS;
    let mut value_is_secret = false;
    for argument in arguments.into_iter().take(MAX_ARGUMENTS) {
        let redacted = if value_is_secret {
            REDACTED.to_owned()
        } else {
            one(&argument)
        };
        value_is_secret = announces_secret(&argument);
        let bounded: String = redacted
            .chars()
            .take(MAX_ARGUMENT_CHARS.min(room))
            .collect();
        room -= bounded.chars().count();
        kept.push(bounded);
    }
    kept
}

/// A script whose path looks like it holds a secret is not told: redacted, it would be another path.
pub(super) fn script(script: Script) -> Option<Script> {
    (one(&script.path) == script.path).then_some(script)
}

/// Whether this is an option whose value, a secret, is the next argument.
fn announces_secret(argument: &str) -> bool {
    argument.starts_with('-') && !argument.contains('=') && names_secret(argument)
}

fn names_secret(text: &str) -> bool {
    let lower = text.to_ascii_lowercase().replace('-', "_");
    SECRET_WORDS.iter().any(|word| lower.contains(word))
}

fn one(argument: &str) -> String {
    let without_userinfo = redact_userinfo(argument);
    redact_assignments(&without_userinfo).unwrap_or_else(|| redact_sentence(&without_userinfo))
}

/// `scheme://user:secret@host` → `scheme://user:[redacted]@host`, of each URI.
fn redact_userinfo(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    for _ in 0..MAX_URIS {
        let Some((scheme, behind)) = rest.split_once("://") else {
            break;
        };
        shown.push_str(scheme);
        shown.push_str("://");
        rest = match without_secret(behind) {
            Some((user, host)) => {
                shown.push_str(&format!("{user}:{REDACTED}@"));
                host
            }
            None => behind,
        };
    }
    shown.push_str(if rest.contains("://") { REDACTED } else { rest });
    shown
}

/// The user, and what follows the secret, of what stands behind `://`.
fn without_secret(text: &str) -> Option<(&str, &str)> {
    let authority = text.split(['/', '?', '#']).next().unwrap_or_default();
    // A password may hold unencoded delimiters; then everything up to the last @ is suspect.
    let whole = text.split("://").next().unwrap_or_default();
    [authority, whole, text].into_iter().find_map(|part| {
        let at = part.rfind('@')?;
        let (user, _secret) = part.get(..at)?.split_once(':')?;
        Some((user, text.get(at + 1..)?))
    })
}

/// `…password=value…`, in an option, a connection string or a query: everything from the value on goes, because
/// quoting decides where it ends and connection strings nest.
fn redact_assignments(text: &str) -> Option<String> {
    let mut from = 0;
    while let Some(at) = text
        .get(from..)
        .and_then(|rest| rest.find('='))
        .map(|found| found + from)
    {
        let before = text.get(..at).unwrap_or_default().trim_end();
        let start = before
            .rfind([' ', '&', '?', ';', '\t', '\n'])
            .map_or(0, |space| space + 1);
        if names_secret(before.get(start..).unwrap_or_default()) {
            return Some(format!("{}={REDACTED}", text.get(..at).unwrap_or_default()));
        }
        from = at + 1;
    }
    None
}

/// `alter role app password 's3cret'`: in an argument of several words, everything behind the word goes.
fn redact_sentence(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let Some(start) = SECRET_WORDS
        .iter()
        .filter_map(|word| lower.find(word))
        .min()
    else {
        return text.to_owned();
    };
    let word = text.get(start..).unwrap_or_default();
    let behind = word.find(|character: char| !character.is_alphanumeric() && character != '_');
    let is_followed =
        text.contains(|character: char| character.is_whitespace() || character == ':');
    match behind {
        Some(length) if is_followed => {
            let kept = text.get(..start + length).unwrap_or_default();
            format!("{kept} {REDACTED}")
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redacted(line: &[&str]) -> Vec<String> {
        arguments(line.iter().map(|&argument| argument.to_owned()).collect())
    }

    #[test]
    fn secrets_go_and_the_rest_stays() {
        let cases: [(&[&str], &[&str]); 11] = [
            (
                &["psql", "-h", "db", "-U", "app"],
                &["psql", "-h", "db", "-U", "app"],
            ),
            (
                &["app", "--password", "s3cret", "--port", "1"],
                &["app", "--password", "[redacted]", "--port", "1"],
            ),
            (
                &["app", "--db-password=s3cret"],
                &["app", "--db-password=[redacted]"],
            ),
            (
                &["psql", "host=db password=s3cret user=u"],
                &["psql", "host=db password=[redacted]"],
            ),
            (
                &["psql", "host=db password = 's3 cret'"],
                &["psql", "host=db password =[redacted]"],
            ),
            (
                &["app", "scram_client_key=s3cret"],
                &["app", "scram_client_key=[redacted]"],
            ),
            (
                &["psql", "postgres://db/x?user=u&password=s3cret"],
                &["psql", "postgres://db/x?user=u&password=[redacted]"],
            ),
            (
                &["psql", "-c", "alter role app PASSWORD 's3cret' login"],
                &["psql", "-c", "alter role app PASSWORD [redacted]"],
            ),
            (
                &["app", "--no-password", "--token", "s3cret"],
                &["app", "--no-password", "[redacted]", "[redacted]"],
            ),
            (
                &["app", "{\"user\":\"u\",\"password\":\"s3cret\"}"],
                &["app", "{\"user\":\"u\",\"password [redacted]"],
            ),
            (
                &["env", "PGPASSWORD=s3cret", "API-TOKEN=x"],
                &["env", "PGPASSWORD=[redacted]", "API-TOKEN=[redacted]"],
            ),
        ];
        for (line, expected) in cases {
            assert_eq!(redacted(line), expected);
        }
    }

    #[test]
    fn of_each_uri_only_the_secret_goes() {
        let cases: [(&[&str], &[&str]); 5] = [
            (
                &["psql", "postgres://u:s3cret@db/x?a=b"],
                &["psql", "postgres://u:[redacted]@db/x?a=b"],
            ),
            (
                &["psql", "postgres://u:s3/c@ret@db/x"],
                &["psql", "postgres://u:[redacted]@db/x"],
            ),
            (
                &["app", "a://u:s3cret@db/x,a://v:s3cret@db/y"],
                &["app", "a://u:[redacted]@db/x,a://v:[redacted]@db/y"],
            ),
            (
                &["app", "a://u:s3cret@db,a://v:s3cret@db", "a://b,c://d"],
                &[
                    "app",
                    "a://u:[redacted]@db,a://v:[redacted]@db",
                    "a://b,c://d",
                ],
            ),
            (
                &["psql", "postgres://u:s3://cret@db/x"],
                &["psql", "postgres://u:[redacted]@db/x"],
            ),
        ];
        for (line, expected) in cases {
            assert_eq!(redacted(line), expected);
        }
    }

    #[test]
    fn a_command_line_is_bounded() {
        let long = "x".repeat(10_000);
        let line: Vec<&str> = std::iter::repeat_n(long.as_str(), 1000).collect();
        let kept = redacted(&line);
        assert_eq!(kept.len(), MAX_ARGUMENTS);
        let total: usize = kept.iter().map(String::len).sum();
        assert_eq!(total, MAX_COMMAND_LINE_CHARS);
    }
}
