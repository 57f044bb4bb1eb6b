mod errors;

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::*;
use crate::audit::record::disruption::Disruption;
use crate::audit::tally::{Coverage, Tally};
use crate::wire::session::{Copied, Outcome, ServerError, Tags, Target, Text, Violation};

fn author(redaction: Redaction) -> Arc<Author> {
    Arc::new(Author {
        session: Uuid::nil(),
        process: None,
        user: Some("app".to_owned()),
        database: Some("db".to_owned()),
        redaction,
        counts: Arc::clone(Tally::of(Coverage::Statements).counts()),
    })
}

fn outcome(verdict: Verdict) -> Outcome {
    Outcome {
        verdict,
        tags: Tags::default(),
        more_tags: 0,
        more_affected: None,
        rows: 0,
        copies: Vec::new(),
        error: None,
    }
}

fn finished(subject: Subject, outcome: Outcome) -> Finished {
    let started = Instant::now();
    Finished {
        subject,
        malformed: false,
        outcome,
        started,
        completed: started + Duration::from_micros(1500),
        ready: Some(started + Duration::from_micros(2500)),
        transaction: Some(TransactionStatus::InTransaction),
    }
}

fn text(sql: &'static str) -> Text {
    Text {
        kept: Bytes::from_static(sql.as_bytes()),
        length: sql.len() as u64,
        sha256: None,
    }
}

fn prepared(sql: &'static str) -> Arc<Prepared> {
    Arc::new(Prepared {
        number: 7,
        name: Bytes::from_static(b"s1"),
        text: text(sql),
        parameter_types: vec![23, 0],
    })
}

fn written_by(author: &Arc<Author>, finished: Finished) -> Json {
    let encoding = Some(Bytes::from_static(b"UTF8"));
    let statement = Statement::new(
        author,
        Box::new(finished),
        encoding,
        Scanning::Certain,
        Moment::now(),
    );
    serde_json::to_value(statement).unwrap()
}

fn written(redaction: Redaction, finished: Finished) -> Json {
    written_by(&author(redaction), finished)
}

fn with(mut record: Json, changes: &[(&str, Json)]) -> Json {
    for (name, value) in changes {
        record[*name] = value.clone();
    }
    record
}

/// What every record of [`finished`] has in common, less the time.
fn common(kind: &str) -> Json {
    json!({
        "session": Uuid::nil(), "seq": 1, "process": null, "user": "app", "database": "db",
        "kind": kind, "duration_us": 1500, "ready_us": 2500, "outcome": "completed", "tags": [],
        "rows": null, "rows_sent": 0, "copies": [], "error": null, "transaction": "in_transaction",
    })
}

fn without_time(mut record: Json) -> Json {
    let started = record.as_object_mut().unwrap().remove("started").unwrap();
    let started: Timestamp = started.as_str().unwrap().parse().unwrap();
    assert!(started.duration_until(Timestamp::now()).as_secs().abs() < 60);
    record
}

