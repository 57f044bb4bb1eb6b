//! Valid exchanges between a client and a server, and what is to be told of each.

use proptest::collection::vec;
use proptest::prelude::*;

use crate::wire::session::tests::transcript::{from_client, from_server};

/// What the client sends, and what the server answers once it has all of it. The client may be phases ahead.
#[derive(Clone)]
pub(super) struct Phase {
    pub(super) client: Vec<u8>,
    pub(super) server: Vec<u8>,
}

impl std::fmt::Debug for Phase {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (client, server) = (self.client.escape_ascii(), self.server.escape_ascii());
        write!(formatter, "> {client} < {server}")
    }
}

/// Phases that belong together and leave the session idle.
#[derive(Clone, Debug)]
pub(super) struct Exchange {
    pub(super) phases: Vec<Phase>,
    pub(super) told: Vec<String>,
}

impl Exchange {
    /// From lines of a transcript, each side's in the order sent.
    fn new(phases: &[(&[&str], &[&str])], told: Vec<String>) -> Self {
        let phase = |(client, server): &(&[&str], &[&str])| Phase {
            client: client.iter().flat_map(|line| from_client(line)).collect(),
            server: server.iter().flat_map(|line| from_server(line)).collect(),
        };
        Self {
            phases: phases.iter().map(phase).collect(),
            told,
        }
    }
}

/// Any exchange.
pub(super) fn exchange() -> impl Strategy<Value = Exchange> {
    prop_oneof![
        4 => simple(),
        4 => batch(),
        2 => suspended(),
        2 => copy_out(),
        2 => copy_in(),
        3 => copy_in_extended(),
        2 => copy_in_pipelined(),
        1 => fixed(),
    ]
}

/// What may come between any two answers.
fn interlude() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        8 => Just(""),
        1 => Just("N NOTICE 00000 by the way"),
        1 => Just("A"),
        1 => Just("S TimeZone UTC"),
    ]
}

