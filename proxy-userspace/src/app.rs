//! Wires everything up, runs until told to stop, and takes everything down again.

mod coverage;
mod crew;
mod host;
mod interception;
mod listening;
mod place;
mod reload;
mod signals;
mod start;
mod vigil;
mod workers;

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::audit::Writer;
use crate::config::{Config, WhenDown};
use crate::intercept::{Attached, Claim, Heartbeat, Namespaces, OwnProcesses};
use crate::session::{self, Stage, Stages};
use crate::succession::{Candidate, Incumbent, Note, Predecessors, Successor, await_successor};

pub use crew::{Crew, explain_refusal};
pub(crate) use host::{check_kernel, check_pid_namespace};
use signals::Signals;
use workers::Workers;

/// How long the audit writer may take for what is queued when everything else has ended.
const WRITER_LIMIT: Duration = Duration::from_secs(10);
/// How long we listen after a successor has taken over, whether or not we have sessions: for connects that were redirected
/// to us and are still on their way.
const LAST_ARRIVALS: Duration = Duration::from_secs(2);

/// A running proxy.
struct Running {
    stages: Arc<Stages>,
    namespaces: Arc<Namespaces>,
    hooks: Attached,
    heartbeat: Arc<Heartbeat>,
    own_processes: Arc<OwnProcesses>,
    when_down: WhenDown,
    cgroup: u64,
    /// None once a successor has it.
    claim: Option<Claim>,
    sessions: TaskTracker,
    workers: Workers,
    predecessors: Predecessors,
    /// There once we are a predecessor ourselves.
    note: Option<Note>,
    /// What goes on with them, until they have ended.
    lineage: TaskTracker,
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

/// Runs the proxy until a completed drain, after SIGTERM or SIGINT or when another instance has taken over. Takes over
/// itself, if it shall and one is running. Every thread of the runtime is inside the fences by now.
///
/// # Errors
/// What could not be set up, with what to do about it; nothing of ours stays attached then.
pub async fn run(config: Config, takes_over: bool, crew: Crew) -> Result<()> {
    let mut signals = Signals::install()?;
    let (mut running, mut candidates) = start::start(&config, takes_over, crew).await?;
    host::notify_ready();
    let successor = serve(&running, &mut candidates, &mut signals).await;
    // Nobody takes over from whoever is about to end.
    drop(candidates);
    if let Some(successor) = successor {
        running.retire(successor, &config.admin_socket);
        // The service manager hears nothing of it: what it is told is stopping, it stops.
        serve_what_is_left(&running, &mut signals).await;
    } else {
        host::notify_stopping();
        running.stop_serving();
    }
    let failure = running.workers.failure().clone();
    drain(running, &config, &mut signals).await?;
    anyhow::ensure!(
        !failure.is_cancelled(),
        "a thread that serves sessions ended by itself, and its sessions with it; the log says why"
    );
    Ok(())
}

/// Serves until a signal comes, or a successor that serves too.
async fn serve(
    running: &Running,
    candidates: &mut mpsc::Receiver<Candidate>,
    signals: &mut Signals,
) -> Option<Successor> {
    let incumbent = running.incumbent();
    loop {
        let mut successor = tokio::select! {
            () = accept_forever(running) => return None,
            name = signals.next() => {
                info!(signal = name, "stopping: {}", running.after_us());
                return None;
            }
            successor = await_successor(candidates, &incumbent) => successor,
        };
        // Signals wait until it has said whether it serves: half a takeover is none.
        let is_serving = tokio::select! {
            () = accept_forever(running) => return None,
            is_serving = successor.is_serving(&running.own_processes) => is_serving,
        };
        if is_serving {
            return Some(successor);
        }
    }
}

impl Running {
    /// What becomes of new connects when we are gone.
    fn after_us(&self) -> &'static str {
        match (&self.claim, self.when_down) {
            (None, _) => "the successor serves new connects",
            (Some(_), WhenDown::Open) => "new connects go direct from here on",
            (Some(_), WhenDown::Closed) => {
                "new connects are refused from here on, until the next start or `pgusher detach`"
            }
        }
    }

