//! This host's files of users and groups, remembered for as long as they are what they were.
//!
//! Only what libc would answer too is answered here: where nsswitch.conf(5) has the files asked first, and no line of
//! theirs is one that needs a guess. What they do not have, and every other database, is libc's to look up, each time
//! anew.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::fstatfs;

use super::file_state::FileState;

/// The largest file that is remembered.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;
/// Those whose files do not change without their times being known here at once (include/uapi/linux/magic.h): ext2 to
/// ext4, XFS, Btrfs, tmpfs, ramfs, overlayfs, F2FS, ZFS, bcachefs, EROFS, SquashFS. Others may be somebody else's to
/// change, over a network.
const LOCAL_FILE_SYSTEMS: [u64; 11] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0x0102_1994,
    0x8584_58f6,
    0x794c_7630,
    0xf2f5_2010,
    0x2fc1_2fc1,
    0xca45_1a4e,
    0xe0f5_e1e2,
    0x7371_7368,
];
/// Fields of a line: passwd(5), group(5).
const USER_FIELDS: usize = 7;
const GROUP_FIELDS: usize = 4;

/// Users and groups.
#[derive(Debug)]
pub(super) struct Databases {
    users: Database,
    groups: Database,
}

impl Databases {
    /// Those of the host whose settings are in this directory.
    pub(super) fn in_directory(settings: &Path) -> Self {
        let database = |name: &'static str, file: &str, fields| Database {
            name,
            fields,
            file: settings.join(file),
            switch: settings.join("nsswitch.conf"),
            is_settled: FileState::has_settled,
            known: Mutex::default(),
        };
        Self {
            users: database("passwd", "passwd", USER_FIELDS),
            groups: database("group", "group", GROUP_FIELDS),
        }
    }

    /// The names of a user, its group, and each of the other groups, as far as the files have them.
    pub(super) fn find(&self, uid: u32, gids: &[u32]) -> (Option<String>, Vec<Option<String>>) {
        let users = self.users.find(&[uid]).into_iter().next().flatten();
        (users, self.groups.find(gids))
    }
}

/// One kind of names.
#[derive(Debug)]
struct Database {
    /// What nsswitch.conf calls it.
    name: &'static str,
    fields: usize,
    file: PathBuf,
    switch: PathBuf,
    is_settled: fn(&FileState) -> bool,
    known: Mutex<Option<Known>>,
}

/// The names of a file, and the states of the two files that this rests on.
#[derive(Debug)]
struct Known {
    states: [FileState; 2],
    /// None if the file is one for libc to read.
    names: Option<HashMap<u32, String>>,
}

impl Database {
    fn find(&self, ids: &[u32]) -> Vec<Option<String>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let states = self.states();
        if states.is_none() || known.as_ref().map(|known| known.states) != states {
            *known = states.and_then(|states| self.read(states));
        }
        let names = known.as_ref().and_then(|known| known.names.as_ref());
        let name = |id| names.and_then(|names| names.get(id).cloned());
        ids.iter().map(name).collect()
    }

    fn states(&self) -> Option<[FileState; 2]> {
        let state = |path| Some(FileState::of(&fs::metadata(path).ok()?));
        Some([state(&self.switch)?, state(&self.file)?])
    }

    /// Reads both files, if they stay in these states and are to.
    fn read(&self, states: [FileState; 2]) -> Option<Known> {
        if !states.iter().all(self.is_settled) {
            return None;
        }
        let [switch, file] = states;
        let switch = contents(&self.switch, switch);
        let asks_file_first = switch.is_some_and(|switch| asks_files_first(&switch, self.name));
        let names = (asks_file_first && file.size <= MAX_FILE_BYTES)
            .then(|| contents(&self.file, file))
            .flatten()
            .and_then(|text| names_in(&text, self.fields));
        Some(Known { states, names })
    }
}

/// The contents of a file in this state; none of another, of one that is no text, or of one whose state somebody else may
/// know better.
fn contents(path: &Path, state: FileState) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let kind = u64::try_from(fstatfs(&file).ok()?.f_type).ok()?;
    if !LOCAL_FILE_SYSTEMS.contains(&kind) {
        return None;
    }
    let mut text = String::new();
    file.by_ref()
        .take(MAX_FILE_BYTES)
        .read_to_string(&mut text)
        .ok()?;
    let now = FileState::of(&file.metadata().ok()?);
    (now == state).then_some(text)
}

/// Whether libc asks the file first, and no further if it answers.
fn asks_files_first(switch: &str, database: &str) -> bool {
    let mut lines = switch.lines().filter_map(|line| {
        let line = line.split('#').next()?;
        let line = line.trim_start();
        let (name, services) = line.split_once(|end: char| end == ':' || end.is_whitespace())?;
        (name == database).then(|| services.trim_start_matches([':', ' ', '\t']))
    });
    // Of two lines somebody would have to say which counts.
    let (Some(services), None) = (lines.next(), lines.next()) else {
        return false;
    };
    let mut services = services.split_whitespace();
    services.next() == Some("files") && services.next().is_none_or(|next| !next.starts_with('['))
}

/// The names by their ids, the first of each; none if a line is not `name:x:ID:` and so on.
fn names_in(text: &str, fields: usize) -> Option<HashMap<u32, String>> {
    let mut names = HashMap::new();
    for line in text
        .split('\n')
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let parts: Vec<&str> = line.split(':').collect();
        let (name, id) = (*parts.first()?, *parts.get(2)?);
        let is_plain = parts.len() == fields
            && !name.is_empty()
            && !name.starts_with(['+', '-'])
            && !line.contains(['\0', '\r'])
            && !line.starts_with(char::is_whitespace)
            && is_number(id)
            // libc passes over a user whose group is no number.
            && (fields != USER_FIELDS || parts.get(3).is_some_and(|group| is_number(group)));
        if !is_plain {
            return None;
        }
        names
            .entry(id.parse().ok()?)
            .or_insert_with(|| name.to_owned());
    }
    Some(names)
}

fn is_number(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u32>().is_ok()
}

#[cfg(test)]
mod tests;
