//! The leg with the server: every `server_sslmode`, and servers that are not what they should be.

use super::*;

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
                // Asks for a version of the protocol that the server does not have, which answers so before it refuses.
                let newer = format!("{parameters} max_protocol_version=3.2");
                match report {
                    Some(report) => reported(stage, Version::V15, &parameters, report)
                        .and_then(|_| reported(stage, Version::V18, &newer, report))
                        .map(drop),
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
fn a_server_that_does_not_take_our_certificate_is_reported_in_its_words() -> Result<()> {
    let authority = LocalAuthority::init()?;
    let other = TempDir::new()?;
    certificates::make(other.path())?;
    let file = |name: &str| other.path().join(name).display().to_string();
    let settings = format!(
        "{}server_sslmode = \"require\"\nserver_certificate = \"{}\"\nserver_key = \"{}\"",
        minted(&authority),
        file("client.crt"),
        file("client.key")
    );
    Setup::with(Version::V18)
        .file(terminate(&settings))
        .play(|stage| {
            let parameters = "user=app_trust sslmode=require";
            let text = "the server ended the connection with pgusher";
            let record = failed(stage, Version::V18, parameters, text)?;
            field_is(&record, "/close", "server_reset")
        })
}

#[test]
fn settings_that_cannot_work_are_refused_at_start_by_route_and_name() -> Result<()> {
    let directory = TempDir::new()?;
    certificates::make(directory.path())?;
    let key = directory.path().join("server.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644))?;
    let path = directory.path().join("pgusher.toml");
    fs::write(&path, terminate(&from_files(directory.path())))?;
    let finished = run(Command::new(pgusher_tests::pgusher::binary()?)
        .args(["run", "--config"])
        .arg(&path))?;
    let message = finished.failure()?;
    for part in ["route `here`", "setting `key`", "0600"] {
        ensure!(message.contains(part), "no {part:?} in {message}");
    }
    Ok(())
}