    /// What a successor needs.
    fn incumbent(&self) -> Incumbent<'_> {
        Incumbent {
            cgroup: self.cgroup,
            predecessors: &self.predecessors,
            own_processes: &self.own_processes,
            claim: self.claim.as_ref(),
        }
    }

    /// New connects are nothing of ours any more.
    fn stop_serving(&mut self) {
        match self.when_down {
            WhenDown::Open => self.let_go(),
            WhenDown::Closed => {
                if let Err(error) = self.heartbeat.stop() {
                    error!(%error, "cannot tell the hooks that pgusher stops; new connects fail once it has");
                }
            }
        }
    }

    fn let_go(&mut self) {
        if let Err(error) = self.hooks.let_go() {
            error!(%error, "hooks of ours stay pinned; `pgusher detach` removes them");
        }
    }

    /// Leaves everything new to the successor, and the claim, which it has too; and tells it about what is left here.
    fn retire(&mut self, successor: Successor, admin_socket: &Path) {
        self.note = Note::leave(admin_socket);
        self.let_go();
        self.claim = None;
        let (stages, predecessors) = (Arc::clone(&self.stages), self.predecessors.clone());
        self.companions.start(successor.serve(stages, predecessors));
    }
}

/// Serves the sessions that are left, and whoever is still on the way to us; without a limit in time, but for a signal.
async fn serve_what_is_left(running: &Running, signals: &mut Signals) {
    running.sessions.close();
    running.lineage.close();
    let ended = async {
        sleep(LAST_ARRIVALS).await;
        // No hook guards them any more.
        running.namespaces.close_all().await;
        running.sessions.wait().await;
        running.lineage.wait().await;
    };
    tokio::select! {
        // Accepting first: connects redirected before the hooks went are still served.
        biased;
        () = accept_forever(running) => {}
        () = ended => info!("the sessions that were left have ended"),
        name = signals.next() => info!(signal = name, "stopping the sessions that are left"),
    }
}

/// Accepts and serves; ends only if a thread has that serves.
///
/// # Cancel safety
/// Cancel safe: a connection is either being served or still in the accept queue.
async fn accept_forever(running: &Running) {
    let failure = running.workers.failure();
    if failure
        .run_until_cancelled(accept_each(running))
        .await
        .is_none()
    {
        error!("a thread that serves sessions has ended by itself");
    }
}

async fn accept_each(running: &Running) -> Infallible {
    loop {
        let held = running.namespaces.intake().hold();
        let room = running.stages.sessions.room().await;
        // Before accepting: while the audit trail is stuck, connections wait in the accept queue.
        let place = running.stages.audit.closing_place().await;
        drop(held);
        let desk = running.workers.desk();
        let accepted = running.namespaces.accept(desk.runtime()).await;
        let connection = running.stages.sessions.accepted(room);
        let stages = Arc::clone(&running.stages);
        let runtime = desk.runtime().clone();
        let since = Instant::now();
        let serving = async move {
            stages.pace.took(Stage::Handed, since.elapsed());
            desk.serve(session::serve(stages, accepted, place)).await;
            drop((connection, desk));
        };
        running.sessions.spawn_on(serving, &runtime);
    }
}

/// Lets sessions go on until they end, time runs out, or a second signal comes; then leaves nothing behind but what
/// is declared.
async fn drain(running: Running, config: &Config, signals: &mut Signals) -> Result<()> {
    running.sessions.close();
    let forced = tokio::select! {
        // Accepting first: connects redirected before the hooks went are still served.
        biased;
        () = accept_forever(&running) => Some("a thread that serves sessions has ended"),
        () = running.sessions.wait() => None,
        () = sleep(config.drain_timeout) => Some("the drain timeout has passed"),
        _ = signals.next() => Some("a second signal came"),
    };
    let after_us = running.after_us();
    let Running {
        stages,
        namespaces,
        hooks,
        claim,
        sessions,
        workers,
        companions,
        writer,
        ..
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
    drop(workers);
    drop(namespaces);
    drop(claim);
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
    info!("stopped; {after_us}");
    Ok(())
}
