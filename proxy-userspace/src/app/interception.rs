//! The hooks from their loading to their attachment, what tells them that we live, and what others have left of theirs.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio::runtime::Handle;
use tracing::{debug, error, info, warn};

use super::place::Place;
use super::workers::Workers;
use super::{Companions, host};
use crate::admin::UnixCoverage;
use crate::audit::Audit;
use crate::audit::record::{Body, Record};
use crate::config::{Config, UnixSockets, WhenDown};
use crate::fences::Starter;
use crate::identify::ProcessId;
use crate::intercept::{
    self, Attached, Counters, FastPath, Guise, Heartbeat, HookError, HookLog, Loaded, NoFastPath,
    OwnProcesses, PinFolder, Reach, Terms, WantedQueue,
};

const HEART_FAILURE: &str = "cannot tell the hooks whether pgusher lives";

/// What tells the hooks that we live, from when we do.
pub(super) struct Heart {
    pub(super) heartbeat: Arc<Heartbeat>,
    pub(super) companions: Companions,
    /// What has to live for it to beat.
    serving: Vec<Handle>,
}

impl Heart {
    /// It does not beat yet.
    pub(super) fn new(tables: &Tables, workers: &Workers) -> Self {
        Self {
            heartbeat: Arc::clone(&tables.heartbeat),
            companions: Companions::new(),
            serving: workers.runtimes(),
        }
    }

    /// The hooks leave everything to whoever serves.
    pub(super) fn wait(&self) -> Result<()> {
        self.heartbeat.not_yet().context(HEART_FAILURE)
    }

    /// The hooks redirect.
    pub(super) fn begin(&self) -> Result<()> {
        self.heartbeat.beat().context(HEART_FAILURE)?;
        let beating = intercept::beat_forever(Arc::clone(&self.heartbeat), self.serving.clone());
        self.companions.start(beating);
        Ok(())
    }
}

/// The hooks' maps that outlast their loading.
pub(super) struct Tables {
    pub(super) counters: Arc<Counters>,
    pub(super) wanted: WantedQueue,
    pub(super) heartbeat: Arc<Heartbeat>,
    pub(super) log: Result<HookLog, aya_log::Error>,
}

impl Tables {
    pub(super) fn take(hooks: &mut Loaded) -> Result<Self, HookError> {
        Ok(Self {
            counters: Arc::new(hooks.counters()?),
            wanted: hooks.wanted()?,
            heartbeat: Arc::new(hooks.heartbeat()?),
            log: hooks.log(),
        })
    }
}

/// What was loaded.
pub(super) struct Hooks {
    pub(super) hooks: Loaded,
    pub(super) own_processes: Arc<OwnProcesses>,
    pub(super) unix_sockets: UnixCoverage,
}

/// Loads the hooks, and the fast path where there is one.
pub(super) async fn load(
    config: &Config,
    place: &Place,
    starter: &Starter,
) -> Result<(Hooks, Result<Arc<FastPath>, NoFastPath>)> {
    // Said before it is done: loading can block for long while the kernel is stuck elsewhere.
    info!("loading the BPF programs");
    let (refusals, stall_timeout) = (config.refusals, config.stall_timeout);
    let is_wanted = config.unix_sockets != UnixSockets::Off;
    let unix = is_wanted.then_some(config.unix_socket_guise);
    let reach = config.fast_path.reach();
    let load = move || -> Result<_, HookError> {
        let mut hooks = Loaded::load(&Terms {
            offsets: host::kernel_offsets(),
            refusals,
            stall_timeout,
        })?;
        let unix_sockets = unix.map_or(UnixCoverage::Off, |guise| load_unix(&mut hooks, guise));
        let fast_path = reach.ok_or(NoFastPath::Off).and_then(load_fast_path);
        Ok((hooks, unix_sockets, fast_path))
    };
    let loaded = starter.run(load).await?;
    let (mut hooks, unix_sockets, fast_path) = loaded.context("cannot start interception")?;
    hooks.intercept(&config.ports)?;
    let own_processes = hooks.own_processes(ProcessId::own())?;
    for other in place.others() {
        own_processes.exempt(other)?;
    }
    let hooks = Hooks {
        hooks,
        own_processes: Arc::new(own_processes),
        unix_sockets,
    };
    Ok((hooks, fast_path))
}

/// The fast path, if this kernel can have one.
fn load_fast_path(reach: Reach) -> Result<Arc<FastPath>, NoFastPath> {
    FastPath::load(reach).map(Arc::new).map_err(|error| {
        // Without the verifier's log, which fills pages.
        let reason = error.to_string();
        warn!(reason, "no fast path; sessions do without");
        debug!("{:#}", anyhow::Error::from(error));
        NoFastPath::Impossible { reason }
    })
}

/// The hooks on unix sockets, if this kernel has them.
fn load_unix(hooks: &mut Loaded, guise: Guise) -> UnixCoverage {
    match hooks.load_unix(guise) {
        Ok(()) => UnixCoverage::Intercepted,
        Err(error) => {
            let reason = format!("{:#}", anyhow::Error::from(error));
            warn!(reason, "connects to unix sockets are not intercepted");
            UnixCoverage::Impossible { reason }
        }
    }
}

pub(super) async fn attach(
    config: &Config,
    hooks: Loaded,
    place: &Place,
    tables: &Tables,
    starter: &Starter,
) -> Result<Attached> {
    let (cgroup, pins) = (Arc::clone(&place.cgroup), place.pins.clone());
    let (when_down, counters) = (config.when_down, Arc::clone(&tables.counters));
    let attach = move || -> Result<Attached> {
        let hooks = hooks.attach(&cgroup)?;
        match when_down {
            WhenDown::Open => Ok(hooks),
            WhenDown::Closed => Ok(hooks.pin(&pins, &counters)?),
        }
    };
    let attached = starter.run(attach).await?;
    let attached = attached.context("cannot start interception")?;
    let path = place.cgroup.path().display();
    info!(ports = ?config.ports, cgroup = %path, ?when_down, "interception attached");
    Ok(attached)
}

/// Removes what instances before us have left pinned, and puts on record what it refused.
pub(super) async fn clear_away(pins: PinFolder, audit: &Audit, starter: &Starter) -> Result<()> {
    let refused = starter.run(move || remove_abandoned(&pins)).await?;
    if refused > 0 {
        audit.record(Record::now(Body::Outage { refused })).await;
    }
    Ok(())
}

/// Removes what processes that have ended have left pinned; returns how many connects it refused, as far as it can be told.
/// What cannot be removed goes on refusing.
pub(super) fn remove_abandoned(pins: &PinFolder) -> u64 {
    let abandoned = pins.abandoned().unwrap_or_else(|error| {
        error!(%error, "cannot tell whether an earlier pgusher left hooks pinned");
        Vec::new()
    });
    let mut all_refused = 0;
    for generation in abandoned {
        let (name, refused) = (generation.name(), generation.unserved());
        match generation.remove() {
            Ok(()) => {
                info!(
                    name,
                    refused, "removed hooks that an earlier pgusher had left pinned"
                );
                all_refused += refused.unwrap_or_default();
            }
            Err(error) => {
                error!(%error, "hooks of an earlier pgusher stay attached: stop this one, then run `pgusher detach`");
            }
        }
    }
    if let Err(error) = pins.tidy() {
        error!(%error, "an empty folder for pinned hooks stays");
    }
    all_refused
}
