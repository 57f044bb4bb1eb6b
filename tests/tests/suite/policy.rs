//! Who may connect to what: policies against real clients, and what a client is told.

mod bypass;
pub(crate) mod cancel;
mod decisions;
mod reload;
mod tools;

use anyhow::{Result, ensure};
use pgusher_tests::process::{Finished, run};
use pgusher_tests::stage::Stage;
use serde_json::Value;

use crate::expect::field_is;

/// Permits everything.
const ALL: &str = "permit (principal, action, resource);";

/// Connects with psql in a mode of TLS.
fn psql(stage: &Stage, sslmode: &str) -> Result<Finished> {
    let connection = format!("dbname=postgres sslmode={sslmode}");
    run(&mut stage.psql_to(&connection, "select 6 * 7")?)
}

fn works(finished: &Finished) -> Result<()> {
    ensure!(finished.success()? == "42", "{finished:?}");
    Ok(())
}

/// Checks that a client was told all of `texts`.
fn is_told(finished: &Finished, texts: &[&str]) -> Result<()> {
    let told = finished.failure()?;
    for text in texts {
        ensure!(told.contains(text), "`{text}` is not in: {told}");
    }
    Ok(())
}

/// Checks the record of a session that was denied.
fn was_denied(record: &Value) -> Result<()> {
    field_is(record, "/close", "policy_denied")?;
    field_is(record, "/policy/mode", "enforce")?;
    field_is(record, "/policy/decision", "deny")?;
    field_is(record, "/bytes_to_client", 0)
}
