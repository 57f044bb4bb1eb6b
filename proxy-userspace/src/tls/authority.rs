//! The local certificate authority: made once by `pgusher ca init`, trusted by clients, and asked for a certificate
//! whenever a client names a server that none has been minted for.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use zeroize::Zeroizing;

use super::files::{self, FileError, Key};

/// Where the authority is unless somebody says otherwise.
pub const DEFAULT_DIRECTORY: &str = "/var/lib/pgusher/ca";
const CERTIFICATE_FILE: &str = "ca.crt";
const KEY_FILE: &str = "ca.key";
/// How long the authority itself is good for: clients have to be told of another one.
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long a minted certificate is good for.
const LEAF_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long before now certificates begin, for clocks that are behind.
const BACKDATED: Duration = Duration::from_secs(3600);
/// `ub-common-name` (RFC 5280, appendix A): a longer name is only in the list of alternative names.
const MAX_COMMON_NAME_BYTES: usize = 64;

/// Why there is no authority, or no certificate from it.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// There is one already.
    #[error("{0} exists; an authority that clients trust is not replaced")]
    Exists(PathBuf),
    /// The files cannot be written.
    #[error("cannot write {path}: {source}", path = path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The files cannot be read.
    #[error("{0}; `pgusher ca init` makes an authority")]
    Read(String),
    /// The files do not belong together, or are no authority's.
    #[error("{directory} holds no usable authority: {reason}", directory = directory.display())]
    Unusable {
        /// Where it is.
        directory: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The certificate library's reason.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
}

impl From<FileError> for AuthorityError {
    fn from(error: FileError) -> Self {
        Self::Read(error.to_string())
    }
}

/// Makes an authority in `directory`: `ca.crt`, and `ca.key` with mode 0600. Returns the certificate's path.
///
/// # Errors
/// [`AuthorityError`]; nothing that exists is replaced.
pub fn init(directory: &Path) -> Result<PathBuf, AuthorityError> {
    let (certificate_path, key_path) = paths(directory);
    for path in [&certificate_path, &key_path] {
        if fs::symlink_metadata(path).is_ok() {
            return Err(AuthorityError::Exists(path.clone()));
        }
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(directory)
        .map_err(|source| AuthorityError::Write {
            path: directory.to_path_buf(),
            source,
        })?;
    let key = Zeroizing::new(KeyPair::generate()?);
    let mut params = CertificateParams::default();
    let host = rustix::system::uname();
    let mut common_name = format!("pgusher CA of {}", host.nodename().to_string_lossy());
    common_name.truncate(common_name.floor_char_boundary(MAX_COMMON_NAME_BYTES));
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    // It signs servers' certificates and no other authority.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_lifetime(&mut params, AUTHORITY_LIFETIME);
    let certificate = params.self_signed(&*key)?;
    let key_text = Zeroizing::new(key.serialize_pem());
    write_new(&key_path, key_text.as_bytes(), 0o600)?;
    write_new(&certificate_path, certificate.pem().as_bytes(), 0o644)?;
    Ok(certificate_path)
}

/// The authority's certificate in PEM format, for trust stores.
///
/// # Errors
/// [`AuthorityError`]
pub fn export(directory: &Path) -> Result<String, AuthorityError> {
    let (certificate_path, _) = paths(directory);
    files::certificates(&certificate_path)?;
    Ok(files::public_text(&certificate_path)?)
}

fn paths(directory: &Path) -> (PathBuf, PathBuf) {
    (directory.join(CERTIFICATE_FILE), directory.join(KEY_FILE))
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), AuthorityError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    let written = options
        .open(path)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    written.map_err(|source| AuthorityError::Write {
        path: path.to_path_buf(),
        source,
    })
}

/// A loaded authority.
pub(super) struct Authority {
    key: Zeroizing<KeyPair>,
    /// Its own certificate and what is in its file behind it.
    chain: Vec<CertificateDer<'static>>,
}

/// A certificate, fresh from the authority.
pub(super) struct Minted {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: Key,
    /// From when on it is good, and when another one should take its place.
    pub(super) is_good: Range<SystemTime>,
}

