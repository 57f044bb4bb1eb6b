//! Where records end up: standard output, a file, or the journal.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use crate::config::SinkKind;

/// The journal's native socket (systemd, "Journal native protocol").
const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";
/// Records are for the owner's eyes.
const FILE_MODE: u32 = 0o600;

/// Why a sink cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("audit sink {sink}: {source}")]
pub struct SinkError {
    sink: String,
    source: io::Error,
}

impl SinkError {
    /// The writer's thread could not be started.
    pub(super) fn thread(source: io::Error) -> Self {
        Self {
            sink: "writer thread".to_owned(),
            source,
        }
    }
}

/// An open sink. Writes may be partial; the writer keeps the rest of the line.
pub(super) enum Sink {
    Stdout,
    File { path: PathBuf, file: File },
    Journal(UnixDatagram),
}

impl Sink {
    pub(super) fn open(kind: &SinkKind) -> Result<Self, SinkError> {
        match kind {
            SinkKind::Stdout => Ok(Self::Stdout),
            SinkKind::File(path) => {
                let file = open_file(path).map_err(|source| SinkError {
                    sink: path.display().to_string(),
                    source,
                })?;
                Ok(Self::File {
                    path: path.clone(),
                    file,
                })
            }
            SinkKind::Journald => {
                let connect = || -> io::Result<UnixDatagram> {
                    let socket = UnixDatagram::unbound()?;
                    socket.connect(JOURNAL_SOCKET)?;
                    Ok(socket)
                };
                connect().map(Self::Journal).map_err(|source| SinkError {
                    sink: format!("journald at {JOURNAL_SOCKET}"),
                    source,
                })
            }
        }
    }

    /// Called at the start of a line: a file that was moved away or removed is opened again under its name.
    pub(super) fn refresh(&mut self) -> io::Result<()> {
        if let Self::File { path, file } = self {
            let same = std::fs::metadata(&*path).is_ok_and(|named| {
                file.metadata()
                    .is_ok_and(|open| (named.dev(), named.ino()) == (open.dev(), open.ino()))
            });
            if !same {
                *file = open_file(path)?;
            }
        }
        Ok(())
    }

    /// Writes from a line (with its newline); returns how much was taken.
    pub(super) fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                let written = stdout.write(line)?;
                stdout.flush()?;
                Ok(written)
            }
            Self::File { file, .. } => file.write(line),
            Self::Journal(socket) => {
                socket.send(&journal_entry(line.strip_suffix(b"\n").unwrap_or(line)))?;
                Ok(line.len())
            }
        }
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(FILE_MODE)
        .open(path)
}

/// One entry of the journal's native protocol; a JSON line has no newline inside, so no field needs the binary form.
fn journal_entry(line: &[u8]) -> Vec<u8> {
    let mut entry = b"SYSLOG_IDENTIFIER=pgusher\nPRIORITY=6\nPGUSHER_AUDIT=1\nMESSAGE=".to_vec();
    entry.extend_from_slice(line);
    entry.push(b'\n');
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_file_is_private_and_reappears_after_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let mut sink = Sink::open(&SinkKind::File(path.clone())).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        sink.write(b"one\n").unwrap();
        std::fs::rename(&path, dir.path().join("audit.jsonl.1")).unwrap();
        sink.refresh().unwrap();
        sink.write(b"two\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two\n");
        assert_eq!(
            std::fs::read(dir.path().join("audit.jsonl.1")).unwrap(),
            b"one\n"
        );
    }

    #[test]
    fn a_journal_entry_carries_the_line_as_its_message() {
        let entry = String::from_utf8(journal_entry(b"{\"v\":1}")).unwrap();
        assert!(entry.ends_with("MESSAGE={\"v\":1}\n"), "{entry}");
        assert_eq!(entry.lines().filter(|line| line.contains('=')).count(), 4);
    }

    #[test]
    fn a_sink_that_cannot_be_opened_is_named() {
        let Err(error) = Sink::open(&SinkKind::File("/nonexistent/audit".into())) else {
            panic!("a file in a missing folder was opened");
        };
        assert!(error.to_string().contains("/nonexistent/audit"), "{error}");
    }
}
