//! Transcripts in words: `> Q select 1` is what the client sends, `< C SELECT 1` what the server does.

use std::time::Instant;

use crate::wire::session::{
    Capture, Event, Finished, Prepared, ServerError, Session, Subject, Target,
};

/// Everything is kept.
pub(super) const CAPTURE: Capture = Capture {
    text_bytes: 1000,
    parameter_bytes: Some(100),
};

/// A login by `trust`.
pub(super) const LOGIN: [&str; 2] = ["< R", "< Z I"];

/// Plays a transcript behind a login, in one chunk for each line and in one for each byte, which must give the same;
/// then ends the session. Gives back what was told, one line for each event.
pub(super) fn play(lines: &[&str]) -> Vec<String> {
    let lines: Vec<&str> = LOGIN.iter().chain(lines).copied().collect();
    let by_line = play_bare(&lines, usize::MAX);
    assert_eq!(by_line, play_bare(&lines, 1), "cut into bytes");
    assert_eq!(by_line, play_bare(&lines, 7), "cut into chunks of 7");
    by_line
}

/// Plays a transcript as it is.
pub(super) fn play_bare(lines: &[&str], chunk: usize) -> Vec<String> {
    let mut session = Session::new(CAPTURE);
    let mut told = Vec::new();
    for line in lines {
        feed(&mut session, line, chunk, &mut |event| {
            told.push(describe(&event))
        });
    }
    session.end(Instant::now(), &mut |event| told.push(describe(&event)));
    told
}

/// Sends one line's messages.
pub(super) fn feed(session: &mut Session, line: &str, chunk: usize, events: &mut dyn FnMut(Event)) {
    let (side, message) = line.split_at(2);
    let bytes = match side {
        "> " => from_client(message),
        "< " => from_server(message),
        _ => panic!("neither side: {line}"),
    };
    for bytes in bytes.chunks(chunk) {
        match side {
            "> " => session.client_sent(bytes, Instant::now(), events),
            _ => session.server_sent(bytes, Instant::now(), events),
        }
    }
}

/// A message: type, length, body.
pub(super) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    bytes.extend(body);
    bytes
}

/// Splits a word off; `""` stands for the empty name.
fn word(text: &str) -> (&str, &str) {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    (if word == "\"\"" { "" } else { word }, rest)
}

pub(super) fn from_client(text: &str) -> Vec<u8> {
    let (kind, rest) = text.split_at(1);
    let kind = kind.as_bytes()[0];
    let rest = rest.trim_start();
    let body = match kind {
        b'Q' => format!("{rest}\0").into_bytes(),
        b'P' => {
            let (name, text) = word(rest);
            format!("{name}\0{text}\0\0\0").into_bytes()
        }
        b'B' => {
            let (portal, rest) = word(rest);
            let (statement, values) = word(rest);
            let mut body = format!("{portal}\0{statement}\0\0\0").into_bytes();
            let values: Vec<&str> = values
                .split(',')
                .filter(|value| !value.is_empty())
                .collect();
            body.extend(u16::try_from(values.len()).unwrap().to_be_bytes());
            for value in values {
                body.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
                body.extend(value.as_bytes());
            }
            body.extend([0, 0]);
            body
        }
        b'D' | b'C' => {
            let (target, name) = word(rest);
            format!("{target}{}\0", word(name).0).into_bytes()
        }
        b'E' => {
            let (portal, rows) = word(rest);
            let rows: i32 = rows.parse().unwrap_or(0);
            [portal.as_bytes(), &[0], &rows.to_be_bytes()].concat()
        }
        b'F' => {
            let function: u32 = rest.parse().unwrap();
            [&function.to_be_bytes(), [0; 6].as_slice()].concat()
        }
        b'd' => vec![b'x'; rest.parse().unwrap()],
        b'f' => b"reason\0".to_vec(),
        b'p' => rest.replace('^', "\0").into_bytes(),
        _ => rest.as_bytes().to_vec(),
    };
    message(kind, &body)
}

