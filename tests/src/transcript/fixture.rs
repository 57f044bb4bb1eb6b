//! Reading the fixtures: one file a subject, in it the cases, refused with file and line when they make no sense.

use std::collections::BTreeMap;
use std::fs;
use std::ops::RangeInclusive;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::client::{self, ClientItem};
use super::expectation::{self, Expectation, What};
use super::words::{Word, words};
use crate::cluster::Version;

/// Parameters of the StartupMessage behind `login`, which the line may add to or repeat: the last one wins.
const LOGIN: &str = "user=app_trust database=postgres application_name=transcript ";
/// What comes back: AuthenticationOk, the settings, the key, the first ReadyForQuery.
const LOGGED_IN: &str = "R(0) S+ K Z(I)";

/// One conversation.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its name, unique in the corpus.
    pub name: String,
    /// The file and the line it begins at.
    pub place: String,
    /// The only version it is for, if it is not for all.
    pub only: Option<Version>,
    /// Whether its server has TLS switched off.
    pub without_tls: bool,
    /// Where the client's bytes may be cut without changing what the server answers.
    pub splits: Splits,
    /// Columns, from 1, whose values differ between any two sessions.
    pub masked_columns: Vec<usize>,
    /// Whether pgusher refuses this itself, and so has no place in the server's source to name.
    pub masks_source: bool,
    /// Whether the server closes before it has read everything.
    pub unread: bool,
    /// Whether it begins with a login.
    pub logs_in: bool,
    /// Whether the login is one of replication, where a session cannot be reset by SQL.
    pub is_replication: bool,
    /// What happens, in order.
    pub steps: Vec<Step>,
}

/// Where a case may be cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Splits {
    /// Everywhere.
    All,
    /// After so many bytes only.
    Within(RangeInclusive<usize>),
    /// Nowhere.
    None,
}

/// One line of a case.
#[derive(Clone, Debug)]
pub struct Step {
    /// The line in its file.
    pub line: usize,
    /// What happens.
    pub what: Happening,
}

/// Something that happens in a conversation.
#[derive(Clone, Debug)]
pub enum Happening {
    /// The client does something; what is sent in successive lines goes out at once.
    Client(ClientItem),
    /// The client sends a startup packet that is not cut: what that changes, cases about startup packets show.
    Opening(Vec<u8>),
    /// The server must do this, where it is of this version.
    Server(Option<Version>, Vec<Expectation>),
    /// A CancelRequest with the session's own key, on a connection of its own the same way.
    Cancel,
    /// SQL that an administrator runs past pgusher; `$pid` is the session's backend.
    Administrator(String),
    /// Waits until such SQL returns this value.
    Until(String, String),
}

/// Reads every `*.txt` below `directory`.
///
/// # Errors
/// When a fixture cannot be understood, or two cases have the same name.
pub fn corpus(directory: &Path) -> Result<Vec<Case>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| format!("{}", directory.display()))? {
        paths.push(entry?.path());
    }
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    let mut cases = Vec::new();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        cases.extend(parse(&name, &fs::read_to_string(&path)?)?);
    }
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    for case in &cases {
        if let Some(earlier) = seen.insert(&case.name, &case.place) {
            bail!("{}: {} is also at {earlier}", case.place, case.name);
        }
    }
    Ok(cases)
}

/// Reads one fixture; `file` is its name for messages.
///
/// # Errors
/// With file and line when it makes no sense.
pub fn parse(file: &str, text: &str) -> Result<Vec<Case>> {
    let mut cases: Vec<Case> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let place = || format!("{file}:{number}");
        if let Some(name) = line.strip_prefix("case ") {
            check_complete(cases.last())?;
            cases.push(begin(name.trim(), place()).with_context(place)?);
        } else {
            let case = cases.last_mut().with_context(place)?;
            add_line(case, number, line).with_context(|| format!("{}: `{line}`", place()))?;
        }
    }
    check_complete(cases.last())?;
    Ok(cases)
}

fn begin(name: &str, place: String) -> Result<Case> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    ensure!(
        !name.is_empty() && name.bytes().all(is_plain),
        "`{name}` is no name of lower-case words joined by _"
    );
    Ok(Case {
        name: name.to_owned(),
        place,
        only: None,
        without_tls: false,
        splits: Splits::All,
        masked_columns: Vec::new(),
        masks_source: false,
        unread: false,
        logs_in: false,
        is_replication: false,
        steps: Vec::new(),
    })
}

/// A case that sends nothing, or demands nothing, tests nothing.
fn check_complete(case: Option<&Case>) -> Result<()> {
    let Some(case) = case else { return Ok(()) };
    let is_client = |step: &Step| matches!(step.what, Happening::Client(_) | Happening::Opening(_));
    let is_demand = |step: &Step| matches!(step.what, Happening::Server(..) | Happening::Until(..));
    let mut steps = case.steps.iter().skip(if case.logs_in { 2 } else { 0 });
    ensure!(
        case.steps.iter().any(is_client) && steps.any(is_demand),
        "{}: {} sends nothing or demands nothing",
        case.place,
        case.name
    );
    Ok(())
}

