use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::*;

/// SHA-256 of "abc" (FIPS 180-2, appendix B.1).
const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

fn open(path: &Path) -> Hashable {
    let file = File::open(path).unwrap();
    let metadata = file.metadata().unwrap();
    let key = FileState::of(&metadata);
    Hashable { file, key }
}

/// A key that nothing real has.
fn key(inode: u64, changed: i64) -> FileState {
    FileState {
        device: (0, 0),
        inode,
        size: 3,
        modified: (0, 0),
        changed: (changed, 0),
    }
}

fn known(digests: &Digests) -> usize {
    digests.state.lock().unwrap().known.len()
}

#[tokio::test]
async fn a_file_is_hashed_and_a_change_is_another_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app");
    let digests = Digests::new();
    fs::write(&path, "abc").unwrap();
    let file = open(&path);
    assert_eq!(digests.sha256(file).await.as_deref(), Some(ABC));
    fs::write(&path, "abd").unwrap();
    assert_ne!(digests.sha256(open(&path)).await.as_deref(), Some(ABC));
    // Written just now: neither is remembered.
    assert_eq!(known(&digests), 0);
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_read_has_no_hash() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app");
    fs::write(&path, "abc").unwrap();
    let file = open(&path);
    fs::write(&path, "abcd").unwrap();
    assert_eq!(Digests::new().sha256(file).await, None);
}

#[tokio::test]
async fn one_hashing_serves_all_who_ask_meanwhile() {
    let digests = Digests::new();
    // Nobody gets a turn.
    let turns = Arc::clone(&digests.hashing)
        .acquire_many_owned(u32::try_from(MAX_HASHING).unwrap())
        .await
        .unwrap();
    let path = Path::new("/proc/self/exe");
    let asking = [0; 3].map(|_| {
        let (digests, file) = (Arc::clone(&digests), open(path));
        tokio::spawn(async move { digests.sha256(file).await })
    });
    let (first, second) = (open(path), open(path));
    assert!(matches!(
        digests.find_or_start(first),
        Some(Found::Underway(_))
    ));
    assert!(matches!(
        digests.find_or_start(second),
        Some(Found::Underway(_))
    ));
    assert_eq!(digests.state.lock().unwrap().underway.len(), 1);
    drop(turns);
    let mut found = Vec::new();
    for asked in asking {
        found.push(asked.await.unwrap().unwrap());
    }
    found.dedup();
    assert_eq!(found.len(), 1);
}

#[tokio::test]
async fn a_connection_does_not_wait_longer_than_the_limit() {
    let digests = Digests::new();
    let turns = Arc::clone(&digests.hashing)
        .acquire_many_owned(u32::try_from(MAX_HASHING).unwrap())
        .await
        .unwrap();
    let begun = Instant::now();
    assert_eq!(
        digests.sha256(open(Path::new("/proc/self/exe"))).await,
        None
    );
    assert!(begun.elapsed() >= WAIT_LIMIT);
    drop(turns);
}

#[tokio::test]
async fn no_more_files_are_under_way_than_the_limit() {
    let digests = Digests::new();
    let (_done, underway) = watch::channel(None);
    for inode in 1..=u64::try_from(MAX_UNDERWAY).unwrap() {
        let mut state = digests.state.lock().unwrap();
        state.underway.insert(key(inode, 0), underway.clone());
    }
    let path = Path::new("/proc/self/exe");
    assert_eq!(digests.sha256(open(path)).await, None);
    digests.finish(key(1, 0), None);
    assert!(digests.sha256(open(path)).await.is_some());
}

#[test]
fn the_hash_used_longest_ago_is_forgotten_first() {
    let mut state = State::default();
    let most = u64::try_from(MAX_KNOWN).unwrap();
    for inode in 0..most {
        state.remember(key(inode, 0), inode.to_string());
    }
    assert_eq!(state.recall(&key(0, 0)).as_deref(), Some("0"));
    state.remember(key(most, 0), most.to_string());
    assert_eq!(state.known.len(), MAX_KNOWN);
    assert_eq!(state.recall(&key(1, 0)), None);
    assert_eq!(state.recall(&key(0, 0)).as_deref(), Some("0"));
}

#[test]
fn only_what_has_settled_is_remembered() {
    let digests = Digests::new();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let now = i64::try_from(now).unwrap();
    // From a clock that runs ahead of ours, too.
    for changed in [now, now + 3600] {
        digests.finish(key(1, changed), Some(&ABC.to_owned()));
        assert_eq!(known(&digests), 0, "{changed}");
    }
    digests.finish(key(1, now - 60), Some(&ABC.to_owned()));
    assert_eq!(known(&digests), 1);
}

#[test]
fn a_file_is_taken_only_from_what_is_mounted_here_and_up_to_the_limit() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app");
    let file = File::create(&path).unwrap();
    let taken = || {
        let file = File::open(&path).unwrap();
        let metadata = file.metadata().unwrap();
        Hashable::new(file, &metadata).is_some()
    };
    file.set_len(MAX_FILE_BYTES).unwrap();
    assert!(taken());
    file.set_len(MAX_FILE_BYTES + 1).unwrap();
    assert!(!taken());
    assert!(!is_mounted_here((0, 1 << 19)));
}
