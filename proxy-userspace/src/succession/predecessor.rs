//! The instance that is taken over from, as its successor sees it.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::{
    ANSWER_LIMIT, Attached, Channel, ChannelError, News, Offer, Order, PROTOCOL, Predecessors,
    Retired, Serving, noted,
};
use crate::admin::{self, ClientError};
use crate::identify::ProcessId;
use crate::intercept::{Claim, OwnProcesses, watch as watch_descriptor};
use crate::session::{CancelKeys, Inherited};

/// How long one that ends is waited for: its sessions may take drain_timeout. And how often it is asked meanwhile.
const END_LIMIT: Duration = Duration::from_secs(60);
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// How long it may take to let go: longer than it waits itself for what it does it upon.
const LETTING_GO_LIMIT: Duration = Duration::from_secs(30);
/// How long after its last word it may end.
const ENDING_LIMIT: Duration = Duration::from_secs(2);
/// How often it is looked whether it has ended, where the kernel does not tell.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why nothing was taken over; the running instance goes on as it did.
#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    /// Its admin socket refused.
    #[error("the running pgusher refuses to be taken over: {0}")]
    Refused(ClientError),
    /// It does not answer.
    #[error("the running pgusher does not answer; kill it and start without it")]
    Silent,
    /// Its version hands over in another way.
    #[error(
        "the running pgusher is of version {version}, which hands over in another way; stop it and start this one"
    )]
    OtherProtocol {
        /// Its version.
        version: String,
    },
    /// It lives, and has gone on instead of letting go.
    #[error("the running pgusher has not let go, and goes on")]
    GoesOn,
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

impl TakeoverError {
    /// Whether an instance says so that is about to end, or does no more in its last moment.
    fn is_of_one_that_ends(&self, is_known_to: bool) -> bool {
        match self {
            Self::Refused(ClientError::Transport(_)) => is_known_to,
            Self::Refused(error) => error.is_of_one_that_ends(),
            Self::Channel(error) => matches!(error, ChannelError::Closed),
            _ => false,
        }
    }
}

/// Who answers at an admin socket.
pub enum Search {
    /// Nobody.
    Nobody,
    /// Nobody any more; what it held may not be free yet.
    Ended,
    /// One that was taken over from, and whose successor has died. It may serve its sessions for long.
    Retired,
    /// An instance to take over from.
    Running(Predecessor),
}

/// A running instance that has offered itself.
pub struct Predecessor {
    channel: Channel,
    offer: Offer,
}

/// Asks whoever answers there to be taken over.
async fn ask(admin_socket: &Path) -> Result<(Channel, Offer), TakeoverError> {
    let asked = admin::request_takeover(admin_socket).await;
    let mut channel = asked.map_err(TakeoverError::Refused)?;
    let offer = timeout(ANSWER_LIMIT, channel.receive()).await;
    let offer = offer.map_err(|_| TakeoverError::Silent)??;
    Ok((channel, offer))
}

