//! Settings that go together, and those that do not.

use super::*;

fn check(text: &str) -> Result<Option<TerminationSettings>, Mistake> {
    TerminationSettings::check(&toml::from_str(text).unwrap())
}

#[test]
fn tls_passes_through_unless_a_route_says_otherwise() {
    assert_eq!(check(""), Ok(None));
    assert_eq!(check("tls = \"passthrough\""), Ok(None));
    let settings = check("tls = \"terminate\"\nca = \"/ca\"").unwrap().unwrap();
    assert_eq!(settings.source, CertificateSource::Authority("/ca".into()));
    assert_eq!(settings.client_tls, ClientTls::Prefer);
    assert_eq!(settings.client_certificates, ClientCertificates::Ignore);
    assert_eq!(settings.server.mode, ServerSslMode::Prefer);
}

#[test]
fn every_spelling_of_a_mode_is_libpqs() {
    use ServerSslMode::{Allow, Disable, Prefer, Require, VerifyCa, VerifyFull};
    let cases = [
        ("disable", "", Disable),
        ("allow", "", Allow),
        ("prefer", "", Prefer),
        ("require", "", Require),
        ("verify-ca", "server_ca = \"/root.crt\"", VerifyCa),
        ("verify-full", "server_ca = \"system\"", VerifyFull),
    ];
    for (text, more, mode) in cases {
        let table =
            format!("tls = \"terminate\"\nca = \"/ca\"\nserver_sslmode = \"{text}\"\n{more}");
        let server = check(&table).unwrap().unwrap().server;
        assert_eq!(server.mode, mode);
        let is_system = server.authority == Some(ServerAuthority::System);
        assert_eq!(is_system, mode == VerifyFull);
    }
}

#[test]
fn settings_that_contradict_each_other_are_refused_by_name() {
    let cases = [
        ("server_sslmode = \"require\"", "server_sslmode"),
        ("certificate = \"/c\"", "certificate"),
        ("tls = \"terminate\"", "tls"),
        ("tls = \"terminate\"\ncertificate = \"/c\"", "key"),
        ("tls = \"terminate\"\nkey = \"/k\"", "certificate"),
        (
            "tls = \"terminate\"\nca = \"/ca\"\ncertificate = \"/c\"\nkey = \"/k\"",
            "ca",
        ),
    ];
    for (text, setting) in cases {
        assert_eq!(check(text).unwrap_err().0, setting, "{text}");
    }
    let terminated = [
        ("client_ca = \"/c\"", "client_ca"),
        ("client_certificates = \"request\"", "client_certificates"),
        (
            "client_certificates = \"require\"\nclient_ca = \"/c\"",
            "client_certificates",
        ),
        ("server_sslmode = \"verify-ca\"", "server_sslmode"),
        ("server_sslmode = \"verify-full\"", "server_sslmode"),
        ("server_ca = \"/c\"", "server_ca"),
        (
            "server_sslmode = \"allow\"\nserver_ca = \"/c\"",
            "server_ca",
        ),
        (
            "server_sslmode = \"verify-ca\"\nserver_ca = \"system\"",
            "server_ca",
        ),
        ("server_certificate = \"/c\"", "server_key"),
        ("server_key = \"/k\"", "server_certificate"),
        (
            "server_sslmode = \"disable\"\nserver_certificate = \"/c\"\nserver_key = \"/k\"",
            "server_certificate",
        ),
        (
            "server_sslmode = \"disable\"\nserver_name = \"db\"",
            "server_name",
        ),
    ];
    for (text, setting) in terminated {
        let table = format!("tls = \"terminate\"\nca = \"/ca\"\n{text}");
        assert_eq!(check(&table).unwrap_err().0, setting, "{text}");
    }
}
