//! Where records end up: standard output, a file, or the journal.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use nix::sys::socket::sockopt::SndBufForce;
use socket2::SockRef;

use crate::config::SinkKind;

/// The journal's native socket (systemd, "Journal native protocol").
const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";
/// As sd_journal_send(3): a record is one datagram.
const JOURNAL_SEND_BUFFER_BYTES: usize = 8 << 20;
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
    /// A copy of the descriptor, so that nothing is buffered behind the writer's back.
    Stdout(File),
    File {
        path: PathBuf,
        file: File,
        /// Nothing of ours is in it yet: a crash may have cut its last line off.
        is_as_found: bool,
    },
    Journal(UnixDatagram),
}

impl Sink {
    /// Opens it; to the journal, `journal` is connected.
    pub(super) fn open(kind: &SinkKind, journal: Option<UnixDatagram>) -> Result<Self, SinkError> {
        let opened = match kind {
            SinkKind::Stdout => io::stdout()
                .as_fd()
                .try_clone_to_owned()
                .map(File::from)
                .map(Self::Stdout),
            SinkKind::File(path) => open_file(path).map(|file| Self::File {
                path: path.clone(),
                file,
                is_as_found: true,
            }),
            SinkKind::Journald => journal.map_or_else(journal_socket, Ok).and_then(|socket| {
                socket.connect(JOURNAL_SOCKET)?;
                Ok(Self::Journal(socket))
            }),
        };
        opened.map_err(|source| SinkError {
            sink: match kind {
                SinkKind::Stdout => "stdout".to_owned(),
                SinkKind::File(path) => path.display().to_string(),
                SinkKind::Journald => format!("journald at {JOURNAL_SOCKET}"),
            },
            source,
        })
    }

    /// Called at the start of a line, before a batch of them, and when a line cannot be finished: a file that was moved away or
    /// removed is opened again under its name. Tells whether it was.
    pub(super) fn refresh(&mut self) -> io::Result<bool> {
        if let Self::File {
            path,
            file,
            is_as_found,
        } = self
        {
            let same = std::fs::metadata(&*path).is_ok_and(|named| {
                file.metadata()
                    .is_ok_and(|open| (named.dev(), named.ino()) == (open.dev(), open.ino()))
            });
            if !same {
                *file = open_file(path)?;
                *is_as_found = true;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Writes from lines (each with its newline); returns how much was taken. The journal takes one line at a time.
    pub(super) fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(file) => file.write(lines),
            Self::File {
                file, is_as_found, ..
            } => {
                if *is_as_found {
                    end_last_line(file)?;
                    *is_as_found = false;
                }
                file.write(lines)
            }
            Self::Journal(socket) => {
                let line = lines.split_inclusive(|byte| *byte == b'\n').next();
                let line = line.unwrap_or_default();
                let entry = journal_entry(line.strip_suffix(b"\n").unwrap_or(line));
                if let Err(error) = socket.send(&entry) {
                    if matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotConnected
                    ) {
                        // journald was restarted: the next attempt finds its new socket. Ours stays, with its large buffer.
                        socket.connect(JOURNAL_SOCKET)?;
                    }
                    return Err(error);
                }
                Ok(line.len())
            }
        }
    }
}

/// Opens a file for appending.
fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(FILE_MODE)
        .open(path)
}

/// Ends a line that a crash cut off, so that it spoils no record but its own. Not before there is a record: whoever wrote it may
/// live, as a predecessor does, and have yet to finish it; and a full disk is no reason not to start.
fn end_last_line(file: &mut File) -> io::Result<()> {
    if file.metadata()?.is_file() && file.seek(SeekFrom::End(0))? > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(())
}

/// A socket to write to the journal with. To be made while CAP_NET_ADMIN is there: without it no entry can be longer than
/// what the host allows everybody (net.core.wmem_max), and a long text would be lost for that.
///
/// # Errors
/// The operating system's reason.
pub fn journal_socket() -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    if nix::sys::socket::setsockopt(&socket, SndBufForce, &JOURNAL_SEND_BUFFER_BYTES).is_err() {
        SockRef::from(&socket).set_send_buffer_size(JOURNAL_SEND_BUFFER_BYTES)?;
    }
    Ok(socket)
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
        let mut sink = Sink::open(&SinkKind::File(path.clone()), None).unwrap();
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
    fn a_line_that_a_crash_cut_off_is_ended_before_the_next_record() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        std::fs::write(&path, "{\"v\":1}\n{\"v\"").unwrap();
        for _ in 0..2 {
            let mut sink = Sink::open(&SinkKind::File(path.clone()), None).unwrap();
            sink.refresh().unwrap();
            sink.write(b"{\"v\":2}\n").unwrap();
        }
        let expected = "{\"v\":1}\n{\"v\"\n{\"v\":2}\n{\"v\":2}\n";
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
    }

    #[test]
    fn a_line_that_its_writer_ends_meanwhile_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        std::fs::write(&path, "{\"v\"").unwrap();
        let mut sink = Sink::open(&SinkKind::File(path.clone()), None).unwrap();
        let mut writer = OpenOptions::new().append(true).open(&path).unwrap();
        writer.write_all(b":1}\n").unwrap();
        sink.write(b"{\"v\":2}\n").unwrap();
        let expected = "{\"v\":1}\n{\"v\":2}\n";
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
    }

    #[test]
    fn a_journal_entry_carries_the_line_as_its_message() {
        let entry = String::from_utf8(journal_entry(b"{\"v\":1}")).unwrap();
        assert!(entry.ends_with("MESSAGE={\"v\":1}\n"), "{entry}");
        assert_eq!(entry.lines().filter(|line| line.contains('=')).count(), 4);
    }

    #[test]
    fn a_sink_that_cannot_be_opened_is_named() {
        let Err(error) = Sink::open(&SinkKind::File("/nonexistent/audit".into()), None) else {
            panic!("a file in a missing folder was opened");
        };
        assert!(error.to_string().contains("/nonexistent/audit"), "{error}");
    }
}
