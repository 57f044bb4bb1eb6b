//! The admin socket: a running instance's answers, over HTTP on a unix socket only its owner can open.

mod client;
mod fast_path;
mod status;
mod takeover;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use rustix::fs::Mode;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;
use tracing::error;

use crate::policy::Reloaded;

pub use client::{ClientError, fetch_status, request_policy_reload};
pub use status::{Fixed, Observed, Seen, Status, UnixCoverage};
pub use takeover::request_takeover;

/// The status document's path.
const STATUS_PATH: &str = "/v1/status";
/// Where a POST reads the policies again.
const RELOAD_PATH: &str = "/v1/policy/reload";
/// Where a POST begins a takeover, and the connection becomes a [`crate::succession::Channel`].
const TAKEOVER_PATH: &str = "/v1/takeover";
/// Questions that may wait to be accepted.
const BACKLOG: i32 = 128;

/// Why there is no admin socket.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Another instance answers there.
    #[error(
        "another pgusher is running: it answers at {0}; stop it, take over from it (pgusher run --takeover), or give this one its own --admin-socket"
    )]
    InUse(PathBuf),
    /// The socket cannot be made.
    #[error("cannot make the admin socket {path}: {source}")]
    Bind {
        /// The socket's path.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
}

/// A bound admin socket; its file goes when it is dropped.
pub struct AdminSocket {
    listener: UnixListener,
    file: SocketFile,
}

impl AdminSocket {
    /// Binds the socket with mode 0600, in place of one that a dead instance left behind.
    ///
    /// # Errors
    /// [`AdminError`]
    pub fn bind(path: &Path) -> Result<Self, AdminError> {
        let failed = |source| AdminError::Bind {
            path: path.to_path_buf(),
            source,
        };
        if UnixStream::connect(path).is_ok() {
            return Err(AdminError::InUse(path.to_path_buf()));
        }
        if let Some(directory) = path.parent().filter(|directory| !directory.exists()) {
            fs::create_dir_all(directory).map_err(failed)?;
            fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).map_err(failed)?;
        }
        remove_dead(path).map_err(failed)?;
        Self::bind_there(path).map_err(failed)
    }

    /// Binds a socket beside the one that another instance answers at, to [`AdminSocket::answer_at`] its place later.
    ///
    /// # Errors
    /// [`AdminError::Bind`]
    pub fn bind_beside(path: &Path) -> Result<Self, AdminError> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{}", std::process::id()));
        let beside = PathBuf::from(beside);
        let bind = || {
            remove_dead(&beside)?;
            Self::bind_there(&beside)
        };
        bind().map_err(|source| AdminError::Bind {
            path: beside.clone(),
            source,
        })
    }

    /// Answers at `path` from now on, in place of whoever did.
    pub fn answer_at(mut self, path: &Path) -> Self {
        if self.file.path == path {
            return self;
        }
        match fs::rename(&self.file.path, path) {
            Ok(()) => self.file.path = path.to_path_buf(),
            Err(error) => {
                error!(%error, path = %self.file.path.display(), "the admin socket stays where it is");
            }
        }
        self
    }

    fn bind_there(path: &Path) -> io::Result<Self> {
        let listener = bind_privately(path)?;
        let inode = fs::symlink_metadata(path)?.ino();
        Ok(Self {
            listener,
            file: SocketFile {
                path: path.to_path_buf(),
                inode,
            },
        })
    }

    /// Answers for as long as the task lives.
    pub async fn serve(self, observed: Observed) {
        let observed = Arc::new(observed);
        let service = Router::new()
            .route(STATUS_PATH, get(answer_status))
            .route(RELOAD_PATH, post(reload_policy))
            .route(TAKEOVER_PATH, post(takeover::begin))
            // A connection that somebody keeps must not keep what is observed: the trail ends with its last holder.
            .with_state(Arc::downgrade(&observed));
        let Self {
            listener,
            file: _file,
        } = self;
        if let Err(error) = axum::serve(listener, service).await {
            error!(%error, "the admin socket failed; `pgusher status` will not answer");
        }
    }
}

