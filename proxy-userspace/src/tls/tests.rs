//! Termination between real sockets: certificates from files and from the authority, and servers that are and are not
//! who they should be.

mod trust;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, PublicKeyData as _};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::verify::{Level, Verifier};
use super::*;
use crate::config::{ServerAuthority, ServerSslMode, ServerTlsSettings};
use crate::leg::{Greeting, Leg};
use crate::socket::socket_pair;

/// A client that takes any certificate.
pub(crate) fn trusting_client() -> Arc<ClientConfig> {
    let verifier = Verifier::new(Level::Nothing, provider());
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Arc::new(config)
}

/// A pair of legs with TLS between them: the client's, and the server's.
pub(crate) async fn tls_pair() -> (Leg, Leg) {
    let (near, far) = socket_pair().await;
    let certificates = Certificates::ephemeral().unwrap();
    let name = "anything.example".try_into().unwrap();
    let (near, far) = tokio::join!(
        Leg::connect(near.into(), trusting_client(), name),
        admit(far.into(), Default::default(), &certificates, None)
    );
    (near.unwrap(), far.unwrap().leg)
}

/// A directory with certificates in it.
struct Files {
    directory: TempDir,
}

impl Files {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    /// A self-signed certificate for `localhost`, an authority in name as `openssl req -x509` makes it.
    fn self_signed(&self, name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        (
            self.write(&format!("{name}.crt"), &certificate.pem(), 0o644),
            self.write(&format!("{name}.key"), &key.serialize_pem(), 0o600),
        )
    }
}

fn settings(mode: ServerSslMode, authority: Option<&Path>) -> ServerTlsSettings {
    ServerTlsSettings {
        mode,
        authority: authority.map(|path| ServerAuthority::File(path.to_path_buf())),
        own: None,
        name: None,
    }
}

/// Asks a scripted server that answers SSLRequest with `answer` and speaks TLS with `certificates`.
async fn ask(
    tls: &ServerTls,
    certificates: &Certificates,
    answer: &[u8],
    name: Option<&str>,
) -> Result<Secured, SecureError> {
    let (stream, mut server) = socket_pair().await;
    let script = async {
        let mut request = [0; 8];
        server.read_exact(&mut request).await.unwrap();
        server.write_all(answer).await.unwrap();
        if answer == b"S" {
            // The client may break the handshake off: that is its result to tell.
            if let Ok(greeting) = Greeting::read(server.into(), Default::default()).await {
                let offer = certificates.offer(None, None).unwrap();
                let _ = greeting.answer(Arc::clone(&offer.config)).await;
            }
        }
    };
    tokio::join!(tls.ask(stream.into(), name), script).0
}

#[tokio::test]
async fn a_server_is_verified_as_far_as_the_mode_says() {
    let files = Files::new();
    let (own, key) = files.self_signed("own");
    let (other, _) = files.self_signed("other");
    let certificates = Certificates::from_files(&own, &key, None).unwrap();
    use ServerSslMode::{Require, VerifyCa, VerifyFull};
    let cases = [
        (Require, None, "elsewhere", true),
        (Require, Some(&own), "elsewhere", true),
        (Require, Some(&other), "localhost", false),
        (VerifyCa, Some(&own), "elsewhere", true),
        (VerifyCa, Some(&other), "localhost", false),
        (VerifyFull, Some(&own), "localhost", true),
        (VerifyFull, Some(&own), "elsewhere", false),
        (VerifyFull, Some(&other), "localhost", false),
    ];
    for (mode, authority, name, is_trusted) in cases {
        let tls = ServerTls::load(&settings(mode, authority.map(PathBuf::as_path))).unwrap();
        let asked = ask(&tls, &certificates, b"S", Some(name)).await;
        let case = format!("{mode:?} {authority:?} {name}");
        match asked {
            Ok(Secured::Tls(leg, shown)) => {
                assert!(is_trusted && leg.is_tls(), "{case}");
                assert_eq!(
                    shown,
                    Some(certificates.offer(None, None).unwrap().leaf.clone())
                );
            }
            Err(SecureError::NotVerified(reason)) => assert!(!is_trusted, "{case}: {reason}"),
            Ok(Secured::Refused(_)) => panic!("{case}: refused"),
            Err(error) => panic!("{case}: {error:?}"),
        }
    }
}

