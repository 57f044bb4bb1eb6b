//! The leg with the client: what it is shown, what it may show, and what it is told.

use super::*;

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
        field_is(&record, "/encryption", "tls_terminated")?;
        field_is(&record, "/kind", "none")
    })
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
fn certificates_are_read_again_on_hangup_and_broken_ones_are_not_used() -> Result<()> {
    const NOBODY: u32 = 65534;
    let shown = TempDir::new()?;
    let (first, second) = (TempDir::new()?, TempDir::new()?);
    for directory in [&first, &second] {
        certificates::make(directory.path())?;
    }
    let show = |from: &TempDir| -> Result<()> {
        for name in ["server.crt", "server.key"] {
            fs::copy(from.path().join(name), shown.path().join(name))?;
        }
        // As a key of the server's own is: for its user alone, who is somebody else than pgusher.
        let key = shown.path().join("server.key");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o400))?;
        Ok(std::os::unix::fs::chown(&key, Some(NOBODY), None)?)
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
