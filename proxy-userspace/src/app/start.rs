//! Starting: everything that can fail, in an order that leaves interception for last.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::signal::unix::Signal;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use super::{Companions, Running, check_pid_namespace, host, reload, signals};
use crate::admin::{AdminSocket, Fixed, Observed, Seen};
use crate::audit::record::{Body, Record};
use crate::audit::{self, Audit, Writer};
use crate::config::{Config, WhenDown};
use crate::identify::{Identifier, ProcessId};
use crate::intercept::{
    self, Attached, Cgroup, CgroupError, Claim, Counters, Coverage, Heartbeat, HookError, HookLog,
    Loaded, Namespaces, OwnProcesses, PinFolder, Terms, WantedQueue,
};
use crate::policy::Enforcer;
use crate::route::Router;
use crate::session::{self, Sessions, Stages};
use crate::succession::{
    Candidate, ChannelError, Predecessor, Predecessors, TakeoverError, candidates,
};
use crate::tls::Certificates;

/// How long a start waits for the claim of an instance that ends: its sessions may take drain_timeout.
const CLAIM_LIMIT: Duration = Duration::from_secs(60);
const CLAIM_AGAIN: Duration = Duration::from_millis(50);
const HEART_FAILURE: &str = "cannot tell the hooks whether pgusher lives";

/// Everything but interception itself.
struct Prepared {
    place: Place,
    admin: AdminSocket,
    hooks: Loaded,
    own_processes: Arc<OwnProcesses>,
    namespaces: Arc<Namespaces>,
    stages: Arc<Stages>,
    writer: Writer,
}

/// The cgroup to attach to, and who has it.
struct Place {
    cgroup: Cgroup,
    pins: PinFolder,
    holder: Holder,
}

enum Holder {
    /// We do: nobody runs.
    Us(Claim),
    /// A running instance, which will hand it over.
    Predecessor(Predecessor),
}

/// Starts, in place of a running instance if it shall take over and there is one.
pub(super) async fn start(
    config: &Config,
    takes_over: bool,
) -> Result<(Running, mpsc::Receiver<Candidate>)> {
    // Before anything can take long: the signal's default is to end the process.
    let hangup = signals::hangup()?;
    let Prepared {
        place,
        admin,
        mut hooks,
        own_processes,
        namespaces,
        stages,
        writer,
    } = prepare(config, takes_over).await?;
    let tables = Tables::take(&mut hooks)?;
    let heart = Heart {
        heartbeat: Arc::clone(&tables.heartbeat),
        companions: Companions::new(),
    };
    let has_predecessor = place.has_predecessor();
    if has_predecessor {
        heart.wait()?;
    } else {
        heart.begin()?;
    }
    let hooks = attach(config, hooks, &place, &tables)?;
    let (cgroup, pins) = (place.cgroup.number(), place.pins.clone());
    let path = place.cgroup.path().to_path_buf();
    let (claim, mut predecessor) = place.relieve(&namespaces).await?;
    if has_predecessor {
        heart.begin()?;
    }
    if let Some(predecessor) = &mut predecessor {
        predecessor.retire().await?;
    }
    let mut running = Running {
        stages,
        namespaces,
        hooks,
        heartbeat: heart.heartbeat,
        own_processes,
        when_down: config.when_down,
        cgroup,
        claim: Some(claim),
        sessions: TaskTracker::new(),
        predecessors: Predecessors::none(),
        lineage: TaskTracker::new(),
        companions: heart.companions,
        writer,
    };
    // Nothing may fail any more: everything new is ours.
    running.hooks.outlive_us();
    if let Some(predecessor) = predecessor {
        running.follow(predecessor).await;
    }
    let admin = admin.answer_at(&config.admin_socket);
    clear_away(&pins, &running.stages.audit).await;
    // Only now: a connection made before this line is either redirected or counted.
    let coverage = report_coverage(config, &running.stages.audit).await;
    let (candidates, asked) = candidates();
    let fixed = Fixed {
        ports: config.ports.clone(),
        cgroup: path,
        namespaces: Arc::clone(&running.namespaces),
        refusals: config.refusals,
        coverage,
        when_down: config.when_down,
    };
    let seen = Seen {
        stages: Arc::clone(&running.stages),
        predecessors: running.predecessors.clone(),
        candidates,
    };
    let observed = Observed::new(fixed, Arc::clone(&tables.counters), seen);
    running.companions.start(admin.serve(observed));
    running.accompany(hangup, tables);
    Ok((running, asked))
}

