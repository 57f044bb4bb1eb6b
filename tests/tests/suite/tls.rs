//! TLS that ends at pgusher: every mode of either leg, with real clients and servers of both versions.

mod client_leg;
mod opening;
mod server_leg;
mod session;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use pgusher_tests::authority::{LocalAuthority, lend};
use pgusher_tests::certificates::{self, CERTIFICATE_ROLE};
use pgusher_tests::cluster::{Cluster, VERSIONS, Version, free_port};
use pgusher_tests::condition::{Seen, wait_until};
use pgusher_tests::dialer::read_to_close;
use pgusher_tests::process::{Finished, run};
use pgusher_tests::programs;
use pgusher_tests::stage::{Setup, Stage};
use pgusher_tests::wire;
use serde_json::Value;
use tempfile::TempDir;

use crate::expect::{accepted_session, at, field_is};

/// What a login reports: who it is, and whether the server's leg is encrypted.
const REPORT: &str = "select user || ' ' || case when ssl then version else 'plain' end
    from pg_stat_ssl where pid = pg_backend_pid()";

/// A settings file with one route on which TLS ends, and these settings on it.
pub(crate) fn terminate(settings: &str) -> String {
    format!("[[route]]\nname = \"here\"\ntls = \"terminate\"\n{settings}\n")
}

/// The settings that show clients certificates of `authority`.
pub(crate) fn minted(authority: &LocalAuthority) -> String {
    format!("ca = \"{}\"\n", authority.path().display())
}

/// The settings that show clients a certificate made by [`certificates::make`] in a directory.
pub(crate) fn from_files(directory: &Path) -> String {
    let file = |name: &str| directory.join(name).display().to_string();
    format!(
        "certificate = \"{}\"\nkey = \"{}\"\n",
        file("server.crt"),
        file("server.key")
    )
}

/// Logs in with the psql of a version, with parameters added to host, port and database.
pub(crate) fn log_in(stage: &Stage, client: Version, parameters: &str) -> Result<Finished> {
    ask(stage, client, parameters, REPORT)
}

fn ask(stage: &Stage, client: Version, parameters: &str, sql: &str) -> Result<Finished> {
    let connection = format!(
        "host=localhost hostaddr=127.0.0.1 port={} dbname=postgres {parameters}",
        stage.cluster.port
    );
    run(Cluster::shared(client)?
        .client(&stage.cgroup, "psql")?
        .env("PGPASSWORD", pgusher_tests::cluster::PASSWORD)
        .args(["-XqAt", "-v", "ON_ERROR_STOP=1"])
        .args(["-d", &connection, "-c", sql]))
}

/// Logs in, checks what psql reports, and returns the record.
pub(crate) fn reported(
    stage: &Stage,
    client: Version,
    parameters: &str,
    report: &str,
) -> Result<Value> {
    let before = stage.pgusher.trail.sessions()?.len();
    let finished = log_in(stage, client, parameters)?;
    let found = finished.success().with_context(|| parameters.to_owned())?;
    ensure!(found == report, "with {parameters} psql reports {found}");
    let sessions = stage.pgusher.trail.wait_for_sessions(before + 1)?;
    Ok(sessions.get(before).context("a record")?.clone())
}

/// Fails to log in, checks that psql says `text`, and returns the record.
fn failed(stage: &Stage, client: Version, parameters: &str, text: &str) -> Result<Value> {
    let before = stage.pgusher.trail.sessions()?.len();
    let finished = log_in(stage, client, parameters)?;
    let message = finished.failure().with_context(|| parameters.to_owned())?;
    ensure!(
        message.contains(text),
        "with {parameters} psql says {message}"
    );
    let sessions = stage.pgusher.trail.wait_for_sessions(before + 1)?;
    Ok(sessions.get(before).context("a record")?.clone())
}

/// What `openssl s_client` gets back for `bytes`, with more arguments.
fn through_openssl(stage: &Stage, arguments: &[&str], bytes: &[u8]) -> Result<Vec<u8>> {
    let address = format!("127.0.0.1:{}", stage.cluster.port);
    let mut child = stage
        .cgroup
        .command("openssl")?
        .args(["s_client", "-quiet", "-connect", &address])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("install openssl")?;
    let mut input = child.stdin.take().context("no input")?;
    match input.write_all(bytes) {
        // It was closed upon, and has ended before it could read this.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        written => written?,
    }
    let output = child.wait_with_output()?.stdout;
    drop(input);
    Ok(output)
}
