//! The status document: what it says and where it reads it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use proxy_ebpf::refusals::Refusals;
use proxy_ebpf::verdict::Verdict;
use serde::{Deserialize, Serialize};

use super::fast_path::FastPathState;
use crate::audit::AuditStats;
use crate::config::WhenDown;
use crate::identify::ProcessId;
use crate::intercept::{Counters, Coverage, HookError, NamespaceCounts, Namespaces};
use crate::policy::{PolicyError, PolicyStatus, Reloaded};
use crate::session::{SessionCounts, StagePace, Stages};
use crate::succession::{Candidates, Predecessors};

/// What the admin socket can see of a running instance.
pub struct Observed {
    fixed: Fixed,
    counters: Arc<Counters>,
    seen: Seen,
    since: Instant,
}

/// What changes while it runs.
pub struct Seen {
    /// The sessions and what they need.
    pub stages: Arc<Stages>,
    /// Who was here before and still serves.
    pub predecessors: Predecessors,
    /// Where a request to take over goes.
    pub candidates: Candidates,
}

/// A running instance at one moment.
#[derive(Debug, Serialize, Deserialize)]
pub struct Status {
    version: String,
    pid: u32,
    uptime_seconds: u64,
    ports: Vec<u16>,
    cgroup: PathBuf,
    listen: Vec<std::net::SocketAddr>,
    namespaces: NamespaceCounts,
    sessions: SessionCounts,
    /// Missing where an older instance answers.
    #[serde(default)]
    setup: Vec<StagePace>,
    audit: AuditStats,
    policy: PolicyStatus,
    kernel: KernelCounts,
    unix_sockets: UnixCoverage,
    /// Missing where an older instance answers.
    #[serde(default)]
    fast_path: FastPathState,
    /// The counters of `kernel` whose connects are refused.
    refuses: Vec<String>,
    coverage: Coverage,
    when_down: WhenDown,
    predecessors: PredecessorCounts,
}

impl Status {
    /// The instance's process.
    pub fn pid(&self) -> u32 {
        self.pid
    }
}

/// The hooks' counters; docs/architecture.md says what each means.
#[derive(Debug, Serialize, Deserialize)]
struct KernelCounts {
    redirected: u64,
    own_process: u64,
    other_netns: u64,
    link_local: u64,
    no_listener: u64,
    storage_failed: u64,
    bound_to_device: u64,
    own_listener: u64,
    unserved: u64,
    unix_redirected: u64,
    published: u64,
    publish_failed: u64,
}

impl KernelCounts {
    fn read(counters: &Counters) -> Result<Self, HookError> {
        Ok(Self {
            redirected: counters.read(Verdict::Redirected)?,
            own_process: counters.read(Verdict::OwnProcess)?,
            other_netns: counters.read(Verdict::OtherNetns)?,
            link_local: counters.read(Verdict::LinkLocal)?,
            no_listener: counters.read(Verdict::NoListener)?,
            storage_failed: counters.read(Verdict::StorageFailed)?,
            bound_to_device: counters.read(Verdict::BoundToDevice)?,
            own_listener: counters.read(Verdict::OwnListener)?,
            unserved: counters.read(Verdict::Unserved)?,
            unix_redirected: counters.read(Verdict::UnixRedirected)?,
            published: counters.read(Verdict::Published)?,
            publish_failed: counters.read(Verdict::PublishFailed)?,
        })
    }
}

impl KernelCounts {
    /// What was not redirected, and in which words the status tells it.
    fn not_redirected(&self) -> [(Verdict, u64, &'static str); 8] {
        [
            (Verdict::OwnProcess, self.own_process, "own"),
            (
                Verdict::OtherNetns,
                self.other_netns,
                "other network namespace",
            ),
            (Verdict::LinkLocal, self.link_local, "link-local"),
            (Verdict::NoListener, self.no_listener, "no listener"),
            (
                Verdict::BoundToDevice,
                self.bound_to_device,
                "bound to an interface",
            ),
            (Verdict::StorageFailed, self.storage_failed, "no storage"),
            (
                Verdict::OwnListener,
                self.own_listener,
                "straight to a listener of pgusher's",
            ),
            (Verdict::Unserved, self.unserved, "nobody served"),
        ]
    }
}

/// What becomes of connects to servers' unix sockets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum UnixCoverage {
    /// They are intercepted.
    Intercepted,
    /// They go direct, as the operator wants.
    Off,
    /// They go direct, because the kernel cannot do it.
    Impossible {
        /// What it lacks.
        reason: String,
    },
}

