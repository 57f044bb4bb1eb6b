//! TLS that ends at pgusher: every mode of either leg, with real clients and servers of both versions.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::thread;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use pgusher_tests::authority::{LocalAuthority, lend};
use pgusher_tests::certificates::{self, CERTIFICATE_ROLE};
use pgusher_tests::cluster::{Cluster, VERSIONS, Version, free_port};
use pgusher_tests::condition::{Seen, wait_until};
use pgusher_tests::dialer::read_to_close;
use pgusher_tests::process::{Finished, run};
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

#[test]
fn every_client_mode_ends_at_pgusher_and_verifies_the_minted_certificate() -> Result<()> {
    let authority = LocalAuthority::init()?;
    for server in VERSIONS {
        let setup = Setup::with(server).file(terminate(&minted(&authority)));
        setup.play(|stage| {
            for client in VERSIONS {
                let trusted = authority.for_clients_of(Cluster::shared(client)?)?;
                let verify = format!("sslrootcert={trusted}");
                let cases = [
                    ("sslmode=disable".to_owned(), "none"),
                    ("sslmode=allow".to_owned(), "none"),
                    ("sslmode=prefer".to_owned(), "tls_terminated"),
                    ("sslmode=require".to_owned(), "tls_terminated"),
                    (format!("sslmode=verify-ca {verify}"), "tls_terminated"),
                    (format!("sslmode=verify-full {verify}"), "tls_terminated"),
                ];
                for (mode, encryption) in cases {
                    let parameters = format!("user=app_trust {mode}");
                    let record = reported(stage, client, &parameters, "app_trust TLSv1.3")?;
                    // The login is read although both legs are encrypted.
                    accepted_session(&record, "app_trust")?;
                    field_is(&record, "/encryption", encryption)?;
                    field_is(&record, "/tls/server/mode", "prefer")?;
                    field_is(&record, "/tls/server/version", "1.3")?;
                    field_is(&record, "/tls/server/verified", "nothing")?;
                    if encryption == "none" {
                        field_is(&record, "/tls/client", Value::Null)?;
                    } else {
                        field_is(&record, "/tls/client/version", "1.3")?;
                        field_is(&record, "/tls/client/sni", "localhost")?;
                        field_is(&record, "/tls/client/certificate", Value::Null)?;
                    }
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_client_that_gives_no_name_gets_a_certificate_for_the_address() -> Result<()> {
    let authority = LocalAuthority::init()?;
    let setup = Setup::with(Version::V15).file(terminate(&minted(&authority)));
    setup.play(|stage| {
        let trusted = authority.for_clients_of(stage.cluster)?;
        let connection = format!(
            "host=127.0.0.1 port={} user=app_trust dbname=postgres sslmode=verify-full sslrootcert={trusted}",
            stage.cluster.port
        );
        run(&mut stage.psql_to(&connection, "select 1")?)?.success()?;
        field_is(&stage.pgusher.trail.only_session()?, "/tls/client/sni", Value::Null)
    })
}

#[test]
fn a_certificate_from_files_is_verified_and_a_wrong_authority_is_noticed() -> Result<()> {
    let own = TempDir::new()?;
    let other = TempDir::new()?;
    certificates::make(own.path())?;
    certificates::make(other.path())?;
    let setup = Setup::with(Version::V18).file(terminate(&from_files(own.path())));
    setup.play(|stage| {
        let right = lend(stage.cluster, &own.path().join("ca.crt"))?;
        let wrong = lend(stage.cluster, &other.path().join("ca.crt"))?;
        let parameters = |root| format!("user=app_trust sslmode=verify-full sslrootcert={root}");
        reported(stage, Version::V18, &parameters(right), "app_trust TLSv1.3")?;
        let text = "certificate verify failed";
        let record = failed(stage, Version::V18, &parameters(wrong), text)?;
        field_is(&record, "/close", "tls_handshake_failed")?;
        field_is(&record, "/kind", "none")
    })
}

#[test]
fn every_server_mode_means_what_libpq_means_by_it() -> Result<()> {
    let authority = LocalAuthority::init()?;
    for version in VERSIONS {
        let cluster = Cluster::shared(version)?;
        let file = |name| cluster.socket_directory().join(name).display().to_string();
        let (root, itself) = (file("ca.crt"), file("server.crt"));
        let cases = [
            ("\"disable\"".to_owned(), "plain", "nothing"),
            ("\"allow\"".to_owned(), "plain", "nothing"),
            ("\"prefer\"".to_owned(), "TLSv1.3", "nothing"),
            ("\"require\"".to_owned(), "TLSv1.3", "nothing"),
            (
                format!("\"require\"\nserver_ca = \"{root}\""),
                "TLSv1.3",
                "authority",
            ),
            (
                format!("\"verify-ca\"\nserver_ca = \"{root}\""),
                "TLSv1.3",
                "authority",
            ),
            (
                format!("\"verify-full\"\nserver_ca = \"{root}\""),
                "TLSv1.3",
                "name",
            ),
            (
                format!("\"verify-full\"\nserver_ca = \"{itself}\""),
                "TLSv1.3",
                "name",
            ),
        ];
        for (mode, report, verified) in cases {
            let settings = format!("{}server_sslmode = {mode}", minted(&authority));
            Setup::with(version)
                .file(terminate(&settings))
                .play(|stage| {
                    let report = format!("app_trust {report}");
                    let parameters = "user=app_trust sslmode=require";
                    let record = reported(stage, version, parameters, &report)?;
                    field_is(&record, "/tls/server/verified", verified)
                })?;
        }
    }
    Ok(())
}

#[test]
fn allow_and_prefer_take_the_other_way_when_the_server_refuses_the_first() -> Result<()> {
    let authority = LocalAuthority::init()?;
    // pg_hba.conf: app_tls is admitted with TLS alone, app_no_tls without alone.
    let cases = [
        ("allow", "app_tls", Some("app_tls TLSv1.3")),
        ("allow", "app_no_tls", Some("app_no_tls plain")),
        ("prefer", "app_tls", Some("app_tls TLSv1.3")),
        ("prefer", "app_no_tls", Some("app_no_tls plain")),
        ("require", "app_no_tls", None),
        ("disable", "app_tls", None),
        ("allow", "app_reject", None),
        ("prefer", "app_reject", None),
    ];
    for (mode, user, report) in cases {
        let settings = format!("{}server_sslmode = \"{mode}\"", minted(&authority));
        Setup::with(Version::V15)
            .file(terminate(&settings))
            .play(|stage| {
                let parameters = format!("user={user} sslmode=require");
                match report {
                    Some(report) => reported(stage, Version::V15, &parameters, report).map(drop),
                    // The server's own words.
                    None => {
                        let record = failed(stage, Version::V15, &parameters, "pg_hba.conf")?;
                        field_is(&record, "/login/sqlstate", "28000")
                    }
                }
                .with_context(|| format!("{mode} {user}"))
            })?;
    }
    Ok(())
}

#[test]
fn a_server_that_is_not_who_it_should_be_is_refused_in_words() -> Result<()> {
    let authority = LocalAuthority::init()?;
    let other = TempDir::new()?;
    certificates::make(other.path())?;
    for version in VERSIONS {
        let cluster = Cluster::shared(version)?;
        let right = cluster.socket_directory().join("ca.crt");
        let wrong = other.path().join("ca.crt");
        let cases = [
            (&wrong, "verify-ca", "", "not issued by an authority"),
            (&wrong, "require", "", "not issued by an authority"),
            (
                &right,
                "verify-full",
                "server_name = \"elsewhere\"",
                "does not name elsewhere",
            ),
        ];
        for (root, mode, more, reason) in cases {
            let settings = format!(
                "{}server_sslmode = \"{mode}\"\nserver_ca = \"{}\"\n{more}",
                minted(&authority),
                root.display()
            );
            Setup::with(version)
                .file(terminate(&settings))
                .play(|stage| {
                    let parameters = "user=app_trust sslmode=require";
                    let record = failed(stage, version, parameters, reason)?;
                    field_is(&record, "/close", "upstream_not_verified")?;
                    field_is(&record, "/startup/user", "app_trust")
                })?;
        }
    }
    Ok(())
}

/// A server that answers one SSLRequest with these bytes.
fn answering(bytes: &'static [u8]) -> Result<(u16, thread::JoinHandle<Result<()>>)> {
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = server.local_addr()?.port();
    let script = thread::spawn(move || {
        let (mut accepted, _) = server.accept()?;
        accepted.read_exact(&mut [0; 8])?;
        accepted.write_all(bytes)?;
        // Until pgusher closes.
        let _ = accepted.read(&mut [0]);
        Ok(())
    });
    Ok((port, script))
}

#[test]
fn only_a_bare_yes_of_the_servers_is_followed_by_tls() -> Result<()> {
    let authority = LocalAuthority::init()?;
    let cases: [(&[u8], &str, &str); 3] = [
        (b"N", "08006", "upstream_tls_failed"),
        // CVE-2021-23222
        (b"S\x16\x03\x03\0\x01", "08006", "upstream_tls_failed"),
        (b"EFATAL:  no\n\0", "57P03", "upstream_unreachable"),
    ];
    for (answer, sqlstate, close) in cases {
        let (port, script) = answering(answer)?;
        let settings = format!("{}server_sslmode = \"require\"", minted(&authority));
        let setup = Setup::with(Version::V15)
            .port(port)
            .file(terminate(&settings));
        setup.play(|stage| {
            let mut client = stage.dialer()?.dial(port)?;
            client.write_all(&wire::startup("somebody")?)?;
            let error = wire::read_message(&mut client)?;
            ensure!(error.field(b'C').as_deref() == Some(sqlstate), "{error:?}");
            ensure!(read_to_close(&mut client)?.0.is_empty());
            drop(client);
            field_is(&stage.pgusher.trail.only_session()?, "/close", close)
        })?;
        script.join().ok().context("the server's script")??;
    }
    Ok(())
}

#[test]
fn direct_tls_ends_at_pgusher_whatever_the_server_knows_of_it() -> Result<()> {
    let authority = LocalAuthority::init()?;
    for server in VERSIONS {
        let setup = Setup::with(server).file(terminate(&minted(&authority)));
        setup.play(|stage| {
            let trusted = authority.for_clients_of(Cluster::shared(Version::V18)?)?;
            let parameters = format!(
                "user=app_trust sslnegotiation=direct sslmode=verify-full sslrootcert={trusted}"
            );
            let record = reported(stage, Version::V18, &parameters, "app_trust TLSv1.3")?;
            field_is(&record, "/encryption", "direct_tls_terminated")?;
            field_is(&record, "/tls/client/alpn", "postgresql")
        })?;
    }
    Ok(())
}

#[test]
fn versions_of_tls_are_the_clients_choice() -> Result<()> {
    let authority = LocalAuthority::init()?;
    let setup = Setup::with(Version::V15).file(terminate(&minted(&authority)));
    setup.play(|stage| {
        for client in VERSIONS {
            for version in ["1.2", "1.3"] {
                let parameters = format!(
                    "user=app_trust sslmode=require ssl_min_protocol_version=TLSv{version} ssl_max_protocol_version=TLSv{version}"
                );
                let record = reported(stage, client, &parameters, "app_trust TLSv1.3")?;
                field_is(&record, "/tls/client/version", version)?;
            }
        }
        Ok(())
    })
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
    input.write_all(bytes)?;
    let output = child.wait_with_output()?.stdout;
    drop(input);
    Ok(output)
}

#[test]
fn direct_tls_without_the_protocols_name_is_closed_as_the_server_would() -> Result<()> {
    let authority = LocalAuthority::init()?;
    let setup = Setup::with(Version::V18).file(terminate(&minted(&authority)));
    setup.play(|stage| {
        let answer = through_openssl(stage, &[], &wire::startup("app_trust")?)?;
        ensure!(answer.is_empty(), "{answer:?}");
        let record = stage.pgusher.trail.only_session()?;
        field_is(&record, "/close", "malformed_startup")?;
        let starttls = ["-starttls", "postgres"];
        let session = [wire::startup("app_trust")?, wire::message(b'X', &[])?].concat();
        let answer = through_openssl(stage, &starttls, &session)?;
        ensure!(
            answer.ends_with(b"Z\0\0\0\x05I"),
            "{}",
            answer.escape_ascii()
        );
        Ok(())
    })
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
                session.write_all(&wire::query("select pg_sleep(60)")?)?;
                stage.cluster.wait_for_rows(
                    "select count(*) from pg_stat_activity where query = 'select pg_sleep(60)' and state = 'active' and usename = 'app_trust'",
                    "1",
                )?;
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
fn a_client_certificate_is_verified_and_on_record() -> Result<()> {
    let authority = LocalAuthority::init()?;
    let other = TempDir::new()?;
    certificates::make(other.path())?;
    let cluster = Cluster::shared(Version::V15)?;
    let file = |name: &str| cluster.socket_directory().join(name).display().to_string();
    let settings = format!(
        "{}client_tls = \"require\"\nclient_ca = \"{}\"\nclient_certificates = \"require\"\n\
         server_certificate = \"{}\"\nserver_key = \"{}\"\nserver_sslmode = \"require\"",
        minted(&authority),
        file("ca.crt"),
        file("client.crt"),
        file("client.key"),
    );
    Setup::with(Version::V15)
        .file(terminate(&settings))
        .play(|stage| {
            let [certificate, key] =
                ["client.crt", "client.key"].map(|name| cluster.certificate(name));
            // The server asks for a certificate of this role's, and pgusher shows its own.
            let user = format!("user={CERTIFICATE_ROLE} sslmode=require");
            let parameters = format!("{user} sslcert={certificate} sslkey={key}");
            let report = format!("{CERTIFICATE_ROLE} TLSv1.3");
            let record = reported(stage, Version::V15, &parameters, &report)?;
            let shown = at(&record, "/tls/client/certificate");
            field_is(shown, "/common_name", CERTIFICATE_ROLE)?;
            field_is(shown, "/issuer", "CN=pgusher test CA")?;
            ensure!(
                shown["sha256"]
                    .as_str()
                    .is_some_and(|text| text.len() == 64),
                "{shown}"
            );

            let record = failed(stage, Version::V15, &user, "certificate")?;
            field_is(&record, "/close", "tls_handshake_failed")?;
            let record = failed(
                stage,
                Version::V15,
                "user=app_trust sslmode=disable",
                "without TLS",
            )?;
            field_is(&record, "/close", "tls_required")
        })
}

#[test]
fn a_client_certificate_that_is_only_requested_may_be_missing_but_not_wrong() -> Result<()> {
    let authority = LocalAuthority::init()?;
    let other = TempDir::new()?;
    certificates::make(other.path())?;
    let settings = format!(
        "{}client_ca = \"{}\"\nclient_certificates = \"request\"",
        minted(&authority),
        other.path().join("ca.crt").display()
    );
    Setup::with(Version::V18)
        .file(terminate(&settings))
        .play(|stage| {
            let user = "user=app_trust sslmode=require";
            reported(stage, Version::V18, user, "app_trust TLSv1.3")?;
            let [certificate, key] =
                ["client.crt", "client.key"].map(|name| stage.cluster.certificate(name));
            let parameters = format!("{user} sslcert={certificate} sslkey={key}");
            let record = failed(stage, Version::V18, &parameters, "alert")?;
            field_is(&record, "/close", "tls_handshake_failed")
        })
}

#[test]
fn what_is_sent_ahead_of_the_handshake_ends_the_connection() -> Result<()> {
    let authority = LocalAuthority::init()?;
    let setup = Setup::with(Version::V15).file(terminate(&minted(&authority)));
    setup.play(|stage| {
        for request in [wire::SSL_REQUEST, wire::GSSENC_REQUEST] {
            let mut client = stage.dial()?;
            let early = [wire::packet(request, &[])?, wire::startup("app_trust")?].concat();
            client.write_all(&early)?;
            let error = wire::read_message(&mut client)?;
            ensure!(error.field(b'C').as_deref() == Some("08P01"), "{error:?}");
            ensure!(read_to_close(&mut client)?.0.is_empty());
        }
        for record in stage.pgusher.trail.wait_for_sessions(2)? {
            field_is(&record, "/close", "malformed_startup")?;
            field_is(&record, "/startup", Value::Null)?;
        }
        Ok(())
    })
}

#[test]
fn gss_is_refused_and_tls_follows_once() -> Result<()> {
    let authority = LocalAuthority::init()?;
    let setup = Setup::with(Version::V15).file(terminate(&minted(&authority)));
    setup.play(|stage| {
        let mut client = stage.dial()?;
        let mut answer = [0];
        for (request, expected) in [(wire::GSSENC_REQUEST, b"N"), (wire::SSL_REQUEST, b"S")] {
            client.write_all(&wire::packet(request, &[])?)?;
            client.read_exact(&mut answer)?;
            ensure!(answer == *expected, "{answer:?}");
        }
        let mut twice = stage.dial()?;
        twice.write_all(&wire::packet(wire::GSSENC_REQUEST, &[])?)?;
        twice.read_exact(&mut answer)?;
        twice.write_all(&wire::packet(wire::GSSENC_REQUEST, &[])?)?;
        let error = wire::read_message(&mut twice)?;
        ensure!(error.field(b'C').as_deref() == Some("0A000"), "{error:?}");
        Ok(())
    })
}

#[test]
fn certificates_are_read_again_on_hangup_and_broken_ones_are_not_used() -> Result<()> {
    let shown = TempDir::new()?;
    let (first, second) = (TempDir::new()?, TempDir::new()?);
    for directory in [&first, &second] {
        certificates::make(directory.path())?;
    }
    let show = |from: &TempDir| -> Result<()> {
        for name in ["server.crt", "server.key"] {
            fs::copy(from.path().join(name), shown.path().join(name))?;
        }
        Ok(())
    };
    show(&first)?;
    let setup = Setup::with(Version::V15).file(terminate(&from_files(shown.path())));
    setup.play(|stage| {
        let log_in_trusting = |authority: &TempDir| -> Result<bool> {
            let root = lend(stage.cluster, &authority.path().join("ca.crt"))?;
            let parameters = format!("user=app_trust sslmode=verify-full sslrootcert={root}");
            Ok(log_in(stage, Version::V15, &parameters)?.status.success())
        };
        let reload = |outcome: &str, times: usize| -> Result<()> {
            stage.pgusher.signal(Signal::SIGHUP)?;
            wait_until("pgusher has read its certificates", || {
                let log = stage.pgusher.log()?;
                Ok(Seen::when(log.matches(outcome).count() == times, || {
                    log.clone()
                }))
            })
        };
        ensure!(log_in_trusting(&first)? && !log_in_trusting(&second)?);
        show(&second)?;
        reload("certificates reloaded", 1)?;
        ensure!(!log_in_trusting(&first)? && log_in_trusting(&second)?);
        fs::write(shown.path().join("server.crt"), "broken")?;
        reload("the old ones stay in use", 1)?;
        let log = stage.pgusher.log()?;
        ensure!(
            log.contains("ERROR") && log.contains("no certificate"),
            "{log}"
        );
        ensure!(log_in_trusting(&second)?);
        Ok(())
    })
}

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

#[test]
fn refusals_of_a_terminated_route_come_inside_its_own_tls() -> Result<()> {
    let authority = LocalAuthority::init()?;
    let dead = free_port()?;
    for version in VERSIONS {
        let setup = Setup::with(version)
            .port(dead)
            .file(terminate(&minted(&authority)));
        setup.play(|stage| {
            let trusted = authority.for_clients_of(stage.cluster)?;
            let connection = format!(
                "host=localhost,localhost hostaddr=127.0.0.1,127.0.0.1 port={dead},{} user=app_trust dbname=postgres sslmode=verify-full sslrootcert={trusted}",
                stage.cluster.port
            );
            let finished = run(&mut stage.psql_to(&connection, "select inet_server_port()")?)?;
            ensure!(finished.success()? == stage.cluster.port.to_string(), "{finished:?}");
            let record = stage
                .pgusher
                .trail
                .wait_for_session("a refusal", |record| record["close"] == "upstream_unreachable")?;
            field_is(&record, "/encryption", "tls_terminated")
        })?;
    }
    Ok(())
}
