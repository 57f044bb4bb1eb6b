//! What tells a file, and each state of its contents, from all others.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::executable;

/// A file changed this recently may change again without its times showing it: what it says is not remembered.
const SETTLING_TIME: Duration = Duration::from_secs(2);

/// A file as it was at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FileState {
    pub(super) device: (u64, u64),
    pub(super) inode: u64,
    pub(super) size: u64,
    pub(super) modified: (i64, i64),
    pub(super) changed: (i64, i64),
}

impl FileState {
    pub(super) fn of(file: &Metadata) -> Self {
        Self {
            device: executable::device(file),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }

    /// Whether the last change is so long ago that another would have another time.
    pub(super) fn has_settled(&self) -> bool {
        let changed = u64::try_from(self.changed.0).map(Duration::from_secs);
        let age = changed
            .ok()
            .and_then(|changed| SystemTime::now().duration_since(UNIX_EPOCH + changed).ok());
        age.is_some_and(|age| age > SETTLING_TIME)
    }
}