pub(super) fn from_server(text: &str) -> Vec<u8> {
    let (kind, rest) = text.split_at(1);
    let kind = kind.as_bytes()[0];
    let rest = rest.trim_start();
    let body = match kind {
        b'R' => {
            let (code, rest) = word(rest);
            let code: u32 = code.parse().unwrap_or(0);
            let mut body = code.to_be_bytes().to_vec();
            body.extend(rest.replace('^', "\0").into_bytes());
            body
        }
        b'K' => [&7_u32.to_be_bytes(), rest.as_bytes()].concat(),
        b'C' => format!("{rest}\0").into_bytes(),
        b'E' | b'N' => {
            let (severity, rest) = word(rest);
            let (code, text) = word(rest);
            format!("SLOCAL\0V{severity}\0C{code}\0M{text}\0Ffile.c\0\0").into_bytes()
        }
        b'S' => {
            let (name, value) = word(rest);
            format!("{name}\0{value}\0").into_bytes()
        }
        b'd' => vec![b'x'; rest.parse().unwrap()],
        b'D' => vec![0, 1, 0, 0, 0, 1, b'1'],
        b'T' | b't' | b'V' => vec![0; 8],
        b'G' | b'H' | b'W' => vec![0, 0, 0],
        b'A' => b"\0\0\0\x01channel\0payload\0".to_vec(),
        _ => rest.as_bytes().to_vec(),
    };
    message(kind, &body)
}

/// An event in one line: what it was about, its verdict, tags, rows, copies, error, and the status at the end.
pub(super) fn describe(event: &Event) -> String {
    match event {
        Event::Finished(finished) => describe_finished(finished),
        Event::Setting(setting) => format!("Setting {:?} {:?}", setting.name, setting.value),
        Event::Unsolicited(error) => format!("Unsolicited {}", describe_error(error)),
        Event::Violation(violation) => format!("Violation {violation:?}"),
    }
}

fn describe_error(error: &ServerError) -> String {
    format!(
        "({} {} {})",
        text(&error.severity),
        error.sqlstate.as_deref().unwrap_or("-"),
        text(&error.message)
    )
}

fn describe_finished(finished: &Finished) -> String {
    let outcome = &finished.outcome;
    let mut line = format!(
        "{}{}: {:?}",
        describe_subject(&finished.subject),
        if finished.malformed {
            " (malformed)"
        } else {
            ""
        },
        outcome.verdict
    );
    if !outcome.tags.is_empty() {
        let tags: Vec<String> = outcome.tags.iter().map(|tag| text(tag)).collect();
        line += &format!(" [{}]", tags.join(", "));
    }
    if outcome.rows > 0 {
        line += &format!(" rows={}", outcome.rows);
    }
    for copied in &outcome.copies {
        line += &format!(
            " {:?}({}>,{}<)",
            copied.direction, copied.bytes_from_client, copied.bytes_from_server
        );
    }
    if let Some(error) = &outcome.error {
        line += &format!(" {}", describe_error(error));
    }
    if let Some(transaction) = finished.transaction {
        line += &format!(" @{transaction:?}");
    }
    assert_eq!(
        finished.ready.is_some(),
        finished.transaction.is_some(),
        "{line}"
    );
    assert!(finished.started <= finished.completed, "{line}");
    line
}

fn describe_subject(subject: &Subject) -> String {
    let prepared = |prepared: Option<&Prepared>| {
        prepared.map_or("?".to_owned(), |prepared| text(&prepared.text.kept))
    };
    let target = |target: &Target| match target {
        Target::Statement(name) => format!("statement {}", text(name)),
        Target::Portal(name) => format!("portal {}", text(name)),
    };
    match subject {
        Subject::Query { text: query } => format!("Query {}", text(&query.kept)),
        Subject::Parse { prepared } => {
            format!(
                "Parse {}={}",
                text(&prepared.name),
                text(&prepared.text.kept)
            )
        }
        Subject::Bind {
            portal,
            statement,
            prepared: known,
            ..
        } => format!(
            "Bind {}<{}({})",
            text(portal),
            text(statement),
            prepared(known.as_deref())
        ),
        Subject::Describe(about) => format!("Describe {}", target(about)),
        Subject::Execute {
            portal,
            statement,
            prepared: known,
            max_rows,
            ..
        } => {
            let statement = statement.as_ref().map_or("?".to_owned(), |name| text(name));
            let rows = if *max_rows > 0 {
                format!(" max={max_rows}")
            } else {
                String::new()
            };
            format!(
                "Execute {}<{statement}({}){rows}",
                text(portal),
                prepared(known.as_deref())
            )
        }
        Subject::Close(about) => format!("Close {}", target(about)),
        Subject::FunctionCall { function, .. } => format!("Function {function}"),
        Subject::Sync => "Sync".to_owned(),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
