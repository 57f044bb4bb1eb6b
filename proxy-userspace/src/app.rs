//! Wires everything up, runs until told to stop, and takes everything down again.

mod coverage;
mod crew;
mod host;
mod reload;
mod signals;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::runtime::Handle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::admin::{AdminSocket, Fixed, Observed};
use crate::audit::{self, Audit, Writer};
use crate::config::Config;
use crate::fences::Starter;
use crate::identify::Identifier;
use crate::intercept::{
    self, Attached, Cgroup, Claim, HookError, Loaded, Namespaces, Porter, Targets,
};
use crate::policy::Enforcer;
use crate::route::Router;
use crate::session::{self, Sessions, Stages};
use crate::tls::Certificates;

pub use crew::{Crew, explain_refusal};
pub(crate) use host::check_pid_namespace;
use signals::Signals;

/// How long the audit writer may take for what is queued when everything else has ended.
const WRITER_LIMIT: Duration = Duration::from_secs(10);

/// A running proxy.
struct Running {
    stages: Arc<Stages>,
    namespaces: Arc<Namespaces>,
    hooks: Attached,
    _claim: Claim,
    sessions: TaskTracker,
    companions: Companions,
    writer: Writer,
}

/// Tasks that live as long as the proxy: admin socket, sweeper, the hooks' log.
struct Companions {
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Companions {
    fn new() -> Self {
        Self {
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    fn start(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks
            .spawn(self.stop.clone().run_until_cancelled_owned(task));
    }

    async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Runs the proxy until SIGTERM or SIGINT and a completed drain. Every thread of the runtime is inside the fences by now.
///
/// # Errors
/// What could not be set up, with what to do about it; nothing stays attached then.
pub async fn run(config: Config, crew: Crew) -> Result<()> {
    let mut signals = Signals::install()?;
    let mut running = start(&config, crew).await?;
    host::notify_ready();
    tokio::select! {
        () = accept_forever(&running) => {}
        name = signals.next() => info!(signal = name, "stopping: new connects go direct from here on"),
    }
    host::notify_stopping();
    running.hooks.stop_redirecting();
    drain(running, &config, &mut signals).await
}

/// Everything that can fail, in an order that leaves interception for last.
async fn start(config: &Config, Crew { starter, porter }: Crew) -> Result<Running> {
    // Before anything can take long: the signal's default is to end the process.
    let hangup = signals::hangup()?;
    let policy = Enforcer::load(&config.policy)?;
    let admin = AdminSocket::bind(&config.admin_socket)?;
    check_pid_namespace()?;
    let max_connections = Sessions::max_connections(config.limits.max_sessions.get());
    let max_namespaces = config.max_namespaces;
    let raise = move || host::raise_descriptor_limit(max_connections, max_namespaces);
    starter.run(raise).await?;
    let cgroup = Cgroup::open(config.cgroup.as_deref())?;
    let claim = cgroup.claim()?;
    let mut hooks = load(config, &starter).await?;
    let namespaces = open_namespaces(config, &mut hooks, &starter, porter).await?;
    let (audit, writer) = audit::start(&config.audit, max_connections)?;
    let stages = Arc::new(stages(config, &mut hooks, audit, policy)?);

    let (counters, wanted, log) = (hooks.counters()?, hooks.wanted()?, hooks.log());
    let attach = move || hooks.attach(&cgroup).map(|hooks| (hooks, cgroup));
    let attached = starter.run(attach).await?;
    let (hooks, cgroup) = attached.context("cannot start interception")?;
    info!(ports = ?config.ports, cgroup = %cgroup.path().display(), "interception attached");
    // Only now: a connection made before this line is either redirected or counted.
    let (search, of_all) = (coverage::search(config), Arc::clone(&namespaces));
    let settle = move || (intercept::settle(&search, &cgroup, &of_all), cgroup);
    let (settled, cgroup) = starter.run(settle).await?;
    drop(starter);
    let coverage = coverage::report(config, settled, &stages.audit).await;

    let companions = Companions::new();
    let fixed = Fixed {
        ports: config.ports.clone(),
        cgroup: cgroup.path().to_path_buf(),
        namespaces: Arc::clone(&namespaces),
        refusals: config.refusals,
        coverage,
    };
    companions.start(admin.serve(Observed::new(fixed, counters, Arc::clone(&stages))));
    companions.start(reload::on_hangup(Arc::clone(&stages), hangup));
    companions.start(intercept::sweep_forever(Arc::clone(&stages.handover)));
    companions.start(intercept::answer_forever(wanted, Arc::clone(&namespaces)));
    companions.start(intercept::look_forever(Arc::clone(&namespaces)));
    match log {
        Ok(log) => companions.start(intercept::forward_log(log)),
        Err(error) => warn!(%error, "the BPF programs' own log cannot be read"),
    }
    Ok(Running {
        stages,
        namespaces,
        hooks,
        _claim: claim,
        sessions: TaskTracker::new(),
        companions,
        writer,
    })
}

/// Programs that have passed the verifier, told what to intercept.
async fn load(config: &Config, starter: &Starter) -> Result<Loaded> {
    // Said before it is done: loading can block for long while the kernel is stuck elsewhere.
    info!("loading the BPF programs");
    let (refusals, ports) = (config.refusals, config.ports.clone());
    let load = move || {
        let mut hooks = Loaded::load(&host::kernel_offsets(), &refusals)?;
        let own_tgid = std::process::id();
        hooks.configure(&Targets { ports, own_tgid })?;
        Ok::<_, HookError>(hooks)
    };
    let loaded = starter.run(load).await?;
    loaded.context("cannot start interception")
}

/// Listeners in our own network namespace, and in every other that there is already.
async fn open_namespaces(
    config: &Config,
    hooks: &mut Loaded,
    starter: &Starter,
    porter: Porter,
) -> Result<Arc<Namespaces>> {
    let (port, limit) = (config.listen_port, config.max_namespaces);
    let (table, ports) = (hooks.listener_table()?, config.ports.clone());
    let runtime = Handle::current();
    // Our own port may be a privileged one.
    let start = move || {
        let _registering = runtime.enter();
        Namespaces::start(table, port, limit, ports, porter)
    };
    let namespaces = Arc::new(starter.run(start).await??);
    let others = Arc::clone(&namespaces);
    let opened = tokio::task::spawn_blocking(move || others.open_all(|_| true).len()).await?;
    info!(opened, "other network namespaces intercepted");
    Ok(namespaces)
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

/// Accepts and serves; ends never.
///
/// # Cancel safety
/// Cancel safe: a connection is either being served or still in the accept queue.
async fn accept_forever(running: &Running) {
    loop {
        let room = running.stages.sessions.room().await;
        // Before accepting: while the audit trail is stuck, connections wait in the accept queue.
        let place = running.stages.audit.closing_place().await;
        let accepted = running.namespaces.accept().await;
        let connection = running.stages.sessions.accepted(room);
        let stages = Arc::clone(&running.stages);
        running.sessions.spawn(async move {
            session::serve(stages, accepted, place).await;
            drop(connection);
        });
    }
}

/// Lets sessions go on until they end, time runs out, or a second signal comes; then leaves nothing behind.
async fn drain(running: Running, config: &Config, signals: &mut Signals) -> Result<()> {
    running.sessions.close();
    let forced = tokio::select! {
        // Accepting first: connects redirected before the hooks went are still served.
        biased;
        () = accept_forever(&running) => None,
        () = running.sessions.wait() => None,
        () = sleep(config.drain_timeout) => Some("the drain timeout has passed"),
        _ = signals.next() => Some("a second signal came"),
    };
    let Running {
        stages,
        namespaces,
        hooks,
        _claim,
        sessions,
        companions,
        writer,
    } = running;
    if let Some(why) = forced {
        warn!(
            sessions = stages.sessions.counts().active,
            "{why}: ending the sessions that are left"
        );
        stages.force.cancel();
        sessions.wait().await;
    }
    drop(hooks);
    companions.stop().await;
    drop(namespaces);
    // The last handle on the audit queue; the writer ends when it has written what is queued.
    drop(stages);
    let writing = tokio::task::spawn_blocking(|| writer.join());
    match tokio::time::timeout(WRITER_LIMIT, writing).await {
        Ok(joined) => joined.context("the audit writer failed")?,
        Err(_) => error!("the audit sink is stuck; the last records are lost"),
    }
    anyhow::ensure!(
        forced != Some("a second signal came"),
        "stopped by a second signal"
    );
    info!("stopped; nothing is attached any more");
    Ok(())
}
