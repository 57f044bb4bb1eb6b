//! The thread that enters network namespaces, which takes CAP_SYS_ADMIN: no other keeps it.
//!
//! **Invariant:** only threads that end with their errand enter a namespace. One that lived on could serve somebody
//! else from the wrong place. **Invariant:** inside, before it does anything, such a thread has no more left than any
//! other of pgusher's.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, mpsc};
use std::thread::{self, Builder};

use nix::sched::{CloneFlags, setns};
use rustix::thread::CapabilitySet;
use tokio::sync::oneshot;
use tracing::error;

use crate::fences::{self, FenceError, Role, capabilities};

/// The stack of a thread that makes a socket and ends, in bytes.
const STACK_BYTES: usize = 128 * 1024;
/// The name of its thread.
pub const PORTER_NAME: &str = "porter";
/// The name of a thread in another namespace.
pub const ERRAND_NAME: &str = "netns";

/// Sends threads into network namespaces. Its own thread ends with the last of its clones.
#[derive(Clone, Debug)]
pub struct Porter {
    errands: mpsc::Sender<Errand>,
}

/// What is to be done inside, with whether the thread got there.
type Work = Box<dyn FnOnce(io::Result<()>) + Send>;

struct Errand {
    entrance: Arc<OwnedFd>,
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
        let (answer, answered) = oneshot::channel();
        // Nobody waits any more for what was cancelled.
        self.send(entrance, move |there| {
            drop(answer.send(there.and_then(|()| work())));
        })?;
        answered.await.map_err(|_| ended_early())?
    }

    /// Does `work` inside and waits for it. Blocks.
    ///
    /// # Errors
    /// The operating system's reason.
    pub(super) fn visit<T: Send + 'static>(
        &self,
        entrance: &Arc<OwnedFd>,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (answer, answered) = mpsc::sync_channel(1);
        self.send(entrance, move |there| {
            drop(answer.send(there.and_then(|()| work())));
        })?;
        answered.recv().map_err(|_| ended_early())?
    }

    fn send(
        &self,
        entrance: &Arc<OwnedFd>,
        work: impl FnOnce(io::Result<()>) + Send + 'static,
    ) -> io::Result<()> {
        let errand = Errand {
            entrance: Arc::clone(entrance),
            work: Box::new(work),
        };
        self.errands.send(errand).map_err(|_| ended_early())
    }
}

/// Does `work` inside, with every privilege of the calling thread, and waits for it. Blocks.
///
/// # Errors
/// The operating system's reason.
pub(super) fn visit_with_all<T: Send>(
    entrance: &OwnedFd,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    thread::scope(|scope| {
        builder(ERRAND_NAME)
            .spawn_scoped(scope, || enter(entrance).and_then(|()| work()))?
            .join()
            .unwrap_or_else(|_| Err(ended_early()))
    })
}

/// The porter's own work: a thread for each errand, which inherits what it has.
fn carry_out(errands: mpsc::Receiver<Errand>) {
    let kept = capabilities::kept(Role::Relay);
    for Errand { entrance, work } in errands {
        let inside = move || work(enter(&entrance).and_then(|()| give_up_entering(kept)));
        if let Err(error) = builder(ERRAND_NAME).spawn(inside) {
            error!(%error, "no thread for an errand in a network namespace");
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

fn give_up_entering(kept: CapabilitySet) -> io::Result<()> {
    capabilities::keep_only(kept)
}

fn ended_early() -> io::Error {
    io::Error::other(
        "the thread in the network namespace ended before its time, or could not be started",
    )
}
