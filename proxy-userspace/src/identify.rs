//! Stage 2, identify: who made this connection, each fact with the grade of trust it deserves.
//!
//! The kernel captured the process at connect(); /proc is read afterwards, through a pidfd, and believed only where
//! it matches the capture. A process that has gone, or runs another executable by now, keeps what the kernel saw
//! and nothing more. Previous stage: [`crate::intercept`]; next: [`crate::startup`].

mod process;
mod redact;
mod unit;

use std::sync::Arc;
use std::time::Duration;

use proxy_ebpf::origin::Origin;
use serde::Serialize;
use tokio::sync::Semaphore;
use tracing::debug;

use crate::wire::text::printable;

/// How long reading /proc may take: reading another process's command line can block for as long as that process
/// likes (its memory may be backed by a file system it serves itself).
const ENRICH_TIMEOUT: Duration = Duration::from_secs(1);
/// How many such reads may hang at once before further ones are given up at the start.
const MAX_CONCURRENT_READS: usize = 64;

/// How far a fact can be trusted, from what nobody can forge to what somebody merely says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// Captured in the hook, at connect().
    Kernel,
    /// Read from /proc and matched against the capture.
    Verified,
    /// Read from /proc, with nothing to match it against, or not matching.
    Late,
    /// The client said so.
    Claimed,
    /// The server said so.
    Confirmed,
}

impl Grade {
    /// Its name in records and policies.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Verified => "verified",
            Self::Late => "late",
            Self::Claimed => "claimed",
            Self::Confirmed => "confirmed",
        }
    }
}

/// A value and how far it can be trusted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fact<T> {
    value: T,
    grade: Grade,
}

impl<T> Fact<T> {
    /// What the fact says.
    pub fn value(&self) -> &T {
        &self.value
    }

    /// How far to trust it.
    pub fn grade(&self) -> Grade {
        self.grade
    }

    fn kernel(value: T) -> Self {
        Self {
            value,
            grade: Grade::Kernel,
        }
    }
}

/// The identity of a calling process. Only [`Identifier::identify`] makes one.
#[derive(Clone, Debug, Serialize)]
pub struct Identity {
    pid: Fact<u32>,
    start_time_ns: Option<Fact<u64>>,
    uid: Fact<u32>,
    user: Option<Fact<String>>,
    gid: Fact<u32>,
    login_uid: Option<Fact<u32>>,
    comm: Fact<String>,
    exe: Option<Fact<String>>,
    exe_device: Option<Fact<String>>,
    exe_inode: Option<Fact<u64>>,
    cmdline: Option<Fact<Vec<String>>>,
    cgroup_id: Fact<u64>,
    cgroup: Option<Fact<String>>,
    systemd_unit: Option<Fact<String>>,
    netns_cookie: Fact<u64>,
}

impl Identity {
    /// What the hook captured, and nothing else.
    fn captured(origin: &Origin) -> Self {
        let exe = origin.exe();
        Self {
            pid: Fact::kernel(origin.tgid()),
            start_time_ns: origin.start_time_ns().map(Fact::kernel),
            uid: Fact::kernel(origin.uid()),
            user: None,
            gid: Fact::kernel(origin.gid()),
            login_uid: origin.login_uid().map(Fact::kernel),
            comm: Fact::kernel(printable(origin.comm())),
            exe: None,
            exe_device: exe.map(|((major, minor), _)| Fact::kernel(format!("{major}:{minor}"))),
            exe_inode: exe.map(|(_, inode)| Fact::kernel(inode)),
            cmdline: None,
            cgroup_id: Fact::kernel(origin.cgroup_id()),
            cgroup: None,
            systemd_unit: None,
            netns_cookie: Fact::kernel(origin.netns_cookie()),
        }
    }

    fn enrich(&mut self, enrichment: process::Enrichment) {
        self.user = enrichment.user;
        self.exe = enrichment.exe;
        self.cmdline = enrichment.cmdline;
        self.systemd_unit = enrichment.cgroup.as_ref().and_then(unit::systemd_unit);
        self.cgroup = enrichment.cgroup;
    }

    /// The process id in the initial pid namespace.
    pub fn pid(&self) -> u32 {
        self.pid.value
    }

    /// The real user id in the initial user namespace.
    pub fn uid(&self) -> u32 {
        self.uid.value
    }

    /// When the process was started, in nanoseconds since boot.
    pub fn start_time_ns(&self) -> Option<u64> {
        self.start_time_ns.as_ref().map(|fact| fact.value)
    }

    /// The real group id in the initial user namespace.
    pub fn gid(&self) -> u32 {
        self.gid.value
    }

    /// The user's name.
    pub fn user(&self) -> Option<&Fact<String>> {
        self.user.as_ref()
    }

    /// The audit login uid.
    pub fn login_uid(&self) -> Option<&Fact<u32>> {
        self.login_uid.as_ref()
    }

    /// The executable's path.
    pub fn exe_fact(&self) -> Option<&Fact<String>> {
        self.exe.as_ref()
    }

    /// The path of its cgroup.
    pub fn cgroup(&self) -> Option<&Fact<String>> {
        self.cgroup.as_ref()
    }

    /// The systemd unit it is of.
    pub fn systemd_unit(&self) -> Option<&Fact<String>> {
        self.systemd_unit.as_ref()
    }

    /// The executable's path, if it could be read.
    pub fn exe(&self) -> Option<&str> {
        self.exe.as_ref().map(|exe| exe.value.as_str())
    }
}

/// Identifies processes, a bounded number at a time.
#[derive(Clone, Debug)]
pub struct Identifier {
    readers: Arc<Semaphore>,
    cgroup_root: Arc<std::path::Path>,
}

impl Identifier {
    /// Makes an identifier that checks cgroup paths below `cgroup_root`.
    pub fn new(cgroup_root: &std::path::Path) -> Self {
        Self {
            readers: Arc::new(Semaphore::new(MAX_CONCURRENT_READS)),
            cgroup_root: Arc::from(cgroup_root),
        }
    }

    /// Makes the identity of the process behind `origin`: what was captured, enriched from /proc where it matches.
    ///
    /// # Cancel safety
    /// Cancel safe; a read that hangs is left behind on its own thread and counts against the bound.
    pub async fn identify(&self, origin: &Origin) -> Identity {
        let mut identity = Identity::captured(origin);
        let Ok(permit) = Arc::clone(&self.readers).try_acquire_owned() else {
            debug!(
                pid = origin.tgid(),
                "too many /proc reads hang; the identity is the capture alone"
            );
            return identity;
        };
        let (origin, root) = (*origin, Arc::clone(&self.cgroup_root));
        let reading = tokio::task::spawn_blocking(move || {
            let enrichment = process::enrich(&origin, &root);
            drop(permit);
            enrichment
        });
        match tokio::time::timeout(ENRICH_TIMEOUT, reading).await {
            Ok(Ok(enrichment)) => identity.enrich(enrichment),
            Ok(Err(error)) => debug!(pid = identity.pid(), %error, "reading /proc failed"),
            Err(_) => debug!(pid = identity.pid(), "reading /proc took too long"),
        }
        identity
    }
}
