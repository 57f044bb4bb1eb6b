//! The SHA-256 of executables, each file hashed once for as long as it stays as it is.
//!
//! A hash says something only if the bytes hashed are those the kernel maps. A file system that its user serves (FUSE)
//! or has mounted in a namespace of the user's own can show each reader something else, so only files on what is
//! mounted in pgusher's own mount namespace are hashed, and FUSE never is. A file that runs cannot be written
//! (ETXTBSY); one that was replaced is another file.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::Read as _;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use tokio::sync::{Semaphore, watch};
use tracing::debug;

use super::file_state::FileState;
use crate::wire::text::hex;

/// How long a connection waits for the hash of its executable.
const WAIT_LIMIT: Duration = Duration::from_secs(2);
/// How long hashing may take in all; what takes longer than [`WAIT_LIMIT`] is there for the next connection.
const HASHING_LIMIT: Duration = Duration::from_secs(30);
/// The largest file that is hashed.
const MAX_FILE_BYTES: u64 = 512 * 1024 * 1024;
/// How many hashes are remembered.
const MAX_KNOWN: usize = 1024;
/// How many files may be hashed or wait for it; beyond, there is no hash.
const MAX_UNDERWAY: usize = 64;
/// How many files are hashed at once.
const MAX_HASHING: usize = 2;
const CHUNK_BYTES: usize = 128 * 1024;

/// An open executable that may be hashed.
#[derive(Debug)]
pub(super) struct Hashable {
    file: File,
    key: FileState,
}

impl Hashable {
    /// Takes an open file, if what it is made of can be trusted and it is not too large.
    pub(super) fn new(file: File, metadata: &Metadata) -> Option<Self> {
        let key = FileState::of(metadata);
        if key.size > MAX_FILE_BYTES {
            debug!(bytes = key.size, "an executable is too large to be hashed");
            return None;
        }
        if !is_mounted_here(key.device) {
            debug!(device = ?key.device, "an executable lies on what is not mounted here; it is not hashed");
            return None;
        }
        Some(Self { file, key })
    }

    /// The open file.
    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

/// Whether a device is mounted in our own mount namespace, and not by FUSE.
fn is_mounted_here((major, minor): (u64, u64)) -> bool {
    let number = format!("{major}:{minor}");
    let mounts = procfs::process::Process::myself().and_then(|own| own.mountinfo());
    mounts.is_ok_and(|mounts| {
        let mut here = mounts.into_iter().filter(|mount| mount.majmin == number);
        here.next()
            .is_some_and(|mount| !mount.fs_type.starts_with("fuse"))
    })
}

/// Hashes, known and under way.
#[derive(Debug)]
pub(super) struct Digests {
    state: Mutex<State>,
    hashing: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct State {
    known: HashMap<FileState, Known>,
    underway: HashMap<FileState, watch::Receiver<Option<String>>>,
    /// Counts the uses, to tell which is longest ago.
    uses: u64,
}

#[derive(Debug)]
struct Known {
    digest: String,
    last_used: u64,
}

impl Digests {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            hashing: Arc::new(Semaphore::new(MAX_HASHING)),
        })
    }

    /// The hash of the file in hexadecimal; none if it could not be had in time.
    ///
    /// # Cancel safety
    /// Cancel safe: hashing goes on for whoever asks next.
    pub(super) async fn sha256(self: &Arc<Self>, file: Hashable) -> Option<String> {
        let mut underway = match self.find_or_start(file)? {
            Found::Known(digest) => return Some(digest),
            Found::Underway(underway) => underway,
        };
        let outcome = tokio::time::timeout(WAIT_LIMIT, underway.wait_for(Option::is_some)).await;
        match outcome {
            Ok(Ok(digest)) => digest.clone(),
            // The task has told why.
            Ok(Err(_)) => None,
            Err(_) => {
                debug!("hashing an executable takes too long for this connection");
                None
            }
        }
    }

    fn find_or_start(self: &Arc<Self>, file: Hashable) -> Option<Found> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(digest) = state.recall(&file.key) {
            return Some(Found::Known(digest));
        }
        if let Some(underway) = state.underway.get(&file.key) {
            return Some(Found::Underway(underway.clone()));
        }
        if state.underway.len() >= MAX_UNDERWAY {
            debug!("{MAX_UNDERWAY} executables are being hashed; another is not");
            return None;
        }
        let (done, underway) = watch::channel(None);
        state.underway.insert(file.key, underway.clone());
        tokio::spawn(run(
            Arc::downgrade(self),
            Arc::clone(&self.hashing),
            file,
            done,
        ));
        Some(Found::Underway(underway))
    }

    fn finish(&self, key: FileState, digest: Option<&String>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.underway.remove(&key);
        if let Some(digest) = digest.filter(|_| key.has_settled()) {
            state.remember(key, digest.clone());
        }
    }
}

enum Found {
    Known(String),
    Underway(watch::Receiver<Option<String>>),
}

impl State {
    fn recall(&mut self, key: &FileState) -> Option<String> {
        self.uses += 1;
        let known = self.known.get_mut(key)?;
        known.last_used = self.uses;
        Some(known.digest.clone())
    }

    fn remember(&mut self, key: FileState, digest: String) {
        if self.known.len() >= MAX_KNOWN {
            let oldest = self.known.iter().min_by_key(|(_, known)| known.last_used);
            if let Some(oldest) = oldest.map(|(key, _)| *key) {
                self.known.remove(&oldest);
            }
        }
        self.uses += 1;
        let last_used = self.uses;
        self.known.insert(key, Known { digest, last_used });
    }
}

/// Hashes one file when it is its turn. Ends early when nobody is left to hash for.
async fn run(
    owner: Weak<Digests>,
    turn: Arc<Semaphore>,
    file: Hashable,
    done: watch::Sender<Option<String>>,
) {
    let key = file.key;
    let Ok(_turn) = turn.acquire_owned().await else {
        return;
    };
    let watched = Weak::clone(&owner);
    let hashing = tokio::task::spawn_blocking(move || hash(file, &watched));
    let digest = hashing.await.ok().flatten();
    if let Some(owner) = owner.upgrade() {
        owner.finish(key, digest.as_ref());
    }
    if digest.is_some() {
        done.send_replace(digest);
    }
}

fn hash(mut file: Hashable, owner: &Weak<Digests>) -> Option<String> {
    let begun = Instant::now();
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        if begun.elapsed() > HASHING_LIMIT || owner.strong_count() == 0 {
            debug!("hashing an executable was given up");
            return None;
        }
        match file.file.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => hasher.update(chunk.get(..length)?),
            Err(error) => {
                debug!(%error, "an executable cannot be read");
                return None;
            }
        }
    }
    let now = file.file.metadata().ok()?;
    // Changed while it was read: what was hashed is neither the old file nor the new one.
    (FileState::of(&now) == file.key).then(|| hex(&hasher.finalize()))
}

#[cfg(test)]
mod tests;
