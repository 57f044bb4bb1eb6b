//! What pgusher shows a client: a certificate from files, or one minted for the name the client asks for.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, DnsName};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{InconsistentKeys, ServerConfig};

use super::authority::{self, Authority, AuthorityError, Minted};
use super::files::Key;
use super::verify::key_of_version_1;
use super::{ALPN, TlsError, files, provider};

/// Minted certificates kept: clients choose the names, so there must be a bound.
const MAX_MINTED: usize = 1024;
/// What the certificate of a refusal calls itself.
const EPHEMERAL_NAME: &str = "pgusher.invalid";

/// Whose certificates are asked for and checked.
pub(super) type Verifier = Option<Arc<dyn ClientCertVerifier>>;

/// One certificate, ready to be shown.
pub struct Offer {
    pub(super) config: Arc<ServerConfig>,
    /// The certificate itself, without its chain.
    pub leaf: CertificateDer<'static>,
}

/// What a route shows its clients.
pub enum Certificates {
    /// Always the same.
    Fixed(Arc<Offer>),
    /// One for each name.
    Minted(Box<Mint>),
}

/// An authority and what it has made.
pub struct Mint {
    authority: Authority,
    verifier: Verifier,
    offers: Mutex<Offers>,
}

/// What a certificate is minted for: a name and an address.
type Names = (Option<String>, Option<IpAddr>);
/// What was minted, and when each may be shown.
type Offers = HashMap<Names, (Arc<Offer>, Range<SystemTime>)>;

impl Certificates {
    /// From a certificate's file and its key's.
    pub(super) fn from_files(
        certificate: &Path,
        key: &Path,
        verifier: Verifier,
    ) -> Result<Self, TlsError> {
        let chain = files::certificates(certificate)
            .map_err(|error| TlsError::new("certificate", error))?;
        let key = files::private_key(key).map_err(|error| TlsError::new("key", error))?;
        let offer = Offer::new(chain, key, verifier)
            .map_err(|error| TlsError::new("key", mismatch(&error, certificate)))?;
        Ok(Self::Fixed(Arc::new(offer)))
    }

    /// From the authority in a directory.
    pub(super) fn from_authority(directory: &Path, verifier: Verifier) -> Result<Self, TlsError> {
        let authority = Authority::load(directory).map_err(|error| TlsError::new("ca", error))?;
        Ok(Self::Minted(Box::new(Mint {
            authority,
            verifier,
            offers: Mutex::new(HashMap::new()),
        })))
    }

    /// A certificate for refusals where the route has none: nobody vouches for it, and clients that do not verify,
    /// which are most, can read what is said.
    ///
    /// # Errors
    /// The certificate library's reason.
    pub fn ephemeral() -> Result<Self, AuthorityError> {
        let Minted { chain, key, .. } = authority::self_signed(EPHEMERAL_NAME)?;
        let offer = Offer::new(chain, key, None).map_err(|error| AuthorityError::Unusable {
            directory: Path::new(EPHEMERAL_NAME).to_path_buf(),
            reason: error.to_string(),
        })?;
        Ok(Self::Fixed(Arc::new(offer)))
    }

    /// The certificate for a client that wants `name` (SNI) at `address`.
    ///
    /// # Errors
    /// What keeps one from being minted.
    pub fn offer(
        &self,
        name: Option<&str>,
        address: Option<IpAddr>,
    ) -> Result<Arc<Offer>, rustls::Error> {
        match self {
            Self::Fixed(offer) => Ok(Arc::clone(offer)),
            Self::Minted(mint) => mint.offer(name, address, SystemTime::now()),
        }
    }
}

impl Mint {
    fn offer(
        &self,
        name: Option<&str>,
        address: Option<IpAddr>,
        now: SystemTime,
    ) -> Result<Arc<Offer>, rustls::Error> {
        // A name that no certificate can carry is as good as none.
        let name = name.filter(|name| DnsName::try_from(*name).is_ok());
        let names = (name.map(str::to_ascii_lowercase), address);
        let mut offers = self.offers.lock().unwrap_or_else(PoisonError::into_inner);
        // Clocks are set back, too.
        if let Some((offer, is_good)) = offers.get(&names)
            && is_good.contains(&now)
        {
            return Ok(Arc::clone(offer));
        }
        let minted = self
            .authority
            .mint(names.0.as_deref(), address)
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let offer = Arc::new(Offer::new(minted.chain, minted.key, self.verifier.clone())?);
        make_room(&mut offers, &names);
        offers.insert(names, (Arc::clone(&offer), minted.is_good));
        Ok(offer)
    }
}

