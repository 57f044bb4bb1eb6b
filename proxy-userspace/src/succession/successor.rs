//! The instance that takes over, as its predecessor sees it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;
use tracing::{info, warn};

use super::{
    ANSWER_LIMIT, Attached, Candidate, Channel, ChannelError, News, Offer, Order, PROTOCOL,
    Predecessors, Retired, Serving,
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
    /// That the cgroup is its; none when it has been handed over.
    pub claim: Option<&'a Claim>,
}

/// An instance whose hooks are attached beside ours, and that has the claim as we have.
pub struct Successor {
    channel: Channel,
    process: ProcessId,
    /// Nobody else takes over meanwhile.
    _place: OwnedSemaphorePermit,
}

/// Waits for one that is ready; what gives up before that leaves no trace.
///
/// # Cancel safety
/// Cancel safe: a takeover that is under way is given up.
pub async fn await_successor(
    candidates: &mut mpsc::Receiver<Candidate>,
    incumbent: &Incumbent<'_>,
) -> Successor {
    loop {
        let Some(candidate) = candidates.recv().await else {
            // The admin socket is gone, and nobody can ask any more.
            return std::future::pending().await;
        };
        match incumbent.agree(candidate).await {
            Ok(successor) => return successor,
            Err(ChannelError::Closed) => info!("another pgusher began to take over and gave up"),
            Err(error) => warn!(%error, "another pgusher could not take over"),
        }
    }
}

impl Incumbent<'_> {
    async fn agree(&self, candidate: Candidate) -> Result<Successor, ChannelError> {
        let mut channel = candidate.channel;
        channel.send(&self.offer()).await?;
        let attached = timeout(PREPARATION_LIMIT, channel.receive());
        let Attached { version, process } = attached.await.unwrap_or(Err(ChannelError::Closed))?;
        info!(version, pid = process.pid, "another pgusher takes over");
        // It dials on its own account as soon as it serves.
        if let Err(error) = self.own_processes.exempt(process) {
            warn!(%error, "the successor's first connections may be intercepted here");
        }
        if let Err(error) = self.hand_over(&channel).await {
            forget(self.own_processes, process);
            return Err(error);
        }
        Ok(Successor {
            channel,
            process,
            _place: candidate.place,
        })
    }

    async fn hand_over(&self, channel: &Channel) -> Result<(), ChannelError> {
        let claim = self.claim.ok_or(ChannelError::Closed)?;
        let sent = timeout(ANSWER_LIMIT, channel.send_descriptor(claim.lock()));
        sent.await.map_err(io::Error::from)?
    }

    fn offer(&self) -> Offer {
        Offer {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cgroup: self.cgroup,
            process: ProcessId::own(),
            predecessors: self.predecessors.processes(),
            silent: self.predecessors.silent(),
        }
    }
}

impl Successor {
    /// Waits for its word that it serves; false if it has failed before, and is exempt no more.
    pub async fn is_serving(&mut self, own_processes: &OwnProcesses) -> bool {
        let said = timeout(ANSWER_LIMIT, self.channel.receive::<Serving>());
        let error = match said.await.unwrap_or(Err(ChannelError::Closed)) {
            // What it said may have lain here for longer than it lived.
            Ok(Serving {}) if self.process.is_running() => return true,
            Ok(Serving {}) => ChannelError::Closed,
            Err(error) => error,
        };
        warn!(%error, pid = self.process.pid, "the successor did not come to serve; going on");
        forget(own_processes, self.process);
        false
    }

    /// Tells it that we have let go, then what it has to know, and does what it asks, until it ends.
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
        self.channel.send(&Retired {}).await?;
        let mut changes = stages.cancel_keys.bequeath();
        let mut ticks = tokio::time::interval(COUNT_EVERY);
        loop {
            tokio::select! {
                // Whose queries can be cancelled first: when a count comes, all that was so before it is known.
                biased;
                Some(change) = changes.recv() => self.channel.send(&News::Cancel(change)).await?,
                order = self.channel.receive() => match order? {
                    Order::Reload => {
                        if Stages::reload(stages).await {
                            predecessors.reload();
                        }
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

fn forget(own_processes: &OwnProcesses, process: ProcessId) {
    if let Err(error) = own_processes.forget(process) {
        warn!(%error, pid = process.pid, "a successor that failed stays exempt");
    }
}