/// Removes the socket's file when the server ends, or was never started; unless it is a successor's by then.
struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = |found: fs::Metadata| found.ino() == self.inode;
        if !fs::symlink_metadata(&self.path).is_ok_and(is_ours) {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            error!(%error, path = %self.path.display(), "cannot remove the admin socket");
        }
    }
}

/// Makes way for a socket where a dead instance left one.
fn remove_dead(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path),
        Ok(_) => Err(io::Error::other("something else than a socket is there")),
        Err(_) => Ok(()),
    }
}

/// Binds so that the mode is right from the moment the name exists: on Linux the file gets the mode of the socket, less
/// the umask (`unix_bind_bsd` in net/unix/af_unix.c). The umask itself is the whole process's.
fn bind_privately(path: &Path) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    UnixListener::from_std(OwnedFd::from(socket).into())
}

/// What is observed, for as long as there is something to see.
fn still(observed: &Weak<Observed>) -> Result<Arc<Observed>, (StatusCode, String)> {
    let over = || (StatusCode::GONE, "this pgusher ends".to_owned());
    observed.upgrade().ok_or_else(over)
}

async fn answer_status(
    State(observed): State<Weak<Observed>>,
) -> Result<Json<Status>, (StatusCode, String)> {
    still(&observed)?
        .status()
        .map(Json)
        .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

async fn reload_policy(
    State(observed): State<Weak<Observed>>,
) -> Result<Json<Reloaded>, (StatusCode, String)> {
    let observed = still(&observed)?;
    let failed = |code, text: String| Err((code, text));
    match tokio::task::spawn_blocking(move || observed.reload_policy()).await {
        Ok(Ok(Some(reloaded))) => Ok(Json(reloaded)),
        Ok(Ok(None)) => failed(
            StatusCode::CONFLICT,
            "the instance has no policy: it was started without `policy`".to_owned(),
        ),
        Ok(Err(error)) => failed(
            StatusCode::UNPROCESSABLE_ENTITY,
            format!("not reloaded, the old policy stays in force:\n{error}"),
        ),
        Err(error) => failed(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn sockets_made_at_the_same_time_are_all_private_and_leave_the_process_as_it_was() {
        let umask = || {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find(|line| line.starts_with("Umask:"));
            line.unwrap().to_owned()
        };
        let before = umask();
        let dir = tempfile::tempdir().unwrap();
        let tasks = (0..8).map(|number| {
            let path = dir.path().join(format!("{number}.sock"));
            tokio::spawn(async move {
                for _ in 0..500 {
                    let socket = AdminSocket::bind(&path).unwrap();
                    let mode = fs::metadata(&path).unwrap().permissions().mode();
                    assert_eq!(mode & 0o777, 0o600);
                    drop(socket);
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        assert_eq!(umask(), before);
    }

    #[tokio::test]
    async fn the_socket_is_private_while_it_exists_and_goes_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/pgusher.sock");
        let socket = AdminSocket::bind(&path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        assert!(matches!(
            AdminSocket::bind(&path),
            Err(AdminError::InUse(_))
        ));
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_dead_instances_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pgusher.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        AdminSocket::bind(&path).unwrap();
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious");
        fs::write(&path, "data").unwrap();
        assert!(matches!(
            AdminSocket::bind(&path),
            Err(AdminError::Bind { .. })
        ));
        assert_eq!(fs::read(&path).unwrap(), b"data");
    }

    #[tokio::test]
    async fn a_successor_answers_in_the_same_place_and_keeps_it_when_its_predecessor_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pgusher.sock");
        let predecessor = AdminSocket::bind(&path).unwrap();
        let successor = AdminSocket::bind_beside(&path).unwrap();
        let successor = successor.answer_at(&path);
        drop(predecessor);
        assert!(path.exists());
        UnixStream::connect(&path).unwrap();
        drop(successor);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
