//! Wires everything up, runs until told to stop, and takes everything down again.

mod host;
mod reload;
mod signals;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::admin::{AdminSocket, Fixed, Observed, UnixCoverage};
use crate::audit::record::{Body, Record};
use crate::audit::{self, Audit, Writer};
use crate::config::{Config, UnixSockets};
use crate::identify::Identifier;
use crate::intercept::{self, Attached, Cgroup, Claim, Coverage, Loaded, Namespaces, Targets};
use crate::policy::Enforcer;
use crate::route::Router;
use crate::session::{self, Sessions, Stages};
use crate::tls::Certificates;

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

/// Runs the proxy until SIGTERM or SIGINT and a completed drain.
///
/// # Errors
/// What could not be set up, with what to do about it; nothing stays attached then.
pub async fn run(config: Config) -> Result<()> {
    let mut signals = Signals::install()?;
    let mut running = start(&config).await?;
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
async fn start(config: &Config) -> Result<Running> {
    // Before anything can take long: the signal's default is to end the process.
    let hangup = signals::hangup()?;
    let policy = Enforcer::load(&config.policy)?;
    let admin = AdminSocket::bind(&config.admin_socket)?;
    check_pid_namespace()?;
    let max_connections = Sessions::max_connections(config.limits.max_sessions.get());
    host::raise_descriptor_limit(max_connections, config.max_namespaces);
    let cgroup = Cgroup::open(config.cgroup.as_deref())?;
    let claim = cgroup.claim()?;
    // Said before it is done: loading can block for long while the kernel is stuck elsewhere.
    info!("loading the BPF programs");
    let mut hooks = Loaded::load(&host::kernel_offsets(), &config.refusals)
        .context("cannot start interception")?;
    let unix_sockets = load_unix(config, &mut hooks);
    hooks.configure(&Targets {
        ports: config.ports.clone(),
        own_tgid: std::process::id(),
    })?;
    let namespaces = open_namespaces(config, &mut hooks).await?;
    let (audit, writer) = audit::start(&config.audit, max_connections)?;
    let stages = Arc::new(stages(config, &mut hooks, audit, policy)?);

    let (counters, wanted, log) = (hooks.counters()?, hooks.wanted()?, hooks.log());
    let hooks = hooks.attach(&cgroup).context("cannot start interception")?;
    info!(ports = ?config.ports, cgroup = %cgroup.path().display(), "interception attached");
    // Only now: a connection made before this line is either redirected or counted.
    let coverage = report_coverage(config, unix_sockets.is_intercepted(), &stages.audit).await;

    let companions = Companions::new();
    let fixed = Fixed {
        ports: config.ports.clone(),
        cgroup: cgroup.path().to_path_buf(),
        namespaces: Arc::clone(&namespaces),
        refusals: config.refusals,
        unix_sockets,
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

/// The hooks on unix sockets, if they are wanted and this kernel has them.
fn load_unix(config: &Config, hooks: &mut Loaded) -> UnixCoverage {
    if config.unix_sockets == UnixSockets::Off {
        return UnixCoverage::Off;
    }
    match hooks.load_unix(config.unix_socket_guise) {
        Ok(()) => UnixCoverage::Intercepted,
        Err(error) => {
            let reason = format!("{:#}", anyhow::Error::from(error));
            warn!(reason, "connects to unix sockets are not intercepted");
            UnixCoverage::Impossible { reason }
        }
    }
}

/// Listeners in our own network namespace, and in every other that there is already.
async fn open_namespaces(config: &Config, hooks: &mut Loaded) -> Result<Arc<Namespaces>> {
    let (port, limit) = (config.listen_port, config.max_namespaces);
    let table = hooks.listener_table()?;
    let namespaces = Namespaces::start(table, port, limit, config.ports.clone())?;
    let namespaces = Arc::new(namespaces);
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
        router: Router::new(config.limits.dial_timeout, config.unix_socket_guise),
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
async fn report_coverage(config: &Config, with_unix: bool, audit: &Audit) -> Coverage {
    let coverage = match intercept::uncovered(&config.ports, with_unix) {
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