impl UnixCoverage {
    /// Whether they are intercepted.
    pub fn is_intercepted(&self) -> bool {
        *self == Self::Intercepted
    }
}

impl fmt::Display for UnixCoverage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Intercepted => out.write_str("intercepted"),
            Self::Off => out.write_str("not intercepted: switched off"),
            Self::Impossible { reason } => write!(out, "not intercepted: {reason}"),
        }
    }
}

/// What stays the same while an instance runs.
pub struct Fixed {
    /// Intercepted ports.
    pub ports: Vec<u16>,
    /// The cgroup the hooks are attached to.
    pub cgroup: PathBuf,
    /// Our listeners.
    pub namespaces: Arc<Namespaces>,
    /// Which connects that are not redirected fail.
    pub refusals: Refusals,
    /// What becomes of connects to unix sockets.
    pub unix_sockets: UnixCoverage,
    /// What was there before us.
    pub coverage: Coverage,
    /// What becomes of connects while we are down.
    pub when_down: WhenDown,
}

/// Those that still serve, as the status shows them.
#[derive(Debug, Serialize, Deserialize)]
struct PredecessorCounts {
    pids: Vec<u32>,
    /// Those whose successor has died, so that nobody tells of their sessions; they are in `pids` too.
    #[serde(default)]
    silent: Vec<u32>,
    sessions: u64,
}

impl Observed {
    /// Starts observing; the uptime counts from here.
    pub fn new(fixed: Fixed, counters: Arc<Counters>, seen: Seen) -> Self {
        Self {
            fixed,
            counters,
            seen,
            since: Instant::now(),
        }
    }

    /// Reads everything now.
    ///
    /// # Errors
    /// [`HookError`] when the kernel's counters cannot be read.
    pub fn status(&self) -> Result<Status, HookError> {
        let sessions = self.seen.stages.sessions.counts();
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.since.elapsed().as_secs(),
            ports: self.fixed.ports.clone(),
            cgroup: self.fixed.cgroup.clone(),
            listen: {
                let own = self.fixed.namespaces.own_listeners().iter();
                own.map(|listener| listener.0).collect()
            },
            namespaces: self.fixed.namespaces.counts(),
            audit: self.seen.stages.audit.stats(),
            policy: self.seen.stages.policy.status(),
            sessions,
            setup: self.seen.stages.pace.read(),
            kernel: KernelCounts::read(&self.counters)?,
            unix_sockets: self.fixed.unix_sockets.clone(),
            fast_path: FastPathState::read(self.seen.stages.fast_path.as_deref())?,
            refuses: Verdict::ALL
                .into_iter()
                .filter(|verdict| self.fixed.refusals.contains(*verdict))
                .map(|verdict| verdict.name().to_owned())
                .collect(),
            coverage: self.fixed.coverage,
            when_down: self.fixed.when_down,
            predecessors: PredecessorCounts {
                pids: pids(&self.seen.predecessors.processes()),
                silent: pids(&self.seen.predecessors.silent()),
                sessions: self.seen.predecessors.sessions(),
            },
        })
    }

    /// Where a request to take over goes.
    pub(super) fn candidates(&self) -> &Candidates {
        &self.seen.candidates
    }
}

impl Observed {
    /// Reads the policies again. Blocks.
    ///
    /// # Errors
    /// [`PolicyError`]
    pub fn reload_policy(&self) -> Result<Option<Reloaded>, PolicyError> {
        let reloaded = self.seen.stages.policy.reload()?;
        // Their sessions are under the same policies; under none that we cannot use.
        self.seen.predecessors.reload();
        let predecessors = pids(&self.seen.predecessors.processes());
        Ok(reloaded.map(|reloaded| Reloaded {
            predecessors,
            ..reloaded
        }))
    }
}