impl Authority {
    /// Loads the authority of a directory.
    pub(super) fn load(directory: &Path) -> Result<Self, AuthorityError> {
        let (certificate_path, key_path) = paths(directory);
        let chain = files::certificates(&certificate_path)?;
        let unusable = |reason: String| AuthorityError::Unusable {
            directory: directory.to_path_buf(),
            reason,
        };
        let key = KeyPair::from_pem(&files::private_text(&key_path)?)
            .map_err(|error| unusable(format!("{KEY_FILE}: {error}")))?;
        let key = Zeroizing::new(key);
        let own = chain
            .first()
            .ok_or_else(|| unusable("no certificate".to_owned()))?;
        check(own, &key).map_err(|reason| unusable(reason.to_owned()))?;
        let authority = Self { key, chain };
        // What it cannot do is found here and not by the first client.
        let trial = authority
            .mint(Some("trial.invalid"), None)
            .map_err(|error| unusable(format!("{CERTIFICATE_FILE}: {error}")))?;
        let [leaf, issuer, ..] = trial.chain.as_slice() else {
            return Err(unusable("no certificate".to_owned()));
        };
        if !is_issued_by(leaf, issuer) {
            return Err(unusable(
                "the subject of ca.crt cannot be written into certificates as it is; has it two parts of one kind, such as two OUs?".to_owned(),
            ));
        }
        Ok(authority)
    }

    /// Makes a certificate for a server by its name, its address, or both.
    pub(super) fn mint(
        &self,
        name: Option<&str>,
        address: Option<IpAddr>,
    ) -> Result<Minted, rcgen::Error> {
        let key = Zeroizing::new(KeyPair::generate()?);
        let params = leaf(name, address)?;
        let own = self
            .chain
            .first()
            .ok_or(rcgen::Error::CouldNotParseCertificate)?;
        let issuer = Issuer::from_ca_cert_der(own, &*self.key)?;
        let certificate = params.signed_by(&*key, &issuer)?;
        let mut chain = vec![certificate.der().clone()];
        chain.extend(self.chain.iter().cloned());
        Ok(minted(chain, &key))
    }
}

/// Makes a certificate that nobody vouches for.
pub(super) fn self_signed(name: &str) -> Result<Minted, rcgen::Error> {
    let key = Zeroizing::new(KeyPair::generate()?);
    let mut params = leaf(Some(name), None)?;
    // Nobody trusts it, and it has to last as long as the process.
    set_lifetime(&mut params, AUTHORITY_LIFETIME);
    let certificate = params.self_signed(&*key)?;
    Ok(minted(vec![certificate.der().clone()], &key))
}

fn minted(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Minted {
    Minted {
        chain,
        key: Zeroizing::new(PrivateKeyDer::Pkcs8(key.serialize_der().into())),
        is_good: {
            let now = SystemTime::now();
            // With a third of its life left, a certificate outlasts every session that begins under it for days.
            now - BACKDATED..now + LEAF_LIFETIME * 2 / 3
        },
    }
}

/// Whether a certificate names this one as its issuer, to the byte.
fn is_issued_by(leaf: &CertificateDer<'_>, issuer: &CertificateDer<'_>) -> bool {
    let [leaf, issuer] = [leaf, issuer].map(|it| X509Certificate::from_der(it));
    match (leaf, issuer) {
        (Ok((_, leaf)), Ok((_, issuer))) => leaf.issuer().as_raw() == issuer.subject().as_raw(),
        _ => false,
    }
}

fn leaf(name: Option<&str>, address: Option<IpAddr>) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let common_name = name
        .map(str::to_owned)
        .or_else(|| address.map(|address| address.to_string()))
        .filter(|text| text.len() <= MAX_COMMON_NAME_BYTES)
        .unwrap_or_else(|| "pgusher".to_owned());
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    if let Some(name) = name {
        params
            .subject_alt_names
            .push(SanType::DnsName(name.try_into()?));
    }
    params
        .subject_alt_names
        .extend(address.map(|address| SanType::IpAddress(address.to_canonical())));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    set_lifetime(&mut params, LEAF_LIFETIME);
    Ok(params)
}

fn set_lifetime(params: &mut CertificateParams, lifetime: Duration) {
    let now = SystemTime::now();
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + lifetime).into();
}

/// Whether the certificate is an authority's, still valid, and the key its own.
fn check(certificate: &CertificateDer<'_>, key: &KeyPair) -> Result<(), &'static str> {
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|_| "ca.crt cannot be understood")?;
    if !parsed.is_ca() {
        return Err("ca.crt is not an authority's certificate");
    }
    if !parsed.validity().is_valid() {
        return Err("ca.crt is expired, or not valid yet");
    }
    if parsed.public_key().raw != key.subject_public_key_info() {
        return Err("ca.key is not the key of ca.crt");
    }
    Ok(())
}
