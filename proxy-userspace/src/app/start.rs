//! Starting: everything that can fail, in an order that leaves interception for last.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio::signal::unix::Signal;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::interception::{Heart, Hooks, Tables, attach, clear_away, load, remove_abandoned};
use super::listening::open_namespaces;
use super::place::Place;
use super::workers::Workers;
use super::{Crew, Running, check_kernel, check_pid_namespace, coverage, host, reload, signals};
use crate::admin::{AdminSocket, Fixed, Observed, Seen, UnixCoverage};
use crate::audit::{self, Audit, Writer};
use crate::config::{Config, SinkKind};
use crate::fences::Starter;
use crate::identify::{Identifier, ProcessId};
use crate::intercept::{self, Cgroup, FastPath, Handover, Namespaces, NoFastPath, PinFolder};
use crate::policy::Enforcer;
use crate::route::Router;
use crate::session::{self, Sessions, Stages};
use crate::succession::{
    Candidate, Predecessor, Predecessors, Search, candidates, forget_when_ended,
};
use crate::tls::Certificates;

/// Everything but interception itself.
struct Prepared {
    place: Place,
    admin: AdminSocket,
    hooks: Hooks,
    namespaces: Arc<Namespaces>,
    stages: Arc<Stages>,
    writer: Writer,
    starter: Starter,
}

/// What is left to be done when everything new is ours.
struct Late {
    admin: AdminSocket,
    tables: Tables,
    hangup: Signal,
    starter: Starter,
    cgroup: Arc<Cgroup>,
    pins: PinFolder,
    unix_sockets: UnixCoverage,
}

/// Starts, in place of a running instance if it shall take over and there is one.
pub(super) async fn start(
    config: &Config,
    takes_over: bool,
    crew: Crew,
) -> Result<(Running, mpsc::Receiver<Candidate>)> {
    // Before anything can take long: the signal's default is to end the process.
    let hangup = signals::hangup()?;
    check_kernel()?;
    let Prepared {
        place,
        admin,
        hooks:
            Hooks {
                mut hooks,
                own_processes,
                unix_sockets,
            },
        namespaces,
        stages,
        writer,
        starter,
    } = prepare(config, takes_over, crew).await?;
    let tables = Tables::take(&mut hooks)?;
    let workers =
        Workers::start(config.busy_poll).context("cannot start the threads that serve")?;
    let heart = Heart::new(&tables, &workers);
    let has_predecessor = place.has_predecessor();
    if has_predecessor {
        heart.wait()?;
    } else {
        heart.begin()?;
    }
    let hooks = attach(config, hooks, &place, &tables, &starter).await?;
    let (cgroup, pins) = (Arc::clone(&place.cgroup), place.pins.clone());
    let others = place.others();
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
        cgroup: cgroup.number(),
        claim: Some(claim),
        sessions: TaskTracker::new(),
        workers,
        predecessors: Predecessors::none(),
        note: None,
        lineage: TaskTracker::new(),
        companions: heart.companions,
        writer,
    };
    // Nothing may fail any more: everything new is ours.
    running.hooks.outlive_us();
    running.follow(predecessor, others).await;
    let late = Late {
        admin,
        tables,
        hangup,
        starter,
        cgroup,
        pins,
        unix_sockets,
    };
    let asked = running.settle_in(config, late).await?;
    Ok((running, asked))
}

/// Makes and checks everything that interception needs.
async fn prepare(
    config: &Config,
    takes_over: bool,
    Crew { starter, porter }: Crew,
) -> Result<Prepared> {
    let policy = Enforcer::load(&config.policy)?;
    let found = if takes_over {
        Predecessor::find(&config.admin_socket).await?
    } else {
        Search::Nobody
    };
    let admin = match found {
        Search::Running(_) | Search::Retired => AdminSocket::bind_beside(&config.admin_socket)?,
        Search::Nobody | Search::Ended => AdminSocket::bind(&config.admin_socket)?,
    };
    check_pid_namespace()?;
    let max_connections = Sessions::max_connections(config.limits.max_sessions.get());
    let max_namespaces = config.max_namespaces;
    let raise = move || host::raise_descriptor_limit(max_connections, max_namespaces);
    starter.run(raise).await?;
    let place = Place::find(config, found).await?;
    let (mut loaded, fast_path) = load(config, &place, &starter).await?;
    let port = place.listen_port(config);
    let namespaces =
        open_namespaces(config, &mut loaded.hooks, port, &starter, porter.clone()).await?;
    let journal = match config.audit.sink {
        SinkKind::Journald => Some(starter.run(audit::journal_socket).await??),
        SinkKind::Stdout | SinkKind::File(_) => None,
    };
    let (audit, writer) = audit::start(&config.audit, max_connections, journal)?;
    let router = Router::new(config.limits.dial_timeout, config.unix_socket_guise, porter);
    let handover = loaded.hooks.handover()?;
    let of_the_kernel = (handover, fast_path);
    let stages = Arc::new(stages(config, of_the_kernel, router, audit, policy)?);
    Ok(Prepared {
        place,
        admin,
        hooks: loaded,
        namespaces,
        stages,
        writer,
        starter,
    })
}

