//! What the tests say about audit records, in the words of `docs/audit.md`.

use anyhow::{Context, Result, ensure};
use pgusher_tests::stage::Stage;
use serde_json::Value;

/// What is at a JSON pointer, or null.
pub(crate) fn at<'record>(record: &'record Value, pointer: &str) -> &'record Value {
    record.pointer(pointer).unwrap_or(&Value::Null)
}

/// The value of a fact of the origin, which must have `grade`.
pub(crate) fn fact<'record>(
    record: &'record Value,
    name: &str,
    grade: &str,
) -> Result<&'record Value> {
    let fact = at(record, &format!("/origin/{name}"));
    ensure!(
        at(fact, "/grade") == grade,
        "{name} is not of grade {grade} but {fact} in {record}"
    );
    fact.get("value")
        .with_context(|| format!("{name} has no value in {record}"))
}

/// Checks that a fact of the origin is `value`, of `grade`.
pub(crate) fn fact_is(
    record: &Value,
    name: &str,
    grade: &str,
    value: impl Into<Value>,
) -> Result<()> {
    let (found, value) = (fact(record, name, grade)?, value.into());
    ensure!(
        *found == value,
        "{name} is {found}, not {value}, in {record}"
    );
    Ok(())
}

/// Checks a top-level or nested field, addressed by a JSON pointer.
pub(crate) fn field_is(record: &Value, pointer: &str, value: impl Into<Value>) -> Result<()> {
    let (found, value) = (record.pointer(pointer), value.into());
    ensure!(
        found == Some(&value),
        "{pointer} is {found:?}, not {value}, in {record}"
    );
    Ok(())
}

/// Checks a session in plain text that the server accepted and the client ended.
pub(crate) fn accepted_session(record: &Value, user: &str) -> Result<()> {
    field_is(record, "/mode", "relay")?;
    field_is(record, "/kind", "session")?;
    field_is(record, "/startup/user", user)?;
    field_is(record, "/startup/grade", "claimed")?;
    field_is(record, "/login/outcome", "accepted")?;
    field_is(record, "/login/grade", "confirmed")?;
    field_is(record, "/login/sqlstate", Value::Null)?;
    for count in ["bytes_to_server", "bytes_to_client"] {
        ensure!(
            at(record, &format!("/{count}"))
                .as_u64()
                .is_some_and(|bytes| bytes > 0),
            "no {count} in {record}"
        );
    }
    Ok(())
}

/// Whether a session has this process id as origin.
pub(crate) fn is_from(record: &Value, pid: u32) -> bool {
    *at(record, "/origin/pid/value") == pid
}

/// Checks that a session ended without a reset; when client and server both close, either may be first. With TLS
/// either may reset as well, as without pgusher: each side closes without reading the other's close_notify.
pub(crate) fn ended_in_order(record: &Value) -> Result<()> {
    let close = at(record, "/close");
    let is_tls = *at(record, "/encryption") == "tls" || *at(record, "/encryption") == "direct_tls";
    ensure!(
        *close == "client_closed"
            || *close == "server_closed"
            || (is_tls && (*close == "server_reset" || *close == "client_reset")),
        "{record}"
    );
    Ok(())
}

/// The records of so many sessions in the order in which they began; which of two is closed first is chance.
pub(crate) fn in_order(stage: &Stage, sessions: usize) -> Result<Vec<Value>> {
    let mut records = stage.pgusher.trail.wait_for_sessions(sessions)?;
    // Version 7 of UUIDs begins with the time.
    records.sort_by_key(|record| record["session"].to_string());
    Ok(records)
}
