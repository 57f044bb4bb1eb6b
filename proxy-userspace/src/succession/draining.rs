//! What a predecessor leaves beside the admin socket while it still serves its sessions: for whoever starts after the
//! successor has died, and hears of it from nobody.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use tracing::{debug, warn};

use crate::identify::ProcessId;

/// Behind the name of the admin socket.
const SUFFIX: &str = ".draining-";
/// The longest note: two numbers.
const MAX_NOTE_BYTES: u64 = 64;

/// A note that this instance still serves; it goes when dropped.
#[derive(Debug)]
pub struct Note {
    path: PathBuf,
}

impl Note {
    /// Leaves a note of ourselves; without one, all that is lost is that others know of us.
    pub fn leave(admin_socket: &Path) -> Option<Self> {
        let own = ProcessId::own();
        let mut path = beginning(admin_socket);
        path.push(text(own));
        let path = admin_socket.with_file_name(path);
        let write = || -> io::Result<()> {
            let mut options = OpenOptions::new();
            let mut file = options
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)?;
            file.write_all(text(own).as_bytes())
        };
        match write() {
            Ok(()) => Some(Self { path }),
            Err(error) => {
                warn!(%error, path = %path.display(), "cannot leave a note that this pgusher still serves its sessions");
                None
            }
        }
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            debug!(%error, path = %self.path.display(), "the note is gone");
        }
    }
}

/// Who has left a note and still runs. Notes of the dead are removed.
pub fn noted(admin_socket: &Path) -> Vec<ProcessId> {
    let directory = admin_socket.parent().unwrap_or(Path::new("/"));
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let beginning = beginning(admin_socket);
    let is_note = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        name.starts_with(beginning.as_encoded_bytes())
    };
    let notes = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut noted = Vec::new();
    for path in notes.filter(is_note) {
        match read(&path) {
            Some(process) if process.is_running() => noted.push(process),
            Some(_) => drop(fs::remove_file(&path)),
            None => debug!(path = %path.display(), "not a note of pgusher's"),
        }
    }
    noted
}

fn beginning(admin_socket: &Path) -> OsString {
    let mut name = admin_socket.file_name().unwrap_or_default().to_owned();
    name.push(SUFFIX);
    name
}

fn text(process: ProcessId) -> String {
    format!("{}-{}", process.pid, process.started_at_ticks)
}

/// Reads a note, if it is one: whoever it names is not intercepted. So it has to be ours, whoever may write to the directory,
/// and say what its name says, whatever file was linked to it.
fn read(path: &Path) -> Option<ProcessId> {
    let mut options = OpenOptions::new();
    let options = options
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file: File = options.open(path).ok()?;
    let metadata = file.metadata().ok()?;
    let is_ours = metadata.is_file() && metadata.uid() == nix::unistd::geteuid().as_raw();
    let mut said = String::new();
    file.take(MAX_NOTE_BYTES).read_to_string(&mut said).ok()?;
    let name = path.file_name()?.to_str()?;
    if !is_ours || !name.ends_with(&format!("{SUFFIX}{said}")) {
        return None;
    }
    let (pid, started_at_ticks) = said.split_once('-')?;
    Some(ProcessId {
        pid: pid.parse().ok()?,
        started_at_ticks: started_at_ticks.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_still_serves_is_known_until_it_has_ended() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("admin.sock");
        assert_eq!(noted(&socket), []);
        let note = Note::leave(&socket).unwrap();
        assert_eq!(noted(&socket), [ProcessId::own()]);
        assert_eq!(noted(&directory.path().join("other.sock")), []);
        drop(note);
        assert_eq!(noted(&socket), []);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn notes_of_the_dead_are_removed_and_others_are_none() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("admin.sock");
        let own = ProcessId::own();
        let dead = text(ProcessId {
            started_at_ticks: own.started_at_ticks + 1,
            ..own
        });
        let note = |name: &str| directory.path().join(format!("admin.sock{SUFFIX}{name}"));
        fs::write(note(&dead), &dead).unwrap();
        // Another file's text, as a link would have it.
        fs::write(note(&text(own)), "root:x:0").unwrap();
        fs::write(note("x"), "x").unwrap();
        std::os::unix::fs::symlink(note("x"), note("y")).unwrap();
        assert_eq!(noted(&socket), []);
        assert!(!note(&dead).exists() && note(&text(own)).exists());
    }
}
