//! The cgroup to attach to, and who has it: one instance at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use tracing::warn;

use super::listening::open_others;
use crate::config::{Config, WhenDown};
use crate::identify::ProcessId;
use crate::intercept::{Cgroup, CgroupError, Claim, Namespaces, PinFolder};
use crate::succession::{ChannelError, Predecessor, Search, TakeoverError, noted};

/// How long a start waits for the claim of an instance that ends: its sessions may take drain_timeout.
const CLAIM_LIMIT: Duration = Duration::from_secs(60);
const CLAIM_AGAIN: Duration = Duration::from_millis(50);

/// The cgroup to attach to, and who has it.
pub(super) struct Place {
    pub(super) cgroup: Arc<Cgroup>,
    pub(super) pins: PinFolder,
    holder: Holder,
    /// Who serves sessions of before a successor that has died.
    noted: Vec<ProcessId>,
}

enum Holder {
    /// We do: nobody runs.
    Us(Claim),
    /// A running instance, which will hand it over.
    Predecessor(Predecessor),
}

impl Place {
    pub(super) async fn find(config: &Config, found: Search) -> Result<Self> {
        let cgroup = Cgroup::open(config.cgroup.as_deref())?;
        let pins = PinFolder::of(cgroup.number());
        if config.when_down == WhenDown::Closed {
            pins.check()?;
        }
        let holder = match found {
            Search::Running(predecessor) => {
                predecessor.check(cgroup.number())?;
                Holder::Predecessor(predecessor)
            }
            Search::Ended | Search::Retired => Holder::Us(claim_when_free(&cgroup).await?),
            Search::Nobody => Holder::Us(cgroup.claim()?),
        };
        Ok(Self {
            cgroup: Arc::new(cgroup),
            pins,
            holder,
            noted: noted(&config.admin_socket),
        })
    }

    /// Whether somebody else serves until we do.
    pub(super) fn has_predecessor(&self) -> bool {
        matches!(self.holder, Holder::Predecessor(_))
    }

    /// Where to listen: the predecessor has the port that was asked for.
    pub(super) fn listen_port(&self, config: &Config) -> u16 {
        match config.listen_port {
            fixed if fixed != 0 && self.has_predecessor() => {
                warn!(
                    listen_port = fixed,
                    "the running pgusher has it; listening on another until the next start"
                );
                0
            }
            port => port,
        }
    }

    /// Instances besides us that go on serving.
    pub(super) fn others(&self) -> Vec<ProcessId> {
        let mut others = self.noted.clone();
        if let Holder::Predecessor(predecessor) = &self.holder {
            others.extend(predecessor.processes());
        }
        others
    }

    /// Gets the claim of whoever was here before us, now that our hooks are attached.
    pub(super) async fn relieve(
        self,
        namespaces: &Arc<Namespaces>,
    ) -> Result<(Claim, Option<Predecessor>)> {
        let mut predecessor = match self.holder {
            Holder::Us(claim) => return Ok((claim, None)),
            Holder::Predecessor(predecessor) => predecessor,
        };
        // It has listeners where somebody needed one since we looked.
        open_others(namespaces).await?;
        match predecessor.relieve().await {
            Ok(claim) => Ok((claim, Some(predecessor))),
            Err(TakeoverError::Channel(ChannelError::Closed)) => {
                warn!("the running pgusher ends; starting without it when it has");
                Ok((claim_when_free(&self.cgroup).await?, None))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// The claim, as soon as whoever has it has ended.
async fn claim_when_free(cgroup: &Cgroup) -> Result<Claim> {
    let begin = Instant::now();
    loop {
        match cgroup.claim() {
            Err(CgroupError::Claimed(_)) if begin.elapsed() < CLAIM_LIMIT => {
                tokio::time::sleep(CLAIM_AGAIN).await;
            }
            claimed => return Ok(claimed?),
        }
    }
}