impl Running {
    /// Goes on with a predecessor that has let go, and with others that still serve and tell nothing (their successor has died,
    /// or the predecessor itself), until they have ended.
    async fn follow(&self, predecessor: Option<Predecessor>, others: Vec<ProcessId>) {
        if let Some(predecessor) = predecessor {
            self.follow_told(predecessor);
        }
        self.follow_lost(others);
        // Policies may have changed since each of us read them.
        if !self.predecessors.processes().is_empty() && Stages::reload(&self.stages).await {
            self.predecessors.reload();
        }
    }

    fn follow_told(&self, predecessor: Predecessor) {
        let keys = self.stages.cancel_keys.clone();
        let exempt = Arc::clone(&self.own_processes);
        let following = predecessor.follow(self.predecessors.clone(), keys, exempt);
        let pins = PinFolder::of(self.cgroup);
        self.lineage.spawn(async move {
            following.await;
            // If it died before it could.
            remove_abandoned(&pins);
        });
    }

    fn follow_lost(&self, others: Vec<ProcessId>) {
        let known = self.predecessors.processes();
        for process in others.into_iter().filter(|it| !known.contains(it)) {
            self.predecessors.lost(process);
            let exempt = Arc::clone(&self.own_processes);
            let end = forget_when_ended(process, exempt, self.predecessors.clone());
            self.lineage.spawn(end);
        }
    }

    /// Clears away what was here before, says what interception does not reach, and answers questions from now on.
    async fn settle_in(&self, config: &Config, late: Late) -> Result<mpsc::Receiver<Candidate>> {
        let admin = late.admin.answer_at(&config.admin_socket);
        let (starter, cgroup) = (late.starter, late.cgroup);
        clear_away(late.pins, &self.stages.audit, &starter).await?;
        // Only now: a connection made before this line is either redirected or counted.
        let search = coverage::search(config, &self.predecessors);
        let (of_all, place) = (Arc::clone(&self.namespaces), Arc::clone(&cgroup));
        let settle = move || intercept::settle(&search, &place, &of_all);
        let settled = starter.run(settle).await?;
        drop(starter);
        let with_unix = late.unix_sockets.is_intercepted();
        let coverage = coverage::report(config, with_unix, settled, &self.stages.audit).await;
        let (candidates, asked) = candidates();
        let fixed = Fixed {
            ports: config.ports.clone(),
            cgroup: cgroup.path().to_path_buf(),
            namespaces: Arc::clone(&self.namespaces),
            refusals: config.refusals,
            unix_sockets: late.unix_sockets,
            coverage,
            when_down: config.when_down,
        };
        let seen = Seen {
            stages: Arc::clone(&self.stages),
            predecessors: self.predecessors.clone(),
            candidates,
        };
        let observed = Observed::new(fixed, Arc::clone(&late.tables.counters), seen);
        self.companions.start(admin.serve(observed));
        self.accompany(late.hangup, late.tables);
        Ok(asked)
    }

    /// Starts everything that goes on beside the sessions.
    fn accompany(&self, hangup: Signal, tables: Tables) {
        let (stages, companions) = (&self.stages, &self.companions);
        let predecessors = self.predecessors.clone();
        companions.start(reload::on_hangup(Arc::clone(stages), predecessors, hangup));
        let intake = Arc::clone(self.namespaces.intake());
        companions.start(intercept::sweep_forever(
            Arc::clone(&stages.handover),
            intake,
        ));
        companions.start(stages.identifier.clone().let_go_forever());
        let namespaces = Arc::clone(&self.namespaces);
        companions.start(intercept::answer_forever(tables.wanted, namespaces));
        companions.start(intercept::look_forever(Arc::clone(&self.namespaces)));
        match tables.log {
            Ok(log) => companions.start(intercept::forward_log(log)),
            Err(error) => warn!(%error, "the BPF programs' own log cannot be read"),
        }
    }
}

fn stages(
    config: &Config,
    (handover, fast_path): (Handover, Result<Arc<FastPath>, NoFastPath>),
    router: Router,
    audit: Audit,
    policy: Enforcer,
) -> Result<Stages> {
    let root = intercept::cgroup_root().unwrap_or_else(|error| {
        warn!(%error, "cgroup paths in records will not be verified");
        Path::new("/sys/fs/cgroup").to_path_buf()
    });
    Ok(Stages {
        handover: Arc::new(handover),
        policy,
        cancel_keys: session::CancelKeys::default(),
        identifier: Identifier::new(&root, &config.identity),
        router,
        audit,
        audit_limits: (&config.audit).into(),
        sessions: Sessions::new(config.limits.max_sessions.get()),
        routes: config.routes.clone(),
        certificates: Arc::new(Certificates::ephemeral()?),
        fast_path,
        pace: session::Pace::default(),
        limits: config.limits,
        force: CancellationToken::new(),
    })
}
