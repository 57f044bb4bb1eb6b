//! Certificates and keys from PEM files.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

/// Far above any bundle of certificates; what is longer is something else.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;
/// Permissions nobody but a key's owner may have.
const GROUP_AND_OTHERS: u32 = 0o077;
/// The same where root is the owner: a group may read it, as Debian's `ssl-cert` does.
const GROUP_WRITE_AND_OTHERS: u32 = 0o037;
const ROOT: u32 = 0;

/// A private key, wiped when dropped.
pub(super) type Key = Zeroizing<PrivateKeyDer<'static>>;

/// Why a file is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error("cannot read {path}: {source}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is not a file, or longer than {MAX_FILE_BYTES} bytes", path = .0.display())]
    NoFile(PathBuf),
    #[error(
        "{path} has mode {mode:04o}: group or others have access to the private key; make it 0600, or 0640 if it is root's",
        path = path.display()
    )]
    Exposed { path: PathBuf, mode: u32 },
    #[error("{path} holds no certificate in PEM format", path = .0.display())]
    NoCertificate(PathBuf),
    #[error(
        "{path} holds no private key in PEM format (encrypted keys cannot be used)",
        path = .0.display()
    )]
    NoKey(PathBuf),
    #[error("{path}: {source}", path = path.display())]
    Untrustworthy {
        path: PathBuf,
        source: rustls::Error,
    },
}

/// Reads every certificate of a file, in order.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let text = read(path, false)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    found
        .ok()
        .filter(|list| !list.is_empty())
        .ok_or_else(|| FileError::NoCertificate(path.to_path_buf()))
}

/// Reads a private key that nobody else can read but whom root lets.
pub(super) fn private_key(path: &Path) -> Result<Key, FileError> {
    let text = private_text(path)?;
    PrivateKeyDer::from_pem_slice(text.as_bytes())
        .map(Zeroizing::new)
        .map_err(|_| FileError::NoKey(path.to_path_buf()))
}

/// The same for any text.
pub(super) fn private_text(path: &Path) -> Result<Zeroizing<String>, FileError> {
    read(path, true)
}

/// Reads a file that anybody may read.
pub(super) fn public_text(path: &Path) -> Result<String, FileError> {
    read(path, false).map(|text| text.to_string())
}

fn read(path: &Path, is_private: bool) -> Result<Zeroizing<String>, FileError> {
    let failed = |source| FileError::Read {
        path: path.to_path_buf(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() || metadata.len() > MAX_FILE_BYTES {
        return Err(FileError::NoFile(path.to_path_buf()));
    }
    let mode = metadata.mode() & 0o7777;
    if is_private && is_exposed(mode, metadata.uid()) {
        return Err(FileError::Exposed {
            path: path.to_path_buf(),
            mode,
        });
    }
    // Room for all of it at once: growing would leave copies behind that nobody wipes.
    let room = usize::try_from(metadata.len())
        .unwrap_or(0)
        .saturating_add(1);
    let mut text = Zeroizing::new(String::with_capacity(room));
    file.take(MAX_FILE_BYTES)
        .read_to_string(&mut text)
        .map_err(failed)?;
    Ok(text)
}

/// Whether a key's permissions are too wide, as libpq sees it (`initialize_SSL` in fe-secure-openssl.c); the server does
/// too (`check_ssl_key_file_permissions` in be-secure-common.c), but never runs as root.
fn is_exposed(mode: u32, owner: u32) -> bool {
    let forbidden = match owner {
        ROOT => GROUP_WRITE_AND_OTHERS,
        _ => GROUP_AND_OTHERS,
    };
    mode & forbidden != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_may_let_a_group_read_a_key() {
        let postgres = 101;
        for mode in [0o400, 0o600, 0o700] {
            assert!(!is_exposed(mode, ROOT) && !is_exposed(mode, postgres));
        }
        for mode in [0o440, 0o640] {
            assert!(!is_exposed(mode, ROOT) && is_exposed(mode, postgres));
        }
        for mode in [0o604, 0o610, 0o620, 0o644, 0o660, 0o601] {
            assert!(
                is_exposed(mode, ROOT) && is_exposed(mode, postgres),
                "{mode:o}"
            );
        }
    }
}
