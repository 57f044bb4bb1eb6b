//! How a client may open where TLS ends at pgusher, and how not.

use super::*;

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
