//! The file that a client's path leads to, and the name that everybody's policies know it by.
//!
//! The file is looked for as the client would find it; the name is looked for from our own root, and is never one that
//! somebody else chose: not what was dialled, and not what a server was bound to.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use proxy_ebpf::unix::DialledPath;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;
use tracing::debug;

use crate::destination::SocketPath;
use crate::identify::Whereabouts;
use crate::wire::text::printable;

/// The kernel's table of unix sockets in our own network namespace.
const UNIX_SOCKETS: &str = "/proc/net/unix";
/// Servers' paths that are compared with a file that is looked for.
const MAX_CANDIDATES: usize = 256;
/// How often a path is walked that somebody disturbs: a walk takes microseconds, and so does a rename.
const MAX_WALKS: usize = 256;

/// Opens the file as the process would find it. Links into other processes are not followed: those of /proc/self would
/// lead into our own.
pub(super) fn open_in(whereabouts: &Whereabouts, path: &Path) -> io::Result<OwnedFd> {
    let from_root = match &whereabouts.directory {
        Some(directory) => directory.join(path),
        None if path.is_absolute() => path.to_owned(),
        None => return Err(io::ErrorKind::NotFound.into()),
    };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let walk = || openat2(&whereabouts.root, &from_root, flags, Mode::empty(), resolve);
    Ok(undisturbed(walk)?)
}

/// Walks again where the kernel could not tell whether `..` led out of the root, because something was renamed or mounted
/// anywhere on this host meanwhile (openat2(2), `EAGAIN`).
fn undisturbed<T>(mut walk: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    for _ in 1..MAX_WALKS {
        match walk() {
            Err(Errno::AGAIN) => std::thread::yield_now(),
            walked => return walked,
        }
    }
    walk()
}

/// The name of a server's socket, by which everybody's policies know it: where it is on this host, whatever it is called
/// there. A file that is not there by that path, because it is in a mount namespace of its client's, may be one of this
/// host's by another path; if not, its mount namespace is part of the name. What was dialled never is: it may be a link
/// that is there for its client alone.
pub(super) fn name_of(file: &OwnedFd, mounts: &str, port: u16) -> io::Result<SocketPath> {
    let path = fs::read_link(own_path(file))?;
    let wanted = Inode::of(file)?;
    let named = |path: &Path| {
        let path = path.as_os_str().as_bytes();
        SocketPath::new(path).unwrap_or_else(|| SocketPath::at(printable(path), port))
    };
    if wanted.is_at(&path) {
        return Ok(named(&path));
    }
    let table = BufReader::new(File::open(UNIX_SOCKETS)?);
    if let Some(path) = servers_among(table).find_map(|bound| wanted.behind(&bound)) {
        return Ok(named(&path));
    }
    debug!(path = %path.display(), mounts, "a socket of another mount namespace's");
    Ok(named(
        &Path::new(mounts).join(path.strip_prefix("/").unwrap_or(&path)),
    ))
}

/// What makes a file the one that it is, whatever leads to it.
#[derive(Debug, PartialEq, Eq)]
struct Inode {
    device: u64,
    number: u64,
}

impl Inode {
    fn of(file: &OwnedFd) -> io::Result<Self> {
        let state = fstat(file)?;
        Ok(Self {
            device: state.st_dev,
            number: state.st_ino,
        })
    }

    /// Whether this path leads to it without a link on the way: whoever may make one could lend another server's name
    /// to this one.
    fn is_at(&self, path: &Path) -> bool {
        open_here(
            path,
            ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
        )
        .and_then(|file| Self::of(&file))
        .is_ok_and(|found| found == *self)
    }

    /// Where it is, if the path that a server was bound to leads to it. A server may have been told its directory by a
    /// link (/var/run); what the link leads to is told by the kernel, and the name is that.
    fn behind(&self, bound: &Path) -> Option<PathBuf> {
        let file = open_here(bound, ResolveFlags::NO_MAGICLINKS).ok()?;
        let path = fs::read_link(own_path(&file)).ok()?;
        self.is_at(&path).then_some(path)
    }
}

/// Opens a file by its path on this host, without any rights to it.
fn open_here(path: &Path, resolve: ResolveFlags) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    Ok(openat2(CWD, path, flags, Mode::empty(), resolve)?)
}

