//! The instance that takes over, as its predecessor sees it.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::{info, warn};

use super::{ANSWER_LIMIT, Attached, Channel, ChannelError, News, Offer, Order, Predecessors};
use crate::identify::ProcessId;
use crate::session::Stages;

/// How often the number of sessions is told.
const COUNT_EVERY: Duration = Duration::from_secs(1);
/// How long a successor may take to load and attach; then another may try.
const PREPARATION_LIMIT: Duration = Duration::from_secs(120);

/// An instance whose hooks are attached beside ours.
pub struct Successor {
    channel: Channel,
    process: ProcessId,
}

/// Waits for one that is ready; what gives up before that leaves no trace.
///
/// # Cancel safety
/// Cancel safe: a takeover that is under way is given up.
pub async fn await_successor(
    requests: &mut mpsc::Receiver<Channel>,
    offer: impl Fn() -> Offer,
) -> Successor {
    loop {
        let Some(mut channel) = requests.recv().await else {
            // The admin socket is gone, and nobody can ask any more.
            return std::future::pending().await;
        };
        let agreed = async {
            channel.send(&offer()).await?;
            channel.receive::<Attached>().await
        };
        let agreed = timeout(PREPARATION_LIMIT, agreed).await;
        match agreed.unwrap_or(Err(ChannelError::Closed)) {
            Ok(Attached { version, process }) => {
                info!(version, pid = process.pid, "another pgusher takes over");
                return Successor { channel, process };
            }
            Err(ChannelError::Closed) => info!("another pgusher began to take over and gave up"),
            Err(error) => warn!(%error, "another pgusher could not take over"),
        }
    }
}

impl Successor {
    /// Its process.
    pub fn process(&self) -> ProcessId {
        self.process
    }

    /// Hands it the claim to the cgroup; after that it accepts.
    ///
    /// # Errors
    /// The operating system's reason: it has gone, most likely.
    pub async fn hand_over(&self, claim: BorrowedFd<'_>) -> io::Result<()> {
        let sending = self.channel.send_descriptor(claim);
        timeout(ANSWER_LIMIT, sending).await?
    }

    /// Tells it what it has to know, and does what it asks, until it ends.
    pub async fn serve(mut self, stages: Arc<Stages>, predecessors: Predecessors) {
        if let Err(error) = self.tell(&stages, &predecessors).await {
            warn!(%error, pid = self.process.pid, "the successor has gone; nobody tells us to reload any more");
        }
    }

    async fn tell(
        &mut self,
        stages: &Arc<Stages>,
        predecessors: &Predecessors,
    ) -> Result<(), ChannelError> {
        let mut changes = stages.cancel_keys.bequeath();
        let mut ticks = tokio::time::interval(COUNT_EVERY);
        loop {
            tokio::select! {
                Some(change) = changes.recv() => self.channel.send(&News::Cancel(change)).await?,
                order = self.channel.receive() => match order? {
                    Order::Reload => {
                        predecessors.reload();
                        Stages::reload(stages).await;
                    }
                },
                _ = ticks.tick() => {
                    let own = u64::try_from(stages.sessions.counts().active).unwrap_or(u64::MAX);
                    let all = own.saturating_add(predecessors.sessions());
                    self.channel.send(&News::Sessions(all)).await?;
                }
            }
        }
    }
}
