//! The instance that is taken over from, as its successor sees it.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::{
    ANSWER_LIMIT, Attached, Channel, ChannelError, News, Offer, Order, Predecessors, Serving,
};
use crate::admin::{self, ClientError};
use crate::identify::ProcessId;
use crate::intercept::{Claim, OwnProcesses, watch};
use crate::session::{CancelKeys, Inherited};

/// Why nothing was taken over; the running instance goes on as it did.
#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    /// Its admin socket refused.
    #[error("the running pgusher refuses to be taken over: {0}")]
    Refused(ClientError),
    /// It does not answer.
    #[error("the running pgusher does not answer; kill it and start without it")]
    Silent,
    /// It answers something else than was agreed.
    #[error("the running pgusher cannot be taken over: {0}")]
    Channel(#[from] ChannelError),
    /// It is attached elsewhere.
    #[error(
        "the running pgusher (pid {pid}) is attached to another cgroup; give this one its own --admin-socket and start it without --takeover"
    )]
    OtherCgroup {
        /// Its process id.
        pid: u32,
    },
}

impl From<io::Error> for TakeoverError {
    fn from(error: io::Error) -> Self {
        Self::Channel(error.into())
    }
}

/// A running instance that has offered itself.
pub struct Predecessor {
    channel: Channel,
    offer: Offer,
}

/// One that has let go, and serves what it has begun.
pub struct Retired {
    channel: Channel,
    offer: Offer,
}

impl Predecessor {
    /// Finds the instance that answers at this admin socket; none if nobody does.
    ///
    /// # Errors
    /// [`TakeoverError`]
    pub async fn find(admin_socket: &Path) -> Result<Option<Self>, TakeoverError> {
        let mut channel = match admin::request_takeover(admin_socket).await {
            Ok(channel) => channel,
            Err(ClientError::NotRunning { .. }) => return Ok(None),
            Err(error) => return Err(TakeoverError::Refused(error)),
        };
        let offer: Offer = timeout(ANSWER_LIMIT, channel.receive())
            .await
            .map_err(|_| TakeoverError::Silent)??;
        info!(
            version = offer.version,
            pid = offer.process.pid,
            "taking over from a running pgusher"
        );
        Ok(Some(Self { channel, offer }))
    }

    /// Checks that its hooks are where ours will be.
    ///
    /// # Errors
    /// [`TakeoverError::OtherCgroup`]
    pub fn check(&self, cgroup: u64) -> Result<(), TakeoverError> {
        if self.offer.cgroup == cgroup {
            return Ok(());
        }
        let pid = self.offer.process.pid;
        Err(TakeoverError::OtherCgroup { pid })
    }

    /// It, and its own predecessors that still serve.
    pub fn processes(&self) -> impl Iterator<Item = ProcessId> {
        self.offer.processes()
    }

    /// Tells it that our hooks are attached, and gets the claim to the cgroup.
    ///
    /// # Errors
    /// [`TakeoverError`]; if it has gone, there is nobody left to take over from.
    pub async fn relieve(&mut self) -> Result<Claim, TakeoverError> {
        let attached = Attached {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            process: ProcessId::own(),
        };
        self.channel.send(&attached).await?;
        let claim = timeout(ANSWER_LIMIT, self.channel.receive_descriptor());
        let claim = claim.await.map_err(|_| TakeoverError::Silent)??;
        Ok(Claim::inherited(claim))
    }

    /// Tells it that we serve, so that it lets go.
    ///
    /// # Errors
    /// [`TakeoverError`] if it lives and does not listen: it goes on, and we must not.
    pub async fn retire(mut self) -> Result<Retired, TakeoverError> {
        if let Err(error) = self.channel.send(&Serving {}).await
            && self.offer.process.is_running()
        {
            return Err(error.into());
        }
        Ok(Retired {
            channel: self.channel,
            offer: self.offer,
        })
    }
}

impl Retired {
    /// Learns what it tells and passes on what it is to do, until it has ended.
    pub async fn follow(
        self,
        predecessors: Predecessors,
        keys: CancelKeys,
        own_processes: Arc<OwnProcesses>,
    ) {
        predecessors.left(self.offer.processes());
        let ends: Vec<_> = self
            .offer
            .processes()
            .map(|process| {
                let exempt = Arc::clone(&own_processes);
                tokio::spawn(forget_when_ended(process, exempt, predecessors.clone()))
            })
            .collect();
        let (mut channel, process) = (self.channel, self.offer.process);
        let mut inherited = keys.inherit();
        if let Err(error) = listen(&mut channel, process, &predecessors, &mut inherited).await {
            debug!(%error, pid = process.pid, "a predecessor says no more");
        }
        for end in ends {
            // A task of ours that neither panics nor is cancelled.
            let _ = end.await;
        }
        info!(pid = process.pid, "the predecessor has ended");
    }
}

async fn listen(
    channel: &mut Channel,
    process: ProcessId,
    predecessors: &Predecessors,
    inherited: &mut Inherited,
) -> Result<(), ChannelError> {
    let mut reloads = predecessors.reloads();
    loop {
        tokio::select! {
            news = channel.receive() => match news? {
                News::Cancel(change) => inherited.apply(change),
                News::Sessions(sessions) => predecessors.serves(process, sessions),
            },
            // The sender is in our hands.
            _ = reloads.changed() => channel.send(&Order::Reload).await?,
        }
    }
}

/// Its number may be anybody's afterwards.
async fn forget_when_ended(
    process: ProcessId,
    own_processes: Arc<OwnProcesses>,
    predecessors: Predecessors,
) {
    if let Err(error) = ended(process).await {
        warn!(%error, pid = process.pid, "cannot tell when a predecessor ends; it stays exempt until we do");
        return;
    }
    predecessors.ended(process);
    if let Err(error) = own_processes.forget(process) {
        warn!(%error, pid = process.pid, "a predecessor that has ended stays exempt");
    }
}

async fn ended(process: ProcessId) -> io::Result<()> {
    let number = i32::try_from(process.pid).ok().and_then(Pid::from_raw);
    let Some(number) = number else {
        return Ok(());
    };
    let pidfd = match pidfd_open(number, PidfdFlags::NONBLOCK) {
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        opened => opened?,
    };
    if !process.is_running() {
        return Ok(());
    }
    // It can be read once the process has ended.
    let _ended = watch(pidfd)?.readable().await?;
    Ok(())
}