/// The paths that servers are bound to. What else is in the kernel's table is anybody's to fill: it is read line by line,
/// and what does not look like a server's path is not looked at. Each counts once: a server's sessions have its path too.
fn servers_among(table: impl BufRead) -> impl Iterator<Item = PathBuf> {
    let is_servers =
        |path: &&[u8]| DialledPath::new(path).is_some_and(|path| path.port().is_some());
    let mut seen = HashSet::new();
    table
        .split(b'\n')
        .map_while(Result::ok)
        .filter_map(move |line| {
            let begin = line.iter().position(|byte| *byte == b'/')?;
            let path = line.get(begin..).filter(is_servers)?;
            let path = PathBuf::from(std::ffi::OsStr::from_bytes(path));
            seen.insert(path.clone()).then_some(path)
        })
        .take(MAX_CANDIDATES)
}

/// A path to what a descriptor of ours is open on.
pub(super) fn own_path(file: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    const SOCKET: &str = ".s.PGSQL.5432";

    /// A directory with a server's socket in `real`, and `linked` that leads there.
    fn server_behind_a_link() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let (real, linked) = (root.join("real"), root.join("linked"));
        fs::create_dir(&real).unwrap();
        symlink(&real, &linked).unwrap();
        drop(UnixListener::bind(linked.join(SOCKET)).unwrap());
        (directory, real.join(SOCKET), linked.join(SOCKET))
    }

    fn inode(path: &Path) -> Inode {
        Inode::of(&open_here(path, ResolveFlags::empty()).unwrap()).unwrap()
    }

    #[test]
    fn a_server_that_was_bound_through_a_link_is_known_by_where_it_is() {
        let (_directory, real, linked) = server_behind_a_link();
        let wanted = inode(&real);
        assert_eq!(wanted.behind(&real), Some(real.clone()));
        assert_eq!(wanted.behind(&linked), Some(real.clone()));
        assert!(wanted.is_at(&real) && !wanted.is_at(&linked));
    }

    #[test]
    fn what_leads_to_another_file_or_through_a_process_tells_nothing() {
        let (directory, real, _) = server_behind_a_link();
        let other = directory.path().join(SOCKET);
        drop(UnixListener::bind(&other).unwrap());
        let wanted = inode(&real);
        assert_eq!(wanted.behind(&other), None);
        let through = Path::new("/proc/self/root").join(real.strip_prefix("/").unwrap());
        assert_eq!(wanted.behind(&through), None);
        fs::remove_file(&real).unwrap();
        assert_eq!(wanted.behind(&real), None);
    }

    #[test]
    fn a_walk_that_is_disturbed_is_walked_again_but_not_for_ever() {
        let disturbed = |times: usize| {
            let mut walks = 0;
            let walked = undisturbed(|| {
                walks += 1;
                (walks > times).then_some(()).ok_or(Errno::AGAIN)
            });
            (walked, walks)
        };
        assert_eq!(disturbed(0), (Ok(()), 1));
        assert_eq!(disturbed(MAX_WALKS - 1), (Ok(()), MAX_WALKS));
        assert_eq!(disturbed(MAX_WALKS), (Err(Errno::AGAIN), MAX_WALKS));
        let mut walks = 0;
        let refused: rustix::io::Result<()> = undisturbed(|| {
            walks += 1;
            Err(Errno::ACCESS)
        });
        assert_eq!((refused, walks), (Err(Errno::ACCESS), 1));
    }

    #[test]
    fn a_server_counts_once_however_many_sessions_it_has() {
        let line = |path: &str| format!("0: 00000002 00000000 00010000 0001 01 1 {path}\n");
        let many = line("/a/.s.PGSQL.1").repeat(2 * MAX_CANDIDATES);
        let table = many + &line("/b/other") + &line("/b/.s.PGSQL.2") + &line("@/c/.s.PGSQLx3");
        let found: Vec<PathBuf> = servers_among(table.as_bytes()).collect();
        let expected = ["/a/.s.PGSQL.1", "/b/.s.PGSQL.2"].map(PathBuf::from);
        assert_eq!(found, expected);
    }
}
