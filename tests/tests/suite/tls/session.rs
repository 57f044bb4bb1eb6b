//! What goes through once both legs stand: bulk, cancel requests, statements.

use std::net::Shutdown;

use openssl::ssl::{ShutdownResult, ShutdownState, SslConnector, SslMethod, SslVerifyMode};

use super::*;

/// Runs a shell line with psql as `$0` and the connection as `$1`, intercepted.
fn shell(stage: &Stage, line: &str) -> Result<Finished> {
    let connection = format!(
        "host=localhost hostaddr=127.0.0.1 port={} dbname=postgres user=postgres sslmode=require channel_binding=disable",
        stage.cluster.port
    );
    let mut command = stage.cgroup.command("bash")?;
    let program = stage.cluster.program_path("psql");
    command.args(["-c", &format!("set -o pipefail; {line}")]);
    command.arg(program).arg(connection);
    run(&mut command)
}

#[test]
fn a_hundred_megabytes_pass_either_way_and_not_a_byte_is_lost() -> Result<()> {
    let authority = LocalAuthority::init()?;
    let rows = "select md5(n::text) || repeat(md5((n * 7)::text), 30) as t from generate_series(1, 105000) n";
    for mode in ["disable", "require"] {
        let settings = format!("{}server_sslmode = \"{mode}\"", minted(&authority));
        Setup::with(Version::V15).file(terminate(&settings)).play(|stage| {
            let expected = stage.cluster.sql(&format!(
                "drop table if exists bulk; create table bulk as {rows}; select count(*) || md5(string_agg(t, '' order by t)) from bulk; truncate bulk"
            ))?;
            let out = format!("\"$0\" -Xq -d \"$1\" -c \"copy ({rows}) to stdout\" | tee >(wc -c >&2)");
            let copied = format!("{out} | \"$0\" -Xq -d \"$1\" -c 'copy bulk from stdin'");
            let finished = shell(stage, &copied)?;
            finished.success()?;
            let bytes: u64 = finished.stderr.trim().parse()?;
            ensure!(bytes > 100_000_000, "only {bytes} bytes");
            let arrived = stage.cluster.sql(
                "select count(*) || md5(string_agg(t, '' order by t)) from bulk",
            )?;
            stage.cluster.sql("drop table bulk")?;
            ensure!(arrived == expected, "{arrived} is not {expected}");
            Ok(())
        })?;
    }
    Ok(())
}

/// OpenSSL goes on reading behind its own close_notify; no driver does, so the client is a bare connection.
#[test]
fn a_client_that_half_closes_inside_tls_reads_the_rest_of_its_answer_and_a_goodbye() -> Result<()> {
    let authority = LocalAuthority::init()?;
    let mut connector = SslConnector::builder(SslMethod::tls_client())?;
    connector.set_verify(SslVerifyMode::NONE);
    let connector = connector.build();
    for mode in ["disable", "require"] {
        let settings = format!("{}server_sslmode = \"{mode}\"", minted(&authority));
        Setup::with(Version::V15)
            .file(terminate(&settings))
            .play(|stage| {
                let mut stream = stage.dial()?;
                stream.write_all(&wire::packet(wire::SSL_REQUEST, &[])?)?;
                let mut answer = [0];
                stream.read_exact(&mut answer)?;
                let mut client = connector.connect("localhost", stream)?;
                client.write_all(&wire::startup("app_trust")?)?;
                wire::read_through(&mut client, b'Z')?;
                client.write_all(&wire::query("select 'finished' from pg_sleep(0.5)")?)?;
                ensure!(client.shutdown()? == ShutdownResult::Sent);
                client.get_ref().shutdown(Shutdown::Write)?;
                let messages = wire::read_through(&mut client, b'Z')?;
                ensure!(
                    messages
                        .iter()
                        .any(|message| message.body.ends_with(b"finished")),
                    "{messages:?}"
                );
                ensure!(client.read(&mut [0])? == 0);
                ensure!(client.get_shutdown().contains(ShutdownState::RECEIVED));
                let record = stage.pgusher.trail.only_session()?;
                field_is(&record, "/close", "client_closed")
            })?;
    }
    Ok(())
}

