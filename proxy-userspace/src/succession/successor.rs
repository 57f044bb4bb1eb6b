//! The instance that takes over, as its predecessor sees it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::{info, warn};

use super::{
    ANSWER_LIMIT, Attached, Channel, ChannelError, News, Offer, Order, Predecessors, Serving,
};
use crate::identify::ProcessId;
use crate::intercept::{Claim, OwnProcesses};
use crate::session::Stages;

/// How often the number of sessions is told.
const COUNT_EVERY: Duration = Duration::from_secs(1);
/// How long a successor may take to load and attach; then another may try.
const PREPARATION_LIMIT: Duration = Duration::from_secs(120);

/// What whoever runs has to give.
pub struct Incumbent<'a> {
    /// The number of the cgroup that its hooks are attached to.
    pub cgroup: u64,
    /// Who was here before and still serves.
    pub predecessors: &'a Predecessors,
    /// Whom its hooks leave alone.
    pub own_processes: &'a OwnProcesses,
    /// That the cgroup is its.
    pub claim: &'a Claim,
}

/// An instance whose hooks are attached beside ours, and that has the claim as we have.
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
    incumbent: &Incumbent<'_>,
) -> Successor {
    loop {
        let Some(channel) = requests.recv().await else {
            // The admin socket is gone, and nobody can ask any more.
            return std::future::pending().await;
        };
        match incumbent.agree(channel).await {
            Ok(successor) => return successor,
            Err(ChannelError::Closed) => info!("another pgusher began to take over and gave up"),
            Err(error) => warn!(%error, "another pgusher could not take over"),
        }
    }
}

impl Incumbent<'_> {
    async fn agree(&self, mut channel: Channel) -> Result<Successor, ChannelError> {
        channel.send(&self.offer()).await?;
        let attached = timeout(PREPARATION_LIMIT, channel.receive());
        let Attached { version, process } = attached.await.unwrap_or(Err(ChannelError::Closed))?;
        info!(version, pid = process.pid, "another pgusher takes over");
        // It dials on its own account as soon as it serves.
        if let Err(error) = self.own_processes.exempt(process) {
            warn!(%error, "the successor's first connections may be intercepted here");
        }
        let sent = timeout(ANSWER_LIMIT, channel.send_descriptor(self.claim.lock()));
        sent.await.map_err(io::Error::from)??;
        Ok(Successor { channel, process })
    }

    fn offer(&self) -> Offer {
        Offer {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cgroup: self.cgroup,
            process: ProcessId::own(),
            predecessors: self.predecessors.processes(),
        }
    }
}

impl Successor {
    /// Its process.
    pub fn process(&self) -> ProcessId {
        self.process
    }

    /// Waits for its word that it serves; false if it has failed before.
    pub async fn is_serving(&mut self) -> bool {
        let said = timeout(ANSWER_LIMIT, self.channel.receive::<Serving>());
        match said.await.unwrap_or(Err(ChannelError::Closed)) {
            Ok(Serving {}) => true,
            Err(error) => {
                warn!(%error, pid = self.process.pid, "the successor did not come to serve; going on");
                false
            }
        }
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