/// Makes and checks everything that interception needs.
async fn prepare(config: &Config, takes_over: bool) -> Result<Prepared> {
    let policy = Enforcer::load(&config.policy)?;
    let predecessor = if takes_over {
        Predecessor::find(&config.admin_socket).await?
    } else {
        None
    };
    let admin = match predecessor {
        Some(_) => AdminSocket::bind_beside(&config.admin_socket)?,
        None => AdminSocket::bind(&config.admin_socket)?,
    };
    check_pid_namespace()?;
    let max_connections = Sessions::max_connections(config.limits.max_sessions.get());
    host::raise_descriptor_limit(max_connections, config.max_namespaces);
    let place = Place::find(config, predecessor)?;
    let (mut hooks, own_processes) = load(config, &place)?;
    let namespaces = open_namespaces(config, &mut hooks, &place).await?;
    let (audit, writer) = audit::start(&config.audit, max_connections)?;
    let stages = Arc::new(stages(config, &mut hooks, audit, policy)?);
    Ok(Prepared {
        place,
        admin,
        hooks,
        own_processes,
        namespaces,
        stages,
        writer,
    })
}

impl Place {
    fn find(config: &Config, predecessor: Option<Predecessor>) -> Result<Self> {
        let cgroup = Cgroup::open(config.cgroup.as_deref())?;
        let pins = PinFolder::of(cgroup.number());
        if config.when_down == WhenDown::Closed {
            pins.check()?;
        }
        let holder = match predecessor {
            Some(predecessor) => {
                predecessor.check(cgroup.number())?;
                Holder::Predecessor(predecessor)
            }
            None => Holder::Us(cgroup.claim()?),
        };
        Ok(Self {
            cgroup,
            pins,
            holder,
        })
    }

    /// Whether somebody else serves until we do.
    fn has_predecessor(&self) -> bool {
        matches!(self.holder, Holder::Predecessor(_))
    }

    /// Instances besides us that go on serving.
    fn others(&self) -> Vec<ProcessId> {
        match &self.holder {
            Holder::Us(_) => Vec::new(),
            Holder::Predecessor(predecessor) => predecessor.processes().collect(),
        }
    }