#[test]
fn a_request_cancelled_inside_tls_is_cancelled_before_the_client_hears_of_it() -> Result<()> {
    let authority = LocalAuthority::init()?;
    for version in VERSIONS {
        for mode in ["disable", "prefer", "require"] {
            let settings = format!(
                "{}client_tls = \"prefer\"\nserver_sslmode = \"{mode}\"",
                minted(&authority)
            );
            // No place is left for another session: a cancel request needs none.
            let setup = Setup::with(version)
                .argument("--max-sessions=1")
                .file(terminate(&settings));
            setup.play(|stage| {
                let mut session = stage.dial()?;
                let key = wire::log_in(&mut session, "app_trust")?;
                let backend = wire::ask(&mut session, "select pg_backend_pid()")?;
                session.write_all(&wire::query("select pg_sleep(600)")?)?;
                let asleep =
                    format!("select wait_event from pg_stat_activity where pid = {backend}");
                stage.cluster.wait_for_rows(&asleep, "PgSleep")?;
                let request = wire::packet(wire::CANCEL_REQUEST, &key)?;
                let answer = through_openssl(stage, &["-starttls", "postgres"], &request)?;
                ensure!(answer.is_empty(), "{answer:?}");
                let error = wire::read_through(&mut session, b'E')?;
                let cancelled = error.last().and_then(|error| error.field(b'C'));
                ensure!(cancelled.as_deref() == Some("57014"), "{error:?}");
                let record = stage
                    .pgusher
                    .trail
                    .wait_for_session("a cancel", |record| record["kind"] == "cancel")?;
                field_is(&record, "/encryption", "tls_terminated")?;
                field_is(&record, "/close", "server_closed")
            })?;
        }
    }
    Ok(())
}

#[test]
fn libpq_18_cancels_inside_the_encryption_of_its_session() -> Result<()> {
    let authority = LocalAuthority::init()?;
    let clients = Cluster::shared(Version::V18)?;
    let program = programs::compiled_for(clients, "cancel_18")?;
    for server in VERSIONS {
        let setup = Setup::with(server).file(terminate(&minted(&authority)));
        setup.play(|stage| {
            let connection = format!(
                "host=localhost hostaddr=127.0.0.1 port={} user=app_trust dbname=postgres sslmode=require",
                stage.cluster.port
            );
            let finished = run(clients.client_at(&stage.cgroup, &program)?.arg(connection))?;
            finished.success()?;
            ensure!(finished.value("sqlstate")? == "57014", "{finished:?}");
            let record = stage
                .pgusher
                .trail
                .wait_for_session("a cancel", |record| record["kind"] == "cancel")?;
            field_is(&record, "/encryption", "tls_terminated")
        })?;
    }
    Ok(())
}

#[test]
fn statements_are_on_record_although_both_legs_are_encrypted() -> Result<()> {
    let authority = LocalAuthority::init()?;
    for version in VERSIONS {
        for mode in ["require", "allow"] {
            let settings = format!(
                "{}server_sslmode = \"{mode}\"\naudit = \"statements\"",
                minted(&authority)
            );
            Setup::with(version)
                .file(terminate(&settings))
                .play(|stage| {
                    let parameters = "user=app_scram sslmode=require channel_binding=disable";
                    ask(stage, version, parameters, "select 6 * 7")?.success()?;
                    let record = stage.pgusher.trail.wait_for("a statement", |record| {
                        record["type"] == "statement" && record["sql"]["text"] == "select 6 * 7"
                    })?;
                    field_is(&record, "/outcome", "completed")?;
                    field_is(&record, "/tags/0", "SELECT 1")?;
                    let record = stage.pgusher.trail.only_session()?;
                    field_is(&record, "/login/method", "scram_sha_256")
                })?;
        }
    }
    Ok(())
}
