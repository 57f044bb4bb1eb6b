//! The thread that enters network namespaces and takes other users' ids, which takes CAP_SYS_ADMIN and CAP_SETUID: no
//! other keeps them.
//!
//! **Invariant:** only threads that end with their errand enter a namespace, or become somebody else. One that lived on
//! could serve somebody else from the wrong place, or with the wrong rights. **Invariant:** inside, before it does
//! anything, such a thread has no more left than any other of pgusher's; an envoy, which is to become somebody else,
//! has what that takes besides.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, mpsc};
use std::thread::{self, Builder};

use nix::sched::{CloneFlags, setns};
use tokio::sync::oneshot;
use tracing::error;

use super::namespace::Namespace;
use crate::fences::{self, FenceError, Role, capabilities};

/// The stack of a thread that makes a socket and ends, in bytes.
const STACK_BYTES: usize = 128 * 1024;
/// The name of its thread.
pub const PORTER_NAME: &str = "porter";
/// The name of a thread on an errand.
pub const ERRAND_NAME: &str = "netns";

/// Sends threads into network namespaces, or as other users. Its own thread ends with the last of its clones.
#[derive(Clone, Debug)]
pub struct Porter {
    errands: mpsc::Sender<Errand>,
}

/// What is to be done inside, with whether the thread got there.
type Work = Box<dyn FnOnce(io::Result<()>) + Send>;

struct Errand {
    /// The way into where it leads; none if it stays in our own namespace.
    entrance: Option<Arc<OwnedFd>>,
    /// What its thread keeps.
    role: Role,
    work: Work,
}

impl Porter {
    /// Starts the thread, which keeps what it needs of what the calling thread may do and gives up the rest.
    ///
    /// # Errors
    /// [`FenceError`]
    pub fn start() -> Result<Self, FenceError> {
        let (errands, told) = mpsc::channel();
        let (enclosed, answer) = mpsc::sync_channel(1);
        let porter = move || {
            let fences = fences::enclose_thread(Role::Porter);
            let stands = fences.is_ok();
            // Whoever waits for it waits until it comes.
            let _ = enclosed.send(fences);
            if stands {
                carry_out(told);
            }
        };
        builder(PORTER_NAME)
            .spawn(porter)
            .map_err(FenceError::Capabilities)?;
        answer
            .recv()
            .unwrap_or_else(|_| Err(FenceError::Capabilities(ended_early())))?;
        Ok(Self { errands })
    }

    /// Does `work` inside.
    ///
    /// # Errors
    /// The operating system's reason.
    ///
    /// # Cancel safety
    /// Cancel safe: what it made is dropped.
    pub(super) async fn make<T: Send + 'static>(
        &self,
        entrance: &Arc<OwnedFd>,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        self.wait_for((Some(Arc::clone(entrance)), Role::Relay), work)
            .await
    }

    /// Does `work` on a thread that may become somebody else, in this namespace if one is given.
    ///
    /// # Errors
    /// The operating system's reason.
    ///
    /// # Cancel safety
    /// Cancel safe: the thread goes on until its work is done, and what it made is dropped.
    pub(crate) async fn send_envoy<T: Send + 'static>(
        &self,
        inside: Option<&Namespace>,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let entrance = inside.and_then(Namespace::entrance);
        self.wait_for((entrance, Role::Envoy), work).await
    }

    async fn wait_for<T: Send + 'static>(
        &self,
        (entrance, role): (Option<Arc<OwnedFd>>, Role),
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (answer, answered) = oneshot::channel();
        // Nobody waits any more for what was cancelled.
        self.send(entrance, role, move |there| {
            drop(answer.send(there.and_then(|()| work())));
        })?;
        answered.await.map_err(|_| ended_early())?
    }

    /// Does `work` inside, as a thread with this role, and waits for it. Blocks.
    ///
    /// # Errors
    /// The operating system's reason.
    pub(super) fn visit<T: Send + 'static>(
        &self,
        entrance: &Arc<OwnedFd>,
        role: Role,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (answer, answered) = mpsc::sync_channel(1);
        self.send(Some(Arc::clone(entrance)), role, move |there| {
            drop(answer.send(there.and_then(|()| work())));
        })?;
        answered.recv().map_err(|_| ended_early())?
    }

    fn send(
        &self,
        entrance: Option<Arc<OwnedFd>>,
        role: Role,
        work: impl FnOnce(io::Result<()>) + Send + 'static,
    ) -> io::Result<()> {
        let errand = Errand {
            entrance,
            role,
            work: Box::new(work),
        };
        self.errands.send(errand).map_err(|_| ended_early())
    }
}

/// Does `work` on a thread of its own, with every privilege of the calling thread, and waits for it. Blocks.
///
/// # Errors
/// The operating system's reason.
pub(crate) fn apart_and_wait<T: Send>(
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    thread::scope(|scope| {
        builder(ERRAND_NAME)
            .spawn_scoped(scope, work)?
            .join()
            .unwrap_or_else(|_| Err(ended_early()))
    })
}

/// Does `work` inside, with every privilege of the calling thread, and waits for it. Blocks.
///
/// # Errors
/// The operating system's reason.
pub(super) fn visit_with_all<T: Send>(
    entrance: &OwnedFd,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    apart_and_wait(|| enter(entrance).and_then(|()| work()))
}

/// The porter's own work: a thread for each errand, which inherits what it has.
fn carry_out(errands: mpsc::Receiver<Errand>) {
    for Errand {
        entrance,
        role,
        work,
    } in errands
    {
        let kept = capabilities::kept(role);
        let inside = move || {
            let entered = entrance.map_or(Ok(()), |entrance| enter(&entrance));
            work(entered.and_then(|()| capabilities::keep_only(kept)));
        };
        if let Err(error) = builder(ERRAND_NAME).spawn(inside) {
            error!(%error, "no thread for an errand");
        }
    }
}

fn builder(name: &str) -> Builder {
    Builder::new().name(name.to_owned()).stack_size(STACK_BYTES)
}

/// Moves the calling thread into the namespace, for good.
fn enter(entrance: &OwnedFd) -> io::Result<()> {
    Ok(setns(entrance.as_fd(), CloneFlags::CLONE_NEWNET)?)
}

fn ended_early() -> io::Error {
    io::Error::other("the thread for an errand ended before its time, or could not be started")
}
