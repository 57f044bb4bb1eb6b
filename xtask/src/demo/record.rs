//! A session record as a person reads it. Pure: JSON in, text out.

use serde_json::Value;

/// Shown for a fact that the record does not have.
const UNKNOWN: &str = "unknown";

/// Returns four lines: when, who, where, and what became of it.
pub(super) fn describe(record: &Value) -> String {
    let fact = |name: &str| text(record, &format!("/origin/{name}/value"));
    let at = |pointer: &str| text(record, pointer);
    let process = format!(
        "process {} of user {} ({}): {} [{}], in cgroup {}",
        fact("pid"),
        fact("uid"),
        fact("user"),
        fact("exe"),
        at("/origin/exe/grade"),
        fact("cgroup"),
    );
    let place = format!(
        "from {} to {}",
        endpoint(record, "/client"),
        endpoint(record, "/destination")
    );
    let claim = format!(
        "role {}, database {}, login {} by the server",
        at("/startup/user"),
        at("/startup/database"),
        outcome(record),
    );
    let traffic = format!(
        "{} bytes sent, {} received, {} after {} ms",
        at("/bytes_to_server"),
        at("/bytes_to_client"),
        at("/close").replace('_', " "),
        at("/duration_ms"),
    );
    format!(
        "session {} at {}\n  who    {process}\n  where  {place}\n  as     {claim}\n  what   {traffic}",
        at("/session"),
        at("/started"),
    )
}

fn outcome(record: &Value) -> String {
    let outcome = text(record, "/login/outcome");
    match record.pointer("/login/sqlstate").and_then(Value::as_str) {
        Some(sqlstate) => format!("{outcome} ({sqlstate})"),
        None => outcome,
    }
}

fn endpoint(record: &Value, pointer: &str) -> String {
    let address = text(record, &format!("{pointer}/address"));
    let port = text(record, &format!("{pointer}/port"));
    format!("{address} port {port}")
}

/// Returns a string without its quotes, and any other value as JSON writes it.
fn text(record: &Value, pointer: &str) -> String {
    match record.pointer(pointer) {
        None | Some(Value::Null) => UNKNOWN.to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rejected_login_is_told_with_its_sqlstate_and_process() {
        let record = json!({
            "session": "0192", "started": "2026-01-02T03:04:05Z", "duration_ms": 12,
            "client": {"address": "127.0.0.1", "port": 40000},
            "destination": {"address": "127.0.0.1", "port": 5432},
            "origin": {
                "pid": {"value": 77, "grade": "kernel"},
                "uid": {"value": 0, "grade": "kernel"},
                "user": {"value": "root", "grade": "late"},
                "exe": {"value": "/usr/bin/psql", "grade": "verified"},
                "cgroup": {"value": "/x", "grade": "late"},
            },
            "startup": {"user": "demo", "database": "postgres"},
            "login": {"outcome": "rejected", "sqlstate": "28P01"},
            "bytes_to_server": 100, "bytes_to_client": 200, "close": "client_closed",
        });
        let expected = "session 0192 at 2026-01-02T03:04:05Z\n  \
            who    process 77 of user 0 (root): /usr/bin/psql [verified], in cgroup /x\n  \
            where  from 127.0.0.1 port 40000 to 127.0.0.1 port 5432\n  \
            as     role demo, database postgres, login rejected (28P01) by the server\n  \
            what   100 bytes sent, 200 received, client closed after 12 ms";
        assert_eq!(describe(&record), expected);
    }

    #[test]
    fn what_a_record_lacks_is_unknown() {
        let told = describe(&json!({"origin": null}));
        assert!(told.contains("process unknown of user unknown"), "{told}");
    }
}