#[tokio::test]
async fn the_operators_name_for_a_server_wins_over_the_clients() {
    let files = Files::new();
    let (own, key) = files.self_signed("own");
    let certificates = Certificates::from_files(&own, &key, None).unwrap();
    let mut settings = settings(ServerSslMode::VerifyFull, Some(&own));
    settings.name = Some("localhost".to_owned());
    let tls = ServerTls::load(&settings).unwrap();
    for name in [None, Some("elsewhere")] {
        let asked = ask(&tls, &certificates, b"S", name).await;
        assert!(matches!(asked, Ok(Secured::Tls(..))), "{name:?}");
    }
}

#[tokio::test]
async fn only_a_bare_yes_begins_tls_with_a_server() {
    let certificates = Certificates::ephemeral().unwrap();
    let tls = ServerTls::load(&settings(ServerSslMode::Require, None)).unwrap();
    let asked = async |answer: &'static [u8]| ask(&tls, &certificates, answer, None).await;
    assert!(matches!(asked(b"S").await, Ok(Secured::Tls(..))));
    assert!(matches!(asked(b"N").await, Ok(Secured::Refused(_))));
    for answer in [b"EFATAL".as_slice(), b""] {
        let error = asked(answer).await.err().unwrap();
        assert!(!error.is_handshake(), "{error:?}");
    }
    // CVE-2021-23222
    let behind = asked(b"S\x16\x03\x03").await.err().unwrap();
    assert!(matches!(behind, SecureError::Failed(_)), "{behind:?}");
}

#[tokio::test]
async fn a_name_or_an_address_gets_a_certificate_that_the_authority_vouches_for() {
    let directory = tempfile::tempdir().unwrap();
    let certificate = init(directory.path()).unwrap();
    let certificates = Certificates::from_authority(directory.path(), None).unwrap();
    let address = Some("127.0.0.1".parse().unwrap());
    let tls = ServerTls::load(&settings(ServerSslMode::VerifyFull, Some(&certificate))).unwrap();
    for name in [Some("db.example"), None] {
        let (stream, mut server) = socket_pair().await;
        let script = async {
            server.read_exact(&mut [0; 8]).await.unwrap();
            server.write_all(b"S").await.unwrap();
            admit(server.into(), Default::default(), &certificates, address).await
        };
        let (asked, admitted) = tokio::join!(tls.ask(stream.into(), name), script);
        assert!(matches!(asked, Ok(Secured::Tls(..))), "{name:?}");
        let admitted = admitted.unwrap();
        assert_eq!(admitted.server_name.as_deref(), name);
        assert!(admitted.agreed_protocol && admitted.certificate.is_none());
    }
}

#[test]
fn an_authority_is_private_and_never_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("made/here");
    init(&path).unwrap();
    let mode = |name| fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("ca.key"), mode("ca.crt")), (0o600, 0o644));
    let before = fs::read(path.join("ca.key")).unwrap();
    let error = init(&path).unwrap_err().to_string();
    assert!(error.contains("exists"), "{error}");
    assert_eq!(fs::read(path.join("ca.key")).unwrap(), before);
    let exported = export(&path).unwrap();
    assert!(exported.starts_with("-----BEGIN CERTIFICATE-----") && !exported.contains("KEY"));
}

#[test]
fn files_that_do_not_fit_are_refused_with_the_reason() {
    let files = Files::new();
    let (own, key) = files.self_signed("own");
    let (other, _) = files.self_signed("other");
    let exposed = files.write("exposed.key", &fs::read_to_string(&key).unwrap(), 0o660);
    let empty = files.write("empty", "", 0o600);
    let missing = files.directory.path().join("missing");
    let cases = [
        (&own, &missing, "key", "cannot read"),
        (&missing, &key, "certificate", "cannot read"),
        (&own, &exposed, "key", "0600"),
        (&own, &own, "key", "group or others"),
        (&own, &empty, "key", "no private key"),
        (&empty, &key, "certificate", "no certificate"),
        (&other, &key, "key", "not the key of"),
    ];
    for (certificate, key, setting, reason) in cases {
        let error = Certificates::from_files(certificate, key, None)
            .err()
            .unwrap();
        assert_eq!(error.setting, setting);
        assert!(error.reason.contains(reason), "{error}");
    }
    let directory = files.directory.path().join("ca");
    init(&directory).unwrap();
    fs::copy(&own, directory.join("ca.crt")).unwrap();
    let error = Certificates::from_authority(&directory, None)
        .err()
        .unwrap();
    assert!(error.reason.contains("not the key"), "{error}");
}