    /// Gets the claim of whoever was here before us, now that our hooks are attached.
    async fn relieve(self, namespaces: &Arc<Namespaces>) -> Result<(Claim, Option<Predecessor>)> {
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

/// What tells the hooks that we live, from when we do.
struct Heart {
    heartbeat: Arc<Heartbeat>,
    companions: Companions,
}

impl Heart {
    /// The hooks leave everything to whoever serves.
    fn wait(&self) -> Result<()> {
        self.heartbeat.not_yet().context(HEART_FAILURE)
    }

    /// The hooks redirect.
    fn begin(&self) -> Result<()> {
        self.heartbeat.beat().context(HEART_FAILURE)?;
        let beating = intercept::beat_forever(Arc::clone(&self.heartbeat));
        self.companions.start(beating);
        Ok(())
    }
}

/// The hooks' maps that outlast their loading.
struct Tables {
    counters: Arc<Counters>,
    wanted: WantedQueue,
    heartbeat: Arc<Heartbeat>,
    log: Result<HookLog, aya_log::Error>,
}

impl Tables {
    fn take(hooks: &mut Loaded) -> Result<Self, HookError> {
        Ok(Self {
            counters: Arc::new(hooks.counters()?),
            wanted: hooks.wanted()?,
            heartbeat: Arc::new(hooks.heartbeat()?),
            log: hooks.log(),
        })
    }
}

fn load(config: &Config, place: &Place) -> Result<(Loaded, Arc<OwnProcesses>)> {
    // Said before it is done: loading can block for long while the kernel is stuck elsewhere.
    info!("loading the BPF programs");
    let mut hooks = Loaded::load(&Terms {
        offsets: host::kernel_offsets(),
        refusals: config.refusals,
        stall_timeout: config.stall_timeout,
    })
    .context("cannot start interception")?;
    hooks.intercept(&config.ports)?;
    let own_processes = hooks.own_processes(ProcessId::own())?;
    for other in place.others() {
        own_processes.exempt(other)?;
    }
    Ok((hooks, Arc::new(own_processes)))
}

fn attach(config: &Config, hooks: Loaded, place: &Place, tables: &Tables) -> Result<Attached> {
    let hooks = hooks
        .attach(&place.cgroup)
        .context("cannot start interception")?;
    info!(
        ports = ?config.ports,
        cgroup = %place.cgroup.path().display(),
        when_down = ?config.when_down,
        "interception attached"
    );
    match config.when_down {
        WhenDown::Open => Ok(hooks),
        WhenDown::Closed => Ok(hooks.pin(&place.pins, &tables.counters)?),
    }
}

/// Removes what instances before us have left pinned, and puts on record what it refused.
async fn clear_away(pins: &PinFolder, audit: &Audit) {
    let refused = remove_abandoned(pins);
    if refused > 0 {
        audit.record(Record::now(Body::Outage { refused })).await;
    }
}

/// Removes what processes that have ended have left pinned; returns how many connects it refused, as far as it can be told.
/// What cannot be removed goes on refusing.
fn remove_abandoned(pins: &PinFolder) -> u64 {
    let abandoned = pins.abandoned().unwrap_or_else(|error| {
        error!(%error, "cannot tell whether an earlier pgusher left hooks pinned");
        Vec::new()
    });
    let mut all_refused = 0;
    for generation in abandoned {
        let (name, refused) = (generation.name(), generation.unserved());
        match generation.remove().and_then(|()| pins.tidy()) {
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
    all_refused
}

impl Running {
    /// Goes on with a predecessor that has let go, until it has ended.
    async fn follow(&self, predecessor: Predecessor) {
        let keys = self.stages.cancel_keys.clone();
        let exempt = Arc::clone(&self.own_processes);
        let following = predecessor.follow(self.predecessors.clone(), keys, exempt);
        let pins = PinFolder::of(self.cgroup);
        self.lineage.spawn(async move {
            following.await;
            // If it died before it could.
            remove_abandoned(&pins);
        });
        // Policies may have changed since each of us read them.
        self.predecessors.reload();
        Stages::reload(&self.stages).await;
    }

    /// Starts everything that goes on beside the sessions.
    fn accompany(&self, hangup: Signal, tables: Tables) {
        let (stages, companions) = (&self.stages, &self.companions);
        let predecessors = self.predecessors.clone();
        companions.start(reload::on_hangup(Arc::clone(stages), predecessors, hangup));
        companions.start(intercept::sweep_forever(Arc::clone(&stages.handover)));
        let namespaces = Arc::clone(&self.namespaces);
        companions.start(intercept::answer_forever(tables.wanted, namespaces));
        companions.start(intercept::look_forever(Arc::clone(&self.namespaces)));
        match tables.log {
            Ok(log) => companions.start(intercept::forward_log(log)),
            Err(error) => warn!(%error, "the BPF programs' own log cannot be read"),
        }
    }
}

/// Listeners in our own network namespace, and in every other that there is already.
async fn open_namespaces(
    config: &Config,
    hooks: &mut Loaded,
    place: &Place,
) -> Result<Arc<Namespaces>> {
    let port = match config.listen_port {
        fixed if fixed != 0 && place.has_predecessor() => {
            warn!(
                listen_port = fixed,
                "the running pgusher has it; listening on another until the next start"
            );
            0
        }
        port => port,
    };
    let limit = config.max_namespaces;
    let table = hooks.listener_table()?;
    let namespaces = Namespaces::start(table, port, limit, config.ports.clone())?;
    let namespaces = Arc::new(namespaces);
    open_others(&namespaces).await?;
    Ok(namespaces)
}

/// Listeners in every other network namespace that has none.
async fn open_others(namespaces: &Arc<Namespaces>) -> Result<()> {
    let others = Arc::clone(namespaces);
    let opened = tokio::task::spawn_blocking(move || others.open_all(|_| true).len()).await?;
    info!(opened, "other network namespaces intercepted");
    Ok(())
}

fn stages(config: &Config, hooks: &mut Loaded, audit: Audit, policy: Enforcer) -> Result<Stages> {
    let root = intercept::cgroup_root().unwrap_or_else(|error| {
        warn!(%error, "cgroup paths in records will not be verified");
        Path::new("/sys/fs/cgroup").to_path_buf()
    });
    Ok(Stages {
        handover: Arc::new(hooks.handover()?),
        policy,
        cancel_keys: session::CancelKeys::default(),
        identifier: Identifier::new(&root, &config.identity),
        router: Router::new(config.limits.dial_timeout),
        audit,
        audit_limits: (&config.audit).into(),
        sessions: Sessions::new(config.limits.max_sessions.get()),
        routes: config.routes.clone(),
        certificates: Arc::new(Certificates::ephemeral()?),
        limits: config.limits,
        force: CancellationToken::new(),
    })
}

/// Says what interception will not reach, in the log and in the audit trail: coverage is part of the truth.
async fn report_coverage(config: &Config, audit: &Audit) -> Coverage {
    let ports = config.ports.clone();
    let counting = tokio::task::spawn_blocking(move || intercept::uncovered(&ports));
    let counted = counting.await.map_err(anyhow::Error::from);
    let coverage = match counted.and_then(|counted| Ok(counted?)) {
        Ok(coverage) => coverage,
        Err(error) => {
            warn!(%error, "cannot count the connections that exist already");
            return Coverage::default();
        }
    };
    if coverage != Coverage::default() {
        warn!(
            "not covered: {} established sessions, {} unix sockets",
            coverage.established, coverage.unix_sockets
        );
    }
    audit.record(Record::now(Body::Coverage(coverage))).await;
    coverage
}