impl Predecessor {
    /// Finds the instance that answers at this admin socket. One that is about to end is waited for.
    ///
    /// # Errors
    /// [`TakeoverError`]
    pub async fn find(admin_socket: &Path) -> Result<Search, TakeoverError> {
        let begin = Instant::now();
        let mut ends = false;
        let (channel, offer) = loop {
            match ask(admin_socket).await {
                Ok(offered) => break offered,
                Err(TakeoverError::Refused(ClientError::NotRunning { .. })) => {
                    return Ok(if ends { Search::Ended } else { Search::Nobody });
                }
                Err(error) if begin.elapsed() < END_LIMIT && error.is_of_one_that_ends(ends) => {
                    if !noted(admin_socket).is_empty() {
                        return Ok(Search::Retired);
                    }
                    if !ends {
                        warn!("the running pgusher ends; starting without it when it has");
                    }
                    ends = true;
                    sleep(ASK_AGAIN).await;
                }
                Err(error) => return Err(error),
            }
        };
        if offer.protocol != PROTOCOL {
            let version = offer.version;
            return Err(TakeoverError::OtherProtocol { version });
        }
        info!(
            version = offer.version,
            pid = offer.process.pid,
            "taking over from a running pgusher"
        );
        Ok(Search::Running(Self { channel, offer }))
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

    /// Tells it that we serve, so that it lets go; if it has died meanwhile there is nothing to let go of.
    ///
    /// # Errors
    /// [`TakeoverError`] if it lives and has not: it goes on, and we must not.
    pub async fn retire(&mut self) -> Result<(), TakeoverError> {
        if let Err(error) = self.channel.send(&Serving {}).await {
            debug!(%error, "the predecessor does not hear that we serve");
        }
        let said = timeout(LETTING_GO_LIMIT, self.channel.receive::<Retired>());
        match said.await {
            Ok(Ok(Retired {})) => Ok(()),
            Ok(Err(ChannelError::Closed)) if self.ends().await => Ok(()),
            _ => Err(TakeoverError::GoesOn),
        }
    }

    /// Whether it ends, now that it has closed the connection.
    async fn ends(&self) -> bool {
        let end = timeout(ENDING_LIMIT, ended(self.offer.process));
        end.await.is_ok()
    }

    /// Learns what it tells and passes on what it is to do, until it and its own predecessors have ended.
    pub fn follow(
        self,
        predecessors: Predecessors,
        keys: CancelKeys,
        own_processes: Arc<OwnProcesses>,
    ) -> impl Future<Output = ()> {
        let (mut channel, offer) = (self.channel, self.offer);
        predecessors.left(offer.processes());
        predecessors.cut_off(offer.silent.iter().copied());
        // What is asked for from now on, whenever this runs.
        let mut reloads = predecessors.reloads();
        async move {
            let ends: Vec<_> = offer
                .processes()
                .map(|process| {
                    let exempt = Arc::clone(&own_processes);
                    tokio::spawn(forget_when_ended(process, exempt, predecessors.clone()))
                })
                .collect();
            let (process, mut inherited) = (offer.process, keys.inherit());
            let told = listen(
                &mut channel,
                (&predecessors, process),
                &mut inherited,
                &mut reloads,
            );
            if let Err(error) = told.await
                && process.is_running()
                && !matches!(error, ChannelError::Closed)
            {
                warn!(%error, pid = process.pid, "a predecessor is not heard from any more");
            }
            // Its own predecessors among them, if it has died.
            predecessors.cut_off(offer.processes());
            for end in ends {
                // A task of ours that neither panics nor is cancelled.
                let _ = end.await;
            }
            info!(pid = process.pid, "the predecessor has ended");
        }
    }
}

async fn listen(
    channel: &mut Channel,
    (predecessors, process): (&Predecessors, ProcessId),
    inherited: &mut Inherited,
    reloads: &mut watch::Receiver<()>,
) -> Result<(), ChannelError> {
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

/// Waits until a predecessor has ended, after which its number may be anybody's.
pub async fn forget_when_ended(
    process: ProcessId,
    own_processes: Arc<OwnProcesses>,
    predecessors: Predecessors,
) {
    ended(process).await;
    predecessors.ended(process);
    if let Err(error) = own_processes.forget(process) {
        warn!(%error, pid = process.pid, "a predecessor that has ended stays exempt");
    }
}

/// Waits until the process has ended.
async fn ended(process: ProcessId) {
    if let Err(error) = ended_as_told(process).await {
        debug!(%error, pid = process.pid, "the kernel does not tell when a process ends; looking now and then");
        while process.is_running() {
            sleep(LOOK_EVERY).await;
        }
    }
}

async fn ended_as_told(process: ProcessId) -> io::Result<()> {
    if let Some(pidfd) = process.open()? {
        let _ended = watch_descriptor(pidfd)?.readable().await?;
    }
    Ok(())
}