#[tokio::test]
async fn a_stream_that_ends_without_a_goodbye_is_a_failure() {
    let (mut near, far) = tls_pair().await;
    near.write_all(b"last words").await.unwrap();
    let stream = near.into_stream();
    drop(stream);
    let mut far = far;
    let mut buffer = bytes::BytesMut::new();
    assert_eq!(far.read_buf(&mut buffer, 100).await.unwrap(), 10);
    for _ in 0..2 {
        let error = far.read_buf(&mut buffer, 100).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    }
    assert_eq!(buffer, "last words");
}

#[test]
fn no_session_ends_because_it_is_long() {
    let suites = provider().cipher_suites.clone();
    let of_tls_1_2 = suites.iter().filter_map(|suite| match suite {
        SupportedCipherSuite::Tls12(suite) => Some(suite.common.confidentiality_limit),
        // Exchanges its keys anew.
        _ => None,
    });
    let limits: Vec<u64> = of_tls_1_2.collect();
    assert!(!limits.is_empty() && limits.iter().all(|limit| *limit == u64::MAX));
}

/// A field of DER: what it is, its length, and its contents.
fn field(kind: u8, contents: &[&[u8]]) -> Vec<u8> {
    let contents = contents.concat();
    let length = u8::try_from(contents.len()).unwrap();
    let long = [0x81].into_iter().filter(|_| length > 127);
    [kind]
        .into_iter()
        .chain(long)
        .chain([length])
        .chain(contents)
        .collect()
}

/// A certificate of X.509 version 1 for `localhost`, as `openssl x509 -req` makes it before OpenSSL 3.2 (RFC 5280, 4.1), with
/// a signature that nobody has made.
fn of_version_1(key: &KeyPair) -> String {
    const SEQUENCE: u8 = 0x30;
    // ecdsa-with-SHA256, commonName
    let algorithm = field(SEQUENCE, &[b"\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02"]);
    let name = field(
        SEQUENCE,
        &[b"\x06\x03\x55\x04\x03", &field(0x0c, &[b"localhost"])],
    );
    let name = field(SEQUENCE, &[&field(0x31, &[&name])]);
    let time = |text: &[u8]| field(0x18, &[text]);
    let validity = [time(b"20200101000000Z"), time(b"21200101000000Z")].concat();
    let validity = field(SEQUENCE, &[&validity]);
    let public = key.subject_public_key_info();
    let signed = [
        &field(2, &[b"\x01"])[..],
        &algorithm,
        &name,
        &validity,
        &name,
        &public,
    ];
    let signed = field(SEQUENCE, &signed);
    let certificate = field(SEQUENCE, &[&signed, &algorithm, b"\x03\x02\x00\x00"]);
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}

/// What comes of a server that shows that certificate.
async fn ask_with(
    tls: &ServerTls,
    (certificate, key): (&Path, &KeyPair),
    version: &'static SupportedProtocolVersion,
) -> Result<Secured, SecureError> {
    let chain = files::certificates(certificate).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let key = any_supported_type(&key).unwrap();
    let shown = SingleCertAndKey::from(CertifiedKey::new(chain, key));
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(shown));
    let (stream, mut server) = socket_pair().await;
    let script = async {
        server.read_exact(&mut [0; 8]).await.unwrap();
        server.write_all(b"S").await.unwrap();
        let greeting = Greeting::read(server.into(), Default::default()).await;
        let _ = greeting.ok().unwrap().answer(Arc::new(config)).await;
    };
    tokio::join!(tls.ask(stream.into(), Some("localhost")), script).0
}

#[tokio::test]
async fn a_certificate_of_version_1_is_as_good_as_its_key() {
    use ServerSslMode::{Prefer, VerifyCa, VerifyFull};
    let files = Files::new();
    let key = KeyPair::generate().unwrap();
    let itself = files.write("itself.crt", &of_version_1(&key), 0o644);
    let (other, _) = files.self_signed("other");
    for version in [&TLS12, &TLS13] {
        let cases = [
            (Prefer, None, None),
            (VerifyCa, Some(&itself), None),
            (VerifyCa, Some(&other), Some("X.509 version 1")),
            (VerifyFull, Some(&itself), Some("does not name localhost")),
        ];
        for (mode, authority, expected) in cases {
            let tls = ServerTls::load(&settings(mode, authority.map(PathBuf::as_path))).unwrap();
            let refused = ask_with(&tls, (&itself, &key), version).await.err();
            let refused = refused.map(|error| error.to_string());
            match (expected, refused) {
                (None, None) => {}
                (Some(expected), Some(refused)) => assert!(refused.contains(expected), "{refused}"),
                other => panic!("{mode:?}: {other:?}"),
            }
        }
    }
}
