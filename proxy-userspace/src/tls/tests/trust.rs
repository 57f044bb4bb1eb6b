//! Whom the certificates of `server_ca` and `client_ca` vouch for.

use std::time::{Duration, SystemTime};

use rcgen::{CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier as _;

use super::super::authorities::{Authorities, Purpose};
use super::super::client_verifier::ClientVerifier;
use super::*;

/// Somebody's certificate and key, and what it was made of.
struct Holder {
    params: CertificateParams,
    key: KeyPair,
}

impl Holder {
    fn new(name: &str, is_ca: IsCa) -> Self {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = is_ca;
        Self {
            params,
            key: KeyPair::generate().unwrap(),
        }
    }

    fn expired(mut self) -> Self {
        let day = Duration::from_secs(24 * 3600);
        self.params.not_before = (SystemTime::now() - 2 * day).into();
        self.params.not_after = (SystemTime::now() - day).into();
        self
    }

    fn itself(&self) -> rcgen::Certificate {
        self.params.self_signed(&self.key).unwrap()
    }

    fn issues(&self, other: &Self) -> rcgen::Certificate {
        let issuer = Issuer::from_params(&self.params, &self.key);
        other.params.signed_by(&other.key, &issuer).unwrap()
    }
}

fn is_accepted(asked: &Result<Secured, SecureError>) -> bool {
    matches!(asked, Ok(Secured::Tls(..)))
}

/// What comes of a server with this certificate, under `verify-full` with that `server_ca`.
async fn shows(certificate: &rcgen::Certificate, holder: &Holder, authority: &str) -> bool {
    let files = Files::new();
    let shown = files.write("shown.crt", &certificate.pem(), 0o644);
    let authority = files.write("root.crt", authority, 0o644);
    let tls = ServerTls::load(&settings(ServerSslMode::VerifyFull, Some(&authority))).unwrap();
    let asked = ask_with(&tls, (&shown, &holder.key), &TLS13).await;
    is_accepted(&asked)
}

#[tokio::test]
async fn only_an_authority_that_is_valid_vouches_for_others() {
    let leaf = Holder::new("localhost", IsCa::NoCa);
    let issuers = [
        (
            Holder::new("root", IsCa::Ca(BasicConstraints::Unconstrained)),
            true,
        ),
        (Holder::new("db1", IsCa::ExplicitNoCa), false),
        (Holder::new("db2", IsCa::NoCa), false),
        (
            Holder::new("old", IsCa::Ca(BasicConstraints::Unconstrained)).expired(),
            false,
        ),
    ];
    for (issuer, expected) in issuers {
        let issued = issuer.issues(&leaf);
        let root = issuer.itself().pem();
        assert_eq!(
            shows(&issued, &leaf, &root).await,
            expected,
            "{:?}",
            issuer.params
        );
    }
    // A certificate that is named stands for itself, whatever it may do.
    let own = leaf.itself();
    assert!(shows(&own, &leaf, &own.pem()).await);
}

#[test]
fn a_client_cannot_vouch_for_others_by_a_certificate_of_its_own() {
    let files = Files::new();
    let alice = Holder::new("alice", IsCa::ExplicitNoCa);
    let root = Holder::new("root", IsCa::Ca(BasicConstraints::Unconstrained));
    let mut of_servers = Holder::new("servers", IsCa::Ca(BasicConstraints::Unconstrained));
    of_servers.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let admin = Holder::new("admin", IsCa::NoCa);
    let own = alice.itself();
    let trusted = [own.pem(), root.itself().pem(), of_servers.itself().pem()].concat();
    let path = files.write("clients.crt", &trusted, 0o644);
    let verifier = ClientVerifier::new(Authorities::read(&path, Purpose::Clients).unwrap(), true);
    let is_good = |certificate: &rcgen::Certificate| {
        let certificate: &CertificateDer<'_> = certificate.der();
        let verified = verifier.verify_client_cert(certificate, &[], UnixTime::now());
        verified.is_ok()
    };
    assert!(is_good(&own) && is_good(&root.issues(&admin)));
    assert!(!is_good(&alice.issues(&admin)) && !is_good(&admin.itself()));
    assert!(!is_good(&of_servers.issues(&admin)));
    assert_eq!(verifier.root_hint_subjects().len(), 1);
}

#[tokio::test]
async fn nothing_of_a_certificate_counts_where_nothing_is_verified() {
    let mut holder = Holder::new("localhost", IsCa::NoCa);
    // Nobody knows it, and it is critical.
    let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
    extension.set_criticality(true);
    holder.params.custom_extensions.push(extension);
    let files = Files::new();
    let shown = files.write("shown.crt", &holder.itself().pem(), 0o644);
    for version in [&TLS12, &TLS13] {
        let tls = ServerTls::load(&settings(ServerSslMode::Prefer, None)).unwrap();
        let asked = ask_with(&tls, (&shown, &holder.key), version).await;
        assert!(is_accepted(&asked), "{:?}", asked.err());
    }
}

#[test]
fn a_servers_own_certificate_of_version_1_is_shown_with_its_key_alone() {
    let files = Files::new();
    let [own, other] = [KeyPair::generate().unwrap(), KeyPair::generate().unwrap()];
    let certificate = files.write("own.crt", &of_version_1(&own), 0o644);
    let key = files.write("own.key", &own.serialize_pem(), 0o600);
    assert!(Certificates::from_files(&certificate, &key, None).is_ok());
    let key = files.write("other.key", &other.serialize_pem(), 0o600);
    let error = Certificates::from_files(&certificate, &key, None)
        .err()
        .unwrap();
    assert!(error.reason.contains("not the key of"), "{error}");
}