fn add_line(case: &mut Case, number: usize, line: &str) -> Result<()> {
    let (keyword, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    let is_first = case.steps.is_empty();
    ensure!(!ended(case), "the connection has ended already");
    let what = match keyword {
        "only" | "server" | "split" | "mask" | "unread" => {
            ensure!(is_first, "this belongs before the first step");
            return set(case, keyword, rest);
        }
        "login" => {
            ensure!(is_first, "a login comes first");
            case.logs_in = true;
            case.is_replication = rest.contains("replication=");
            let startup = client::startup(&format!("{LOGIN}{rest}"))?;
            let step = Happening::Client(ClientItem::Bytes(startup));
            case.steps.push(Step {
                line: number,
                what: step,
            });
            Happening::Server(None, expectation::parse(LOGGED_IN)?)
        }
        "opening" => Happening::Opening(client::startup(rest)?),
        "C:" => Happening::Client(client::parse(rest)?),
        "S:" => Happening::Server(None, expectation::parse(rest)?),
        "S15:" => Happening::Server(Some(Version::V15), expectation::parse(rest)?),
        "S18:" => Happening::Server(Some(Version::V18), expectation::parse(rest)?),
        "do" => action(rest)?,
        _ => bail!("no line begins with `{keyword}`"),
    };
    case.steps.push(Step { line: number, what });
    Ok(())
}

/// Whether the last step ended the connection for every version.
fn ended(case: &Case) -> bool {
    match case.steps.last().map(|step| &step.what) {
        Some(Happening::Server(None, expectations)) => expectations.last().is_some_and(is_end),
        _ => false,
    }
}

/// Whether this is the end of the server's side.
pub(super) fn is_end(expectation: &Expectation) -> bool {
    matches!(expectation.what, What::Eof | What::Reset)
}

fn set(case: &mut Case, keyword: &str, value: &str) -> Result<()> {
    match (keyword, value) {
        ("only", "15") => case.only = Some(Version::V15),
        ("only", "18") => case.only = Some(Version::V18),
        ("server", "without-tls") => case.without_tls = true,
        ("split", "none") => case.splits = Splits::None,
        ("unread", "") => case.unread = true,
        ("split", range) => {
            let (first, last) = range.split_once("..").context("a range is 1..7")?;
            case.splits = Splits::Within(first.parse()?..=last.parse()?);
        }
        ("mask", "source") => case.masks_source = true,
        ("mask", columns) => {
            let columns = columns
                .strip_prefix("column ")
                .context("mask source, or mask column 1,2")?;
            for column in columns.split(',') {
                case.masked_columns.push(column.trim().parse()?);
            }
        }
        _ => bail!("`{value}` cannot be set"),
    }
    Ok(())
}

fn action(line: &str) -> Result<Happening> {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).context("SQL is text");
    let mut parts = words(line)?.into_iter();
    let verb = parts.next();
    let happening = match (verb, parts.next(), parts.next()) {
        (Some(Word::Bare(verb)), None, None) if verb == "cancel" => Happening::Cancel,
        (Some(Word::Bare(verb)), Some(Word::Bytes(sql)), None) if verb == "sql" => {
            Happening::Administrator(text(sql)?)
        }
        (Some(Word::Bare(verb)), Some(Word::Bytes(sql)), Some(Word::Bytes(value)))
            if verb == "until" =>
        {
            Happening::Until(text(sql)?, text(value)?)
        }
        _ => bail!("do wants `cancel`, `sql \"…\"` or `until \"…\" \"value\"`"),
    };
    ensure!(parts.next().is_none(), "too many words");
    Ok(happening)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_read_with_its_settings_and_steps() {
        let text = "# about\ncase one\n  only 18\n  split 1..7\n  mask column 2\n  login user=me\n\
                    \n  C: sync\n  S15: Z\n  S: Z(I)\n  do cancel\n  do until \"select 1\" \"1\"\n";
        let cases = parse("a.txt", text).unwrap();
        let [case] = cases.as_slice() else {
            panic!("{cases:?}")
        };
        assert_eq!(
            (case.name.as_str(), case.place.as_str()),
            ("one", "a.txt:2")
        );
        assert_eq!(case.only, Some(Version::V18));
        assert_eq!(case.splits, Splits::Within(1..=7));
        assert_eq!(case.masked_columns, [2]);
        assert!(case.logs_in);
        let lines: Vec<usize> = case.steps.iter().map(|step| step.line).collect();
        assert_eq!(lines, [6, 6, 8, 9, 10, 11, 12]);
    }

    #[test]
    fn bad_fixtures_are_refused_with_file_and_line() {
        let cases = [
            ("C: sync\n", "bad.txt:1"),
            ("case A\n", "bad.txt:1"),
            ("case a\n", "bad.txt:1"),
            ("case a\n C: sync\n", "bad.txt:1"),
            ("case a\n login\n C: sync\n", "bad.txt:1"),
            ("case a\n C: sink\n", "bad.txt:2"),
            ("case a\n C: sync\n S: Q\n", "bad.txt:3"),
            ("case a\n C: sync\n only 18\n S: Z\n", "bad.txt:3"),
            ("case a\n only 14\n", "bad.txt:2"),
            ("case a\n C: sync\n login\n", "bad.txt:3"),
            ("case a\n C: sync\n S: eof\n C: sync\n", "bad.txt:4"),
            ("case a\n say hello\n", "bad.txt:2"),
            ("case a\n do nothing\n", "bad.txt:2"),
            ("case a\n split 1-7\n", "bad.txt:2"),
        ];
        for (text, place) in cases {
            let error = format!("{:#}", parse("bad.txt", text).unwrap_err());
            assert!(error.contains(place), "{text:?} gives {error}");
        }
    }
}
