//! Trails and the drafts they make.

use serde_json::{Value, json};

use super::*;

fn fact(value: impl Into<Value>, grade: &str) -> Value {
    json!({ "value": value.into(), "grade": grade })
}

/// A session record of a process that /proc and the kernel agree about.
fn session(unit: Option<&str>, exe_grade: &str, database: &str, user: &str) -> Value {
    let mut record = json!({
        "v": 1,
        "time": "2026-01-05T10:00:00Z",
        "type": "session",
        "session": "019a0000-0000-7000-8000-000000000001",
        "started": "2026-01-05T10:00:00Z",
        "kind": "session",
        "encryption": "none",
        "login": { "outcome": "accepted" },
        "destination": { "address": "192.0.2.7", "port": 5432 },
        "startup": { "protocol": "3.0", "user": user, "database": database, "parameters": [["user", user]] },
        "origin": {
            "pid": fact(7, "kernel"), "uid": fact(1000, "kernel"), "user": fact("app", "late"),
            "gid": fact(1000, "kernel"), "comm": fact("x", "kernel"), "cgroup_id": fact(1, "kernel"),
            "exe": fact("/usr/bin/app", exe_grade),
        },
    });
    if let Some(unit) = unit {
        record["origin"]["systemd_unit"] = fact(unit, "verified");
    }
    record
}

fn draft(records: &[Value]) -> Result<String, LearnError> {
    let trail: String = records.iter().map(|record| format!("{record}\n")).collect();
    let mut lesson = Lesson::default();
    lesson.read(trail.as_bytes())?;
    lesson.draft()
}

fn permits(text: &str, record: &Value) -> bool {
    let policies = Policies::check(&[Source::new("draft", text)], Arc::default()).unwrap();
    let record: SessionRecord = serde_json::from_value(record.clone()).unwrap();
    policies
        .evaluate(&record.question().unwrap(), &Zoned::now())
        .permits
}

#[test]
fn a_draft_permits_what_was_seen_and_nothing_beside_it() {
    let seen = [
        session(Some("billing.service"), "verified", "orders", "app"),
        session(Some("billing.service"), "verified", "orders", "admin"),
        session(Some("billing.service"), "verified", "stock", "app"),
        session(None, "verified", "orders", "me"),
        session(Some("session-3.scope"), "late", "orders", "me"),
    ];
    let text = draft(&seen).unwrap();
    for record in &seen {
        assert!(permits(&text, record), "{record}\n{text}");
    }
    let mut elsewhere = session(Some("billing.service"), "verified", "orders", "app");
    elsewhere["destination"]["port"] = 5433.into();
    let mut replicating = session(Some("billing.service"), "verified", "orders", "app");
    replicating["kind"] = "replication".into();
    let mut hidden = session(Some("billing.service"), "verified", "orders", "app");
    hidden["startup"] = Value::Null;
    let unseen = [
        // Not seen in this combination, although each part of it was.
        session(Some("billing.service"), "verified", "stock", "admin"),
        session(Some("other.service"), "late", "stock", "app"),
        elsewhere,
        replicating,
        hidden,
    ];
    for record in &unseen {
        assert!(!permits(&text, record), "{record}\n{text}");
    }
}

#[test]
fn units_come_before_programs_and_programs_before_users() {
    let cases = [
        (
            session(Some("a.service"), "verified", "d", "u"),
            "principal in Unit::\"a.service\"",
        ),
        (
            session(Some("session-1.scope"), "verified", "d", "u"),
            "principal in Executable::\"/usr/bin/app\"",
        ),
        (
            session(None, "late", "d", "u"),
            "principal in User::\"app\"",
        ),
    ];
    for (record, expected) in cases {
        let text = draft(std::slice::from_ref(&record)).unwrap();
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn what_did_not_succeed_is_counted_and_not_permitted() {
    let mut rejected = session(Some("a.service"), "verified", "d", "u");
    rejected["login"]["outcome"] = "rejected".into();
    assert!(matches!(
        draft(&[rejected.clone()]),
        Err(LearnError::Nothing)
    ));
    let text = draft(&[rejected, session(Some("b.service"), "verified", "d", "u")]).unwrap();
    assert!(
        text.contains("Left out: 1 sessions that did not succeed"),
        "{text}"
    );
    assert!(!text.contains("a.service"), "{text}");
}

#[test]
fn a_hidden_session_is_permitted_as_one_and_the_comment_says_what_that_is() {
    let mut hidden = session(Some("a.service"), "verified", "d", "u");
    hidden["kind"] = "opaque".into();
    hidden["encryption"] = "tls".into();
    hidden["login"]["outcome"] = "opaque".into();
    hidden["startup"] = Value::Null;
    let text = draft(&[hidden.clone()]).unwrap();
    assert!(permits(&text, &hidden));
    assert!(text.contains("encryption hides users, databases"), "{text}");
    assert!(!permits(
        &text,
        &session(Some("a.service"), "verified", "d", "u")
    ));
}

#[test]
fn a_denied_cancel_request_is_no_reason_to_permit_the_next() {
    let mut cancel = session(Some("a.service"), "verified", "d", "u");
    cancel["kind"] = "cancel".into();
    cancel["startup"] = Value::Null;
    cancel["policy"] = json!({
        "action": "cancel", "decision": "deny", "database": null, "policies": [],
    });
    let text = draft(&[
        cancel.clone(),
        session(Some("b.service"), "verified", "d", "u"),
    ])
    .unwrap();
    assert!(text.contains("Left out: 1 sessions that cancel"), "{text}");
    assert!(!permits(&text, &cancel), "{text}");
}

/// pgusher answers a denied client in the server's place, and so comes to read what it was not asked about.
#[test]
fn a_session_that_was_denied_unseen_is_asked_about_unseen() {
    let mut denied = session(Some("a.service"), "verified", "d", "u");
    denied["encryption"] = "tls_terminated".into();
    denied["policy"] = json!({
        "action": "connect", "decision": "deny", "database": null, "policies": [],
    });
    let record: SessionRecord = serde_json::from_value(denied).unwrap();
    assert_eq!(record.question().unwrap().database, None);
}

#[test]
fn a_draft_says_that_an_interpreter_runs_any_script() {
    let mut record = session(None, "verified", "d", "u");
    record["origin"]["script"] = fact(
        json!({"interpreter": "app", "path": "/srv/report.py"}),
        "late",
    );
    assert!(draft(&[record]).unwrap().contains("any script"));
}

#[test]
fn names_cannot_break_out_of_the_draft() {
    let evil = "d\"]; permit (principal, action, resource);\n//";
    let mut record = session(None, "late", evil, "u\nforbid");
    record["origin"]["exe"] = fact("/tmp/x\npermit (principal, action, resource);", "late");
    let text = draft(&[record.clone()]).unwrap();
    assert!(permits(&text, &record));
    assert!(
        !permits(&text, &session(Some("a.service"), "verified", "d", "u")),
        "{text}"
    );
    assert_eq!(text.matches("@id(").count(), 1);
}

#[test]
fn a_line_that_is_no_record_is_refused_with_its_number_unless_it_is_being_written() {
    let mut torn = Lesson::default();
    torn.read(b"{\"type\":\"gap\"}\n{\"type\":\"sess".as_slice())
        .unwrap();
    let mut lesson = Lesson::default();
    let error = lesson
        .read(b"\n{\"type\":\"gap\"}\nnonsense\n".as_slice())
        .unwrap_err();
    assert!(error.to_string().starts_with("line 3 "), "{error}");
}