fn with_interludes(lines: &[String], between: &[&'static str]) -> Vec<String> {
    let between = between.iter().cycle();
    let pair = |(line, between): (&String, &&'static str)| [(*between).to_owned(), line.clone()];
    let all = lines.iter().zip(between).flat_map(pair);
    all.filter(|line| !line.is_empty()).collect()
}

fn refs(lines: &[String]) -> Vec<&str> {
    lines.iter().map(String::as_str).collect()
}

/// One Query of several statements, which may fail at any of them.
fn simple() -> impl Strategy<Value = Exchange> {
    let statements = vec(0_u32..4, 0..5);
    (
        statements,
        any::<bool>(),
        vec(interlude(), 1..5),
        "[a-z ]{0,90}",
    )
        .prop_map(|(statements, fails, between, text)| {
            let text = text.trim().to_owned();
            let mut answers = Vec::new();
            for rows in &statements {
                answers.push("T".to_owned());
                answers.extend((0..*rows).map(|_| "D".to_owned()));
                answers.push(format!("C SELECT {rows}"));
            }
            if fails {
                answers.push("E ERROR 22012 zero".to_owned());
            } else if statements.is_empty() {
                answers.push("I".to_owned());
            }
            answers.push("Z I".to_owned());
            let rows: u32 = statements.iter().sum();
            let tags: Vec<String> = statements
                .iter()
                .map(|rows| format!("SELECT {rows}"))
                .collect();
            let verdict = match (fails, tags.is_empty()) {
                (true, _) => "Failed",
                (false, true) => "Empty",
                (false, false) => "Completed",
            };
            let mut line = format!("Query {text}: {verdict}");
            if !tags.is_empty() {
                line += &format!(" [{}]", tags.join(", "));
            }
            if rows > 0 {
                line += &format!(" rows={rows}");
            }
            if fails {
                line += " (ERROR 22012 zero)";
            }
            let answers = with_interludes(&answers, &between);
            let query = format!("Q {text}");
            Exchange::new(&[(&[&query], &refs(&answers))], vec![line + " @Idle"])
        })
}

/// The messages of a batch: what is sent, what answers it, what it is called, and what its answer adds to that.
fn batch_messages(
    name: &str,
    text: &str,
) -> [(String, Vec<&'static str>, String, &'static str); 7] {
    let statement = if name == "\"\"" { "" } else { name };
    let portal = |kind: &str| format!("{kind} p<{statement}({text})");
    [
        // A named statement may be there from an exchange before; closing it is never an error.
        (
            format!("C S {name}"),
            vec!["3"],
            format!("Close statement {statement}"),
            "",
        ),
        (
            format!("P {name} {text}"),
            vec!["1"],
            format!("Parse {statement}={text}"),
            "",
        ),
        (
            format!("D S {name}"),
            vec!["t", "T"],
            format!("Describe statement {statement}"),
            "",
        ),
        (format!("B p {name} v1,v2"), vec!["2"], portal("Bind"), ""),
        (
            "D P p".to_owned(),
            vec!["n"],
            "Describe portal p".to_owned(),
            "",
        ),
        (
            "E p".to_owned(),
            vec!["D", "C INSERT 0 1"],
            portal("Execute"),
            " [INSERT 0 1] rows=1",
        ),
        (
            "C P p".to_owned(),
            vec!["3"],
            "Close portal p".to_owned(),
            "",
        ),
    ]
}

/// A batch of the extended protocol that may fail at any of its messages, with a Query in the middle of it.
fn batch() -> impl Strategy<Value = Exchange> {
    let name = prop_oneof![Just("\"\""), Just("s1"), Just("s2")];
    (name, 0_usize..8, vec(interlude(), 1..4), "[a-z]{1,70}").prop_map(
        |(name, fails_at, between, text)| {
            let messages = batch_messages(name, &text);
            let mut client = Vec::new();
            let mut answers: Vec<String> = Vec::new();
            let mut told = Vec::new();
            for (at, (message, answer, what, tags)) in messages.iter().enumerate() {
                client.push(message.clone());
                if at < fails_at {
                    answers.extend(answer.iter().map(|line| (*line).to_owned()));
                    told.push(format!("{what}: Completed{tags} @Idle"));
                } else if at == fails_at {
                    answers.push("E ERROR 42601 refused".to_owned());
                    told.push(failing(what));
                } else {
                    told.push(format!("{what}: NotRun @Idle"));
                }
            }
            if fails_at < messages.len() {
                client.push("Q skipped as well".to_owned());
                told.push("Query skipped as well: NotRun @Idle".to_owned());
            }
            client.extend(["H".to_owned(), "S".to_owned()]);
            answers.push("Z I".to_owned());
            let answers = with_interludes(&answers, &between);
            Exchange::new(&[(&refs(&client), &refs(&answers))], told)
        },
    )
}

/// The line of the message that failed.
fn failing(what: &str) -> String {
    format!("{what}: Failed (ERROR 42601 refused) @Idle")
}

/// A portal read in parts.
fn suspended() -> impl Strategy<Value = Exchange> {
    vec(1_usize..4, 1..4).prop_map(|parts| {
        let mut client = vec!["P \"\" many".to_owned(), "B \"\" \"\"".to_owned()];
        let mut answers = vec!["1".to_owned(), "2".to_owned()];
        let mut told = vec![
            "Parse =many: Completed @Idle".to_owned(),
            "Bind <(many): Completed @Idle".to_owned(),
        ];
        for rows in &parts {
            client.push(format!("E \"\" {rows}"));
            answers.extend((0..*rows).map(|_| "D".to_owned()));
            answers.push("s".to_owned());
            told.push(format!(
                "Execute <(many) max={rows}: Suspended rows={rows} @Idle"
            ));
        }
        client.extend(["E \"\"".to_owned(), "S".to_owned()]);
        answers.extend(["C SELECT 0".to_owned(), "Z I".to_owned()]);
        told.push("Execute <(many): Completed [SELECT 0] @Idle".to_owned());
        Exchange::new(&[(&refs(&client), &refs(&answers))], told)
    })
}

fn copy_out() -> impl Strategy<Value = Exchange> {
    (vec(0_usize..90, 0..6), vec(interlude(), 1..4)).prop_map(|(lines, between)| {
        let mut answers = vec!["H".to_owned()];
        answers.extend(lines.iter().map(|bytes| format!("d {bytes}")));
        answers.extend(["c".to_owned(), "C COPY 1".to_owned(), "Z I".to_owned()]);
        let bytes: usize = lines.iter().sum();
        let told = format!("Query copy out: Completed [COPY 1] Out(0>,{bytes}<) @Idle");
        let answers = with_interludes(&answers, &between);
        Exchange::new(&[(&["Q copy out"], &refs(&answers))], vec![told])
    })
}

/// COPY IN by a Query: completed, failed by the client, or by the server in the middle of the data.
fn copy_in() -> impl Strategy<Value = Exchange> {
    (vec(0_usize..90, 0..6), 0..3).prop_map(|(lines, how)| {
        let mut data: Vec<String> = lines.iter().map(|bytes| format!("d {bytes}")).collect();
        let bytes: usize = lines.iter().sum();
        let begin: (&[&str], &[&str]) = (&["Q copy in"], &["G"]);
        let failed = "Query copy in: Failed (ERROR 22P04 bad) @Idle".to_owned();
        match how {
            0 => {
                data.push("c".to_owned());
                let told = format!("Query copy in: Completed [COPY 1] In({bytes}>,0<) @Idle");
                Exchange::new(&[begin, (&refs(&data), &["C COPY 1", "Z I"])], vec![told])
            }
            1 => {
                data.push("f".to_owned());
                Exchange::new(
                    &[begin, (&refs(&data), &["E ERROR 22P04 bad", "Z I"])],
                    vec![failed],
                )
            }
            _ => Exchange::new(
                &[
                    begin,
                    (&["d 5"], &["E ERROR 22P04 bad", "Z I"]),
                    (&refs(&data), &[]),
                    (&["c"], &[]),
                ],
                vec![failed],
            ),
        }
    })
}

/// COPY IN by an Execute with Sync right behind it, as libpq sends it: completed, failed in the data, or failed before
/// the server read anything.
fn copy_in_extended() -> impl Strategy<Value = Exchange> {
    (vec(0_usize..90, 0..4), 0..3).prop_map(|(lines, how)| {
        let mut data: Vec<String> = lines.iter().map(|bytes| format!("d {bytes}")).collect();
        data.extend(["c".to_owned(), "S".to_owned()]);
        let bytes: usize = lines.iter().sum();
        let begin = ["P \"\" copy", "B \"\" \"\"", "E \"\"", "S"];
        let mut told = vec![
            "Parse =copy: Completed @Idle".to_owned(),
            "Bind <(copy): Completed @Idle".to_owned(),
        ];
        let answers: [(&[&str], &[&str]); 2] = match how {
            0 => [(&["1", "2", "G"], &[]), (&["C COPY 1", "Z I"], &[])],
            1 => [
                (&["1", "2", "G", "E ERROR 22P04 bad"], &[]),
                (&["Z I"], &[]),
            ],
            _ => [
                (&["1", "2", "G", "E ERROR 22P04 bad", "Z I"], &[]),
                (&["Z I"], &[]),
            ],
        };
        told.push(match how {
            0 => format!("Execute <(copy): Completed [COPY 1] In({bytes}>,0<) @Idle"),
            _ => "Execute <(copy): Failed (ERROR 22P04 bad) @Idle".to_owned(),
        });
        Exchange::new(
            &[(&begin, answers[0].0), (&refs(&data), answers[1].0)],
            told,
        )
    })
}

/// A COPY IN that fails, with a batch sent behind its Sync without waiting: the server has read that Sync or has not.
/// The Query is what tells which.
fn copy_in_pipelined() -> impl Strategy<Value = Exchange> {
    any::<bool>().prop_map(|has_read_sync| {
        let begin = ["P \"\" copy", "B \"\" \"\"", "E \"\"", "S"];
        let batch = ["P \"\" insert", "B \"\" \"\"", "E \"\"", "S"];
        let (answers, outcome, tag): (&[&str], _, _) = if has_read_sync {
            (&["E ERROR 57014 canceled", "Z I"], "NotRun", "")
        } else {
            (
                &[
                    "E ERROR 57014 canceled",
                    "Z I",
                    "1",
                    "2",
                    "C INSERT 0 1",
                    "Z I",
                ],
                "Completed",
                " [INSERT 0 1]",
            )
        };
        let told = vec![
            "Parse =copy: Completed @Idle".to_owned(),
            "Bind <(copy): Completed @Idle".to_owned(),
            "Execute <(copy): Failed (ERROR 57014 canceled) @Idle".to_owned(),
            format!("Parse =insert: {outcome} @Idle"),
            format!("Bind <(insert): {outcome} @Idle"),
            format!("Execute <(insert): {outcome}{tag} @Idle"),
            "Query select 1: Completed [SELECT 1] @Idle".to_owned(),
        ];
        Exchange::new(
            &[
                (&begin, &["1", "2", "G"]),
                (&batch, answers),
                (&["Q select 1"], &["C SELECT 1", "Z I"]),
            ],
            told,
        )
    })
}

/// What needs no variation.
fn fixed() -> impl Strategy<Value = Exchange> {
    let call: (&[&str], &[&str]) = (&["F 952"], &["V", "Z I"]);
    let failed_call: (&[&str], &[&str]) = (&["F 953"], &["E ERROR 42883 none", "Z I"]);
    prop_oneof![
        Just(Exchange::new(
            &[call],
            vec!["Function 952: Completed @Idle".to_owned()]
        )),
        Just(Exchange::new(
            &[failed_call],
            vec!["Function 953: Failed (ERROR 42883 none) @Idle".to_owned()]
        )),
        Just(Exchange::new(&[(&["S"], &["Z I"])], Vec::new())),
        Just(Exchange::new(
            &[(&["H", "d 7", "c", "f", "d 0"], &[])],
            Vec::new()
        )),
        Just(Exchange::new(
            &[
                (&["Q START_REPLICATION"], &["W", "d 30"]),
                (&["d 34"], &["d 18"]),
                (&["c"], &["c", "C START_REPLICATION", "Z I"]),
            ],
            vec![
                "Query START_REPLICATION: Completed [START_REPLICATION] Both(34>,48<) @Idle"
                    .to_owned()
            ]
        )),
        Just(Exchange::new(
            &[(&["Q a\0b"], &["E ERROR 08P01 invalid", "Z I"])],
            vec!["Query a (malformed): Failed (ERROR 08P01 invalid) @Idle".to_owned()]
        )),
    ]
}