fn pids(processes: &[ProcessId]) -> Vec<u32> {
    processes.iter().map(|process| process.pid).collect()
}

impl fmt::Display for Status {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |items: Vec<String>| items.join(", ");
        writeln!(
            out,
            "pgusher {} (pid {}), up {} s",
            self.version, self.pid, self.uptime_seconds
        )?;
        writeln!(
            out,
            "intercepting  ports {} in {}, to {}",
            list(self.ports.iter().map(u16::to_string).collect()),
            self.cgroup.display(),
            list(self.listen.iter().map(ToString::to_string).collect())
        )?;
        let namespaces = &self.namespaces;
        writeln!(
            out,
            "namespaces    {} intercepted, {} opened since start, {} released, {} failures",
            namespaces.intercepted, namespaces.opened, namespaces.released, namespaces.failed
        )?;
        let sessions = &self.sessions;
        writeln!(
            out,
            "sessions      {} now, {} since start, {} refused",
            sessions.active, sessions.total, sessions.refused
        )?;
        let setup: Vec<&StagePace> = self.setup.iter().filter(|stage| stage.count > 0).collect();
        if !setup.is_empty() {
            let setup = setup.into_iter().map(ToString::to_string).collect();
            writeln!(out, "setup         p50/p99: {}", list(setup))?;
        }
        let predecessors = &self.predecessors;
        if !predecessors.pids.is_empty() {
            let pids = |pids: &[u32]| list(pids.iter().map(u32::to_string).collect());
            write!(
                out,
                "predecessors  {} still serve {} sessions (pid {})",
                predecessors.pids.len(),
                predecessors.sessions,
                pids(&predecessors.pids)
            )?;
            if !predecessors.silent.is_empty() {
                let silent = pids(&predecessors.silent);
                write!(out, " and those of pid {silent}, whose successor died")?;
            }
            writeln!(out)?;
        }
        let audit = &self.audit;
        writeln!(
            out,
            "audit         {} written, {} waiting, {} dropped, {} sink failures",
            audit.written, audit.queued, audit.dropped, audit.failures
        )?;
        writeln!(out, "policy        {}", self.policy)?;
        self.kernel_lines(out)?;
        self.coverage_lines(out)
    }
}

impl Status {
    fn kernel_lines(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kernel = &self.kernel;
        writeln!(
            out,
            "kernel        {} redirected, {} published, {} not published",
            kernel.redirected, kernel.published, kernel.publish_failed
        )?;
        writeln!(
            out,
            "unix sockets  {}, {} redirected",
            self.unix_sockets, kernel.unix_redirected
        )?;
        writeln!(out, "fast path     {}", self.fast_path)?;
        let (refused, direct): (Vec<_>, Vec<_>) = kernel
            .not_redirected()
            .into_iter()
            .partition(|(verdict, ..)| self.refuses.iter().any(|name| name == verdict.name()));
        for (heading, counts) in [("went direct", direct), ("refused", refused)] {
            let counts = counts
                .into_iter()
                .map(|(_, count, text)| format!("{count} {text}"));
            let counts: Vec<String> = counts.collect();
            writeln!(out, "{heading:<12}  {}", counts.join(", "))?;
        }
        Ok(())
    }

    fn coverage_lines(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let when_down = match self.when_down {
            WhenDown::Open => "connects go direct",
            WhenDown::Closed => "connects are refused, until the next start or `pgusher detach`",
        };
        writeln!(out, "when down     {when_down}")?;
        let coverage = &self.coverage;
        let established = match coverage.established {
            Some(found) => format!(
                "{found} sessions of before, {} of them reset",
                coverage.reset
            ),
            None => "sessions of before not looked for".to_owned(),
        };
        write!(
            out,
            "not covered   {established}, {} unix sockets (at start)",
            coverage.unix_sockets
        )
    }
}