#[test]
fn a_record_begins_with_whose_it_is() {
    let author = author(Redaction::Full);
    let begins = format!(
        r#"{{"session":"{}","seq":1,"process":null,"user":"app","database":"db","#,
        Uuid::nil()
    );
    let finished = finished(Subject::Sync, outcome(Verdict::Failed));
    let statement = Statement::new(
        &author,
        Box::new(finished),
        None,
        Scanning::Certain,
        Moment::now(),
    );
    let statement = serde_json::to_string(&statement).unwrap();
    assert!(
        statement.starts_with(&format!(r#"{begins}"kind":"sync""#)),
        "{statement}"
    );
    let begins = begins.replace("\"seq\":1", "\"seq\":2");
    let violation = Disruption::new(&author, Violation::TooManyPending);
    let violation = serde_json::to_string(&violation).unwrap();
    assert!(
        violation.starts_with(&format!(r#"{begins}"side":"client""#)),
        "{violation}"
    );
}

#[test]
fn a_query_is_written_with_its_text_tags_and_times() {
    let mut outcome = outcome(Verdict::Completed);
    outcome.tags = ["BEGIN", "INSERT 0 5", "SELECT 3", "COMMIT"]
        .map(str::as_bytes)
        .into_iter()
        .collect();
    outcome.rows = 3;
    outcome.copies = vec![Copied {
        direction: CopyDirection::In,
        bytes_from_client: 9,
        bytes_from_server: 0,
    }];
    let subject = Subject::Query {
        text: text("begin; insert 'x'"),
    };
    let record = written(Redaction::Full, finished(subject, outcome));
    let sql =
        json!({"text": "begin; insert 'x'", "bytes": 17, "truncated": false, "encoding": "UTF8"});
    let copies = json!([{"direction": "in", "bytes_from_client": 9, "bytes_from_server": 0}]);
    let expected = with(
        common("query"),
        &[
            ("sql", sql),
            ("tags", json!(["BEGIN", "INSERT 0 5", "SELECT 3", "COMMIT"])),
            ("rows", json!(8)),
            ("rows_sent", json!(3)),
            ("copies", copies),
        ],
    );
    assert_eq!(without_time(record), expected);
}

/// Checks the fields of a completed message's record beside those that every record has.
fn has(kind: &str, subject: Subject, own: &Json) {
    let record = written(
        Redaction::Full,
        finished(subject, outcome(Verdict::Completed)),
    );
    let own = own.as_object().unwrap().iter();
    let own: Vec<(&str, Json)> = own
        .map(|(name, value)| (name.as_str(), value.clone()))
        .collect();
    assert_eq!(without_time(record), with(common(kind), &own));
}

fn two_parameters() -> Parameters {
    Parameters {
        count: 2,
        ..Parameters::default()
    }
}

#[test]
fn messages_of_the_extended_protocol_have_the_fields_that_belong_to_them() {
    let sql = json!({"text": "select $1", "bytes": 9, "truncated": false, "encoding": "UTF8"});
    has(
        "parse",
        Subject::Parse {
            prepared: prepared("select $1"),
        },
        &json!({"sql": sql, "statement": "s1", "parse": 7, "parameter_types": [23, 0]}),
    );
    has(
        "bind",
        Subject::Bind {
            portal: Bytes::from_static(b"p1"),
            statement: Bytes::from_static(b"s1"),
            prepared: Some(prepared("select $1")),
            forgotten: false,
            parameters: two_parameters(),
        },
        &json!({
            "statement": "s1", "portal": "p1", "prepared": "seen", "parse": 7,
            "parameters": {"count": 2},
        }),
    );
    has(
        "execute",
        Subject::Execute {
            portal: Bytes::from_static(b"p1"),
            statement: Some(Bytes::from_static(b"s1")),
            prepared: Some(prepared("select $1")),
            forgotten: false,
            parameters: two_parameters(),
            max_rows: 10,
        },
        &json!({
            "sql": sql, "statement": "s1", "portal": "p1", "prepared": "seen", "parse": 7,
            "parameters": {"count": 2}, "max_rows": 10,
        }),
    );
    let statement = Target::Statement(Bytes::from_static(b"s1"));
    has(
        "describe",
        Subject::Describe(statement),
        &json!({"statement": "s1"}),
    );
    let portal = Target::Portal(Bytes::from_static(b"p1"));
    has("close", Subject::Close(portal), &json!({"portal": "p1"}));
    has("sync", Subject::Sync, &json!({}));
}

#[test]
fn an_execute_whose_text_is_not_known_says_so() {
    let cases = [
        (None, false, u32::MAX, "not_seen"),
        (Some(Bytes::from_static(b"s1")), true, 0, "forgotten"),
    ];
    for (statement, forgotten, max_rows, prepared) in cases {
        let name = statement.as_ref().map(|name| as_printable(name));
        let own = json!({
            "sql": null, "statement": name, "portal": "p1", "prepared": prepared,
            "parameters": {"count": 0}, "max_rows": 0,
        });
        let subject = Subject::Execute {
            portal: Bytes::from_static(b"p1"),
            statement,
            prepared: None,
            forgotten,
            parameters: Parameters::default(),
            max_rows,
        };
        has("execute", subject, &own);
    }
}

#[test]
fn a_function_call_has_its_number_and_counts_its_arguments() {
    let subject = Subject::FunctionCall {
        function: 952,
        arguments: two_parameters(),
    };
    has(
        "function_call",
        subject,
        &json!({"function": 952, "parameters": {"count": 2}}),
    );
}

#[test]
fn a_long_text_tells_its_length_and_hash_unless_literals_could_be_guessed_from_it() {
    let cut = || Subject::Query {
        text: Text {
            kept: Bytes::from_static(b"select 1, 'a"),
            length: 100_000,
            sha256: Some(Box::new([0xab; 32])),
        },
    };
    let record = written(
        Redaction::Full,
        finished(cut(), outcome(Verdict::Completed)),
    );
    let sql = json!({
        "text": "select 1, 'a", "bytes": 100_000, "truncated": true, "sha256": "ab".repeat(32),
        "encoding": "UTF8",
    });
    assert_eq!(record["sql"], sql);
    let record = written(
        Redaction::LiteralsRemoved,
        finished(cut(), outcome(Verdict::Completed)),
    );
    let sql =
        json!({"text": "select $1, ", "bytes": 100_000, "truncated": true, "encoding": "UTF8"});
    assert_eq!(record["sql"], sql);
    assert_eq!(record.get("fingerprint"), None);
}

#[test]
fn what_was_not_answered_has_no_duration() {
    for (verdict, name) in [
        (Verdict::NotRun, "not_run"),
        (Verdict::Unanswered, "unanswered"),
    ] {
        let mut finished = finished(Subject::Query { text: text("x") }, outcome(verdict));
        finished.ready = None;
        finished.transaction = None;
        finished.malformed = true;
        let record = written(Redaction::Full, finished);
        assert_eq!(record["outcome"], name);
        assert_eq!(record["malformed"], true);
        for field in ["duration_us", "ready_us", "transaction"] {
            assert_eq!(record[field], Json::Null, "{field}");
        }
    }
}

#[test]
fn records_of_a_session_are_numbered_across_their_types() {
    let author = author(Redaction::Full);
    let query = || finished(Subject::Query { text: text("x") }, outcome(Verdict::Empty));
    assert_eq!(written_by(&author, query())["seq"], 1);
    let violation = Disruption::new(&author, Violation::FrontendType(0x21));
    let expected = json!({
        "session": Uuid::nil(), "seq": 2, "process": null, "user": "app", "database": "db",
        "side": "client", "rule": "unknown_type",
        "message": "the client sent a message of unknown type 0x21",
    });
    assert_eq!(serde_json::to_value(violation).unwrap(), expected);
    assert_eq!(written_by(&author, query())["seq"], 3);
}

#[test]
fn a_record_weighs_at_least_what_it_keeps() {
    let long: &'static str = Box::leak("x".repeat(50_000).into_boxed_str());
    let subjects = [
        Subject::Query { text: text(long) },
        Subject::Parse {
            prepared: prepared(long),
        },
        Subject::Execute {
            portal: Bytes::new(),
            statement: Some(Bytes::new()),
            prepared: Some(prepared(long)),
            forgotten: false,
            parameters: Parameters::default(),
            max_rows: 0,
        },
    ];
    for subject in subjects {
        let finished = Box::new(finished(subject, outcome(Verdict::Completed)));
        let statement = Statement::new(
            &author(Redaction::Full),
            finished,
            None,
            Scanning::Certain,
            Moment::now(),
        );
        assert!(statement.weight() > 50_000);
    }
}