/// Drops the oldest when a new one would be too many.
fn make_room(offers: &mut Offers, wanted: &Names) {
    if offers.len() < MAX_MINTED || offers.contains_key(wanted) {
        return;
    }
    let oldest = offers
        .iter()
        .min_by_key(|(_, (_, is_good))| is_good.end)
        .map(|(names, _)| names.clone());
    if let Some(oldest) = oldest {
        offers.remove(&oldest);
    }
}

impl Offer {
    fn new(
        chain: Vec<CertificateDer<'static>>,
        key: Key,
        verifier: Verifier,
    ) -> Result<Self, rustls::Error> {
        let leaf = chain
            .first()
            .cloned()
            .ok_or(rustls::Error::NoCertificatesPresented)?;
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?;
        let builder = match verifier {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let shown = SingleCertAndKey::from(certified(chain, key)?);
        let mut config = builder.with_cert_resolver(Arc::new(shown));
        config.alpn_protocols = vec![ALPN.to_vec()];
        // As the server itself (SSL_OP_NO_TICKET, no session cache): a resumed session would keep a client
        // certificate's standing after it was taken away.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self {
            config: Arc::new(config),
            leaf,
        })
    }
}

/// A certificate with its key, which is wiped here: the provider has its own copy.
pub(super) fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: Key,
) -> Result<CertifiedKey, rustls::Error> {
    let certified = CertifiedKey::new(chain, any_supported_type(&key)?);
    let of_version_1 = certified.cert.first().and_then(key_of_version_1);
    match (of_version_1, certified.key.public_key()) {
        (Some(expected), Some(own)) if expected == own => {}
        (Some(_), _) => {
            return Err(rustls::Error::InconsistentKeys(
                InconsistentKeys::KeyMismatch,
            ));
        }
        (None, _) => certified.keys_match()?,
    }
    Ok(certified)
}

/// What is wrong with a key, for people.
pub(super) fn mismatch(error: &rustls::Error, certificate: &Path) -> String {
    match error {
        rustls::Error::InconsistentKeys(_) => {
            format!("not the key of {}", certificate.display())
        }
        other => format!("cannot be used with {}: {other}", certificate.display()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn mint() -> (tempfile::TempDir, Mint) {
        let directory = tempfile::tempdir().unwrap();
        authority::init(directory.path()).unwrap();
        let Certificates::Minted(mint) =
            Certificates::from_authority(directory.path(), None).unwrap()
        else {
            panic!("an authority mints");
        };
        (directory, *mint)
    }

    #[test]
    fn a_certificate_is_minted_once_for_each_name_and_again_before_it_expires() {
        let (_directory, mint) = mint();
        let now = SystemTime::now();
        let at = |name, now| mint.offer(name, None, now).unwrap().leaf.clone();
        let first = at(Some("db.example"), now);
        assert_eq!(at(Some("DB.Example"), now), first, "names have no case");
        assert_ne!(at(Some("other.example"), now), first);
        assert_ne!(at(None, now), first);
        let day = Duration::from_secs(24 * 3600);
        assert_eq!(at(Some("db.example"), now + 4 * day), first);
        assert_ne!(at(Some("db.example"), now + 5 * day), first);
    }

    #[test]
    fn what_was_minted_by_a_clock_that_ran_ahead_is_minted_again() {
        let (_directory, mint) = mint();
        let now = SystemTime::now();
        let first = mint.offer(None, None, now).unwrap().leaf.clone();
        let before = now - Duration::from_secs(2 * 3600);
        assert_ne!(mint.offer(None, None, before).unwrap().leaf, first);
    }

    #[test]
    fn names_that_clients_make_up_do_not_pile_up() {
        let (_directory, mint) = mint();
        let offer = mint.offer(None, None, SystemTime::now()).unwrap();
        {
            let mut offers = mint.offers.lock().unwrap();
            offers.clear();
            for number in 0..MAX_MINTED {
                let age = Duration::from_secs(number as u64);
                let names = (Some(number.to_string()), None);
                let now = SystemTime::now();
                let is_good = now..now + Duration::from_secs(1_000_000) + age;
                offers.insert(names, (Arc::clone(&offer), is_good));
            }
        }
        mint.offer(Some("one.more"), None, SystemTime::now())
            .unwrap();
        let offers = mint.offers.lock().unwrap();
        assert_eq!(offers.len(), MAX_MINTED);
        assert!(!offers.contains_key(&(Some("0".to_owned()), None)));
        assert!(offers.contains_key(&(Some("one.more".to_owned()), None)));
    }
}
