//! What records show of the server's errors, which may quote what a client sent.

use super::*;

const SYNTAX_ERROR: &[u8] = b"syntax error at or near \"'s3cret'\"";

fn error(message: &'static [u8]) -> ServerError {
    ServerError {
        severity: Bytes::from_static(b"ERROR"),
        sqlstate: Some("42601".to_owned()),
        message: Bytes::from_static(message),
    }
}

fn failed(message: &'static [u8]) -> Outcome {
    Outcome {
        error: Some(Box::new(error(message))),
        ..outcome(Verdict::Failed)
    }
}

#[test]
fn no_error_quotes_a_password_that_was_taken_out_of_its_statement() {
    let execute = |sql| Subject::Execute {
        portal: Bytes::new(),
        statement: Some(Bytes::new()),
        prepared: Some(prepared(sql)),
        forgotten: false,
        parameters: Parameters::default(),
        max_rows: 0,
    };
    let bind = |sql| Subject::Bind {
        portal: Bytes::new(),
        statement: Bytes::new(),
        prepared: Some(prepared(sql)),
        forgotten: false,
        parameters: Parameters::default(),
    };
    let sql = "alter user app set password 's3cret'";
    let subjects = [
        Subject::Query { text: text(sql) },
        Subject::Query {
            text: text("alter user app password 's3cret"),
        },
        Subject::Parse {
            prepared: prepared(sql),
        },
        bind(sql),
        execute(sql),
    ];
    for subject in subjects {
        let record = written(Redaction::Full, finished(subject, failed(SYNTAX_ERROR)));
        assert!(!record.to_string().contains("s3cret"), "{record}");
        let expected = json!({"severity": "ERROR", "sqlstate": "42601", "message": "[redacted]"});
        assert_eq!(record["error"], expected);
    }
}

#[test]
fn no_error_quotes_what_was_not_kept_of_its_statement() {
    for kept in ["", "select 1"] {
        let text = Text {
            kept: Bytes::from_static(kept.as_bytes()),
            length: 100_000,
            sha256: Some(Box::new([0; 32])),
        };
        let subject = Subject::Query { text };
        let record = written(Redaction::Full, finished(subject, failed(SYNTAX_ERROR)));
        assert_eq!(record["error"]["message"], "[redacted]");
    }
}

#[test]
fn an_error_that_answers_nothing_tells_no_password() {
    let shown = |message| {
        let disruption = Disruption::new(&author(Redaction::Full), error(message));
        serde_json::to_value(disruption).unwrap()["error"]["message"].clone()
    };
    assert_eq!(
        shown(b"could not connect with \"host=h password=s3cret\""),
        "[redacted]"
    );
    let message = "terminating connection due to administrator command";
    assert_eq!(shown(message.as_bytes()), message);
}

#[test]
fn redacted_records_hold_nothing_that_quotes_a_literal() {
    let mut failed = outcome(Verdict::Failed);
    failed.tags = [b"SELECT 1".as_slice(), b"secret"].into_iter().collect();
    failed.error = Some(Box::new(ServerError {
        severity: Bytes::from_static(b"ERROR"),
        sqlstate: Some("22P02".to_owned()),
        message: Bytes::from_static(b"invalid input syntax for type integer: \"secret\""),
    }));
    let subject = || Subject::Query {
        text: text("select 'secret'::int"),
    };
    let record = written(Redaction::Full, finished(subject(), failed.clone()));
    assert_eq!(
        record["error"]["message"],
        "invalid input syntax for type integer: \"secret\""
    );
    for redaction in [Redaction::LiteralsRemoved, Redaction::FingerprintOnly] {
        let record = written(redaction, finished(subject(), failed.clone()));
        assert!(!record.to_string().contains("secret"), "{record}");
        assert_eq!(
            record["error"],
            json!({"severity": "ERROR", "sqlstate": "22P02"})
        );
        assert_eq!(record["fingerprint"].as_str().map(str::len), Some(32));
    }
}
