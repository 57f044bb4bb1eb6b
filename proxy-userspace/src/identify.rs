//! Stage 2, identify: who made this connection, each fact with the grade of trust it deserves.
//!
//! The kernel captured the process at connect(); /proc is read afterwards, through a pidfd, and believed only where
//! it matches the capture. A process that has gone, or runs another executable by now, keeps what the kernel saw
//! and nothing more. Previous stage: [`crate::intercept`]; next: [`crate::startup`].
//!
//! | room | what it tells |
//! |---|---|
//! | `fact`, `identity` | values with grades, and all of them together |
//! | `process`, `entry` | reads /proc in an order that no process can hold up to hide something |
//! | `pinned`, `held` | a process that cannot become another while it is read, and until the next connection |
//! | `executable`, `digest`, `verity` | the file that runs |
//! | `file_state` | whether a file is what it was |
//! | `status`, `capabilities`, `namespaces` | ids, groups, privileges, namespaces |
//! | `ancestry` | who started it |
//! | `cgroup`, `container` | unit, container and pod |
//! | `script`, `redact` | its own words, without secrets |
//! | `names`, `databases` | this host's names for its ids |
//! | `whereabouts` | where it looks up paths |
//! | `observed` | what the hook would have captured, of a process that does not connect |

mod ancestry;
mod capabilities;
mod cgroup;
mod container;
mod databases;
mod digest;
mod entry;
mod executable;
mod fact;
mod file_state;
mod held;
mod identity;
mod names;
mod namespaces;
mod observed;
mod pinned;
mod process;
mod redact;
mod script;
mod status;
mod verity;
mod whereabouts;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use proxy_ebpf::origin::Origin;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::debug;

pub use ancestry::Ancestor;
pub use capabilities::Capabilities;
pub use container::{Container, DEFAULT_POD_LOGS, Pod, Runtime};
pub use fact::{Fact, Grade};
pub(crate) use held::MAX_DESCRIPTORS;
pub use identity::Identity;
pub use namespaces::Namespaces;
pub use observed::UnknownProcess;
pub use pinned::ProcessId;
pub use script::Script;
pub use status::Seccomp;
pub(crate) use whereabouts::Whereabouts;

use crate::config::IdentityConfig;
use databases::Databases;
use digest::Digests;
use held::{Held, IDLE_LIMIT};
use names::{NAMES_LIMIT, Names, ask_libc};
use process::{Enrichment, Host, Reader, RunningFile};

/// How often it is looked for processes that are held and need not be.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long reading /proc may take: asking for a process's executable can block for as long as that process likes (it
/// may lie on a file system it serves itself).
const ENRICH_TIMEOUT: Duration = Duration::from_secs(1);
/// Where this host says who its users are.
const HOST_SETTINGS: &str = "/etc";
/// How many processes are read at once; those whose reads hang are among them.
const MAX_CONCURRENT_READS: usize = 64;
/// For how many processes databases of names are asked at once, beyond this host's files; those that hang are among them.
const MAX_CONCURRENT_QUESTIONS: usize = 16;
/// How long a connection waits for a place among those that read: of a burst the last wait for the first, and only reads
/// that hang keep theirs for so long. For a place to ask it waits as long as for the answer.
const PLACE_LIMIT: Duration = Duration::from_millis(100);

/// Identifies processes, a bounded number at a time.
#[derive(Clone, Debug)]
pub struct Identifier {
    readers: Arc<Semaphore>,
    askers: Arc<Semaphore>,
    host: Arc<Host>,
    our_namespaces: Arc<[Namespaces]>,
    /// There if executables are to be hashed.
    digests: Option<Arc<Digests>>,
}

impl Identifier {
    /// Makes an identifier that checks cgroup paths below `cgroup_root`.
    pub fn new(cgroup_root: &Path, config: &IdentityConfig) -> Self {
        Self {
            readers: Arc::new(Semaphore::new(MAX_CONCURRENT_READS)),
            askers: Arc::new(Semaphore::new(MAX_CONCURRENT_QUESTIONS)),
            host: Arc::new(Host {
                cgroup_root: cgroup_root.to_path_buf(),
                pod_logs: config.pod_logs.clone(),
                held: Held::default(),
                databases: Databases::in_directory(Path::new(HOST_SETTINGS)),
                ask: ask_libc,
            }),
            our_namespaces: Namespaces::ours().into(),
            digests: config.exe_sha256.then(Digests::new),
        }
    }

    /// Makes the identity of the process behind `origin`: what was captured, enriched from /proc where it matches.
    ///
    /// # Cancel safety
    /// Cancel safe; a read that hangs is left behind on its own thread and counts against the bound.
    pub async fn identify(&self, origin: &Origin) -> Identity {
        let mut identity = Identity::captured(origin);
        let mut found = self.read(origin).await;
        let in_files = found.names.take();
        let file = self.enrich(&mut identity, found);
        let groups = identity.groups.as_ref();
        let groups = groups.map(|groups| groups.value().as_slice());
        let names = self.names(origin, groups, in_files);
        let (names, digest) = tokio::join!(names, self.digest(file));
        identity.name(names);
        if let Some((sha256, verity)) = digest {
            identity.exe_sha256 = sha256;
            identity.exe_verity = verity;
        }
        identity
    }

    /// Makes the identity that a process would have if it connected now, from its first thread. The facts have the
    /// grades they would have then, `kernel` among them, although nothing was captured: what this returns is an
    /// answer to "what if", and no proof of anything.
    ///
    /// On file systems whose device number differs between stat() and the kernel (btrfs, some overlayfs) the
    /// executable's facts are `verified` here and `late` at a real connect.
    ///
    /// # Errors
    /// [`UnknownProcess`] when there is no such process, or too little of it can be seen.
    pub async fn identify_running(&self, pid: u32) -> Result<Identity, UnknownProcess> {
        let host = Arc::clone(&self.host);
        let observing =
            tokio::task::spawn_blocking(move || observed::observe(pid, &host.cgroup_root));
        let observed = observing.await.map_err(|_| UnknownProcess::Gone(pid))??;
        let mut identity = self.identify(&observed.origin).await;
        if !observed.knows_netns {
            identity.netns_cookie = None;
        }
        Ok(identity)
    }

    /// Lets go of processes that have not connected for a while, for as long as the task lives.
    pub async fn let_go_forever(self) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        loop {
            ticks.tick().await;
            if let Some(unused_since) = Instant::now().checked_sub(IDLE_LIMIT) {
                self.host.held.let_go(unused_since);
            }
        }
    }

    /// Reads /proc for as long as that may take.
    async fn read(&self, origin: &Origin) -> Enrichment {
        let Some(permit) = self.permit(origin).await else {
            return Enrichment::default();
        };
        let found = Arc::new(Mutex::new(Enrichment::default()));
        let (origin, host) = (*origin, Arc::clone(&self.host));
        let (reading, wants_file) = (Arc::clone(&found), self.digests.is_some());
        let reading = tokio::task::spawn_blocking(move || {
            let reader = Reader {
                origin: &origin,
                host: &host,
                wants_file,
            };
            reader.read(&reading);
            drop(permit);
        });
        let pid = origin.tgid();
        match tokio::time::timeout(ENRICH_TIMEOUT, reading).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(pid, %error, "reading /proc failed"),
            Err(_) => debug!(
                pid,
                "reading /proc takes too long; what has been read counts"
            ),
        }
        std::mem::take(&mut found.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts what was read into the identity, where nothing was captured, but for the file, which it gives back.
    fn enrich(&self, identity: &mut Identity, found: Enrichment) -> Option<RunningFile> {
        let around = found.surroundings;
        if let Some(exe) = found.exe {
            identity.exe = Some(exe.path);
            identity.exe_deleted = Some(exe.is_deleted);
        }
        identity.cmdline = found.cmdline;
        identity.script = found.script;
        identity.ancestors = around.ancestors;
        or_read(&mut identity.groups, around.groups);
        identity.cgroup = around.cgroup;
        identity.systemd_unit = around.placement.systemd_unit;
        identity.systemd_slice = around.placement.systemd_slice;
        identity.container = around.placement.container;
        identity.pod = around.placement.pod;
        or_read(&mut identity.namespaces, around.namespaces);
        let namespaces = identity.namespaces.as_ref();
        identity.other_namespaces = namespaces
            .map(|namespaces| namespaces.with(namespaces.value().other_than(&self.our_namespaces)));
        or_read(&mut identity.tracer_pid, around.tracer_pid);
        or_read(&mut identity.capabilities, found.privileges.capabilities);
        or_read(&mut identity.no_new_privs, found.privileges.no_new_privs);
        or_read(&mut identity.seccomp, found.privileges.seccomp);
        found.file
    }

    /// Looks up the names that the files did not tell. A process that holds up what is read of it does not hide whose it
    /// is, and a database that hangs hides nothing else: asking has places and a time of its own.
    async fn names(
        &self,
        origin: &Origin,
        groups: Option<&[u32]>,
        in_files: Option<Names>,
    ) -> Names {
        let (host, origin) = (Arc::clone(&self.host), *origin);
        let in_files = if let Some(names) = in_files {
            names
        } else {
            let (host, groups) = (Arc::clone(&host), groups.map(<[u32]>::to_vec));
            let looking = tokio::task::spawn_blocking(move || {
                Names::in_files(&host.databases, &origin, groups.as_deref())
            });
            looking.await.unwrap_or_default()
        };
        if in_files.is_whole {
            return in_files;
        }
        let asking = async {
            // Held by whoever asks, until there is an answer.
            let place = Arc::clone(&self.askers).acquire_owned().await.ok()?;
            let groups = groups.map(<[u32]>::to_vec);
            let asking = tokio::task::spawn_blocking(move || {
                let names = Names::of(&host.databases, host.ask, &origin, groups.as_deref());
                drop(place);
                names
            });
            asking.await.ok()
        };
        match tokio::time::timeout(NAMES_LIMIT, asking).await {
            Ok(names) => names.unwrap_or(in_files),
            Err(_) => {
                debug!(uid = origin.uid(), "looking up names takes too long");
                in_files
            }
        }
    }

    /// The file's SHA-256 and fs-verity digest.
    async fn digest(
        &self,
        file: Option<RunningFile>,
    ) -> Option<(Option<Fact<String>>, Option<Fact<String>>)> {
        let (digests, file) = self.digests.as_ref().zip(file)?;
        let sha256 = digests.sha256(file.hashable).await;
        let graded = |digest: String| Fact::new(digest, file.grade);
        Some((sha256.map(graded), file.verity.map(graded)))
    }

    async fn permit(&self, origin: &Origin) -> Option<OwnedSemaphorePermit> {
        let place = Arc::clone(&self.readers).acquire_owned();
        match tokio::time::timeout(PLACE_LIMIT, place).await {
            Ok(place) => place.ok(),
            Err(_) => {
                let pid = origin.tgid();
                debug!(
                    pid,
                    "too many reads hang; the identity lacks what they tell"
                );
                None
            }
        }
    }
}

/// What was captured, or else what was read.
fn or_read<T>(captured: &mut Option<Fact<T>>, read: Option<Fact<T>>) {
    *captured = captured.take().or(read);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identifier(exe_sha256: bool) -> Identifier {
        let config = IdentityConfig {
            exe_sha256,
            ..IdentityConfig::default()
        };
        Identifier::new(&crate::intercept::cgroup_root().unwrap(), &config)
    }

    #[tokio::test]
    async fn a_running_process_has_the_identity_it_would_connect_with() {
        let found = identifier(true).identify_running(std::process::id()).await;
        let identity = found.unwrap();
        let path = std::env::current_exe().unwrap().display().to_string();
        assert_eq!(identity.exe(), Some(&Fact::new(path, Grade::Verified)));
        assert_eq!(identity.cgroup().unwrap().grade(), Grade::Verified);
        assert_eq!(identity.exe_sha256().unwrap().grade(), Grade::Verified);
        assert_eq!(identity.uid().unwrap().grade(), Grade::Kernel);
        let own = nix::unistd::getuid().as_raw();
        assert_eq!(identity.uid().unwrap().value(), &own);
        assert!(identity.other_namespaces().unwrap().value().is_empty());
    }

    #[tokio::test]
    async fn where_too_many_reads_hang_the_capture_and_its_names_are_all_there_is() {
        let identifier = identifier(true);
        let all = u32::try_from(MAX_CONCURRENT_READS).unwrap();
        let hanging = Arc::clone(&identifier.readers).acquire_many_owned(all);
        let hanging = hanging.await.unwrap();
        let origin = Origin::new(std::process::id(), 0, 0, 0, 0);
        let identity = identifier.identify(&origin).await;
        let mut expected = Identity::captured(&origin);
        expected.name(Names::of(
            &identifier.host.databases,
            ask_libc,
            &origin,
            None,
        ));
        assert_eq!(identity, expected);
        drop(hanging);
        assert!(identifier.identify(&origin).await.exe().is_some());
    }

    #[tokio::test]
    async fn of_many_at_once_none_goes_without_what_reading_tells() {
        let identifier = identifier(false);
        let origin = Origin::new(std::process::id(), 0, 0, 0, 0);
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..4 * MAX_CONCURRENT_READS {
            let identifier = identifier.clone();
            all.spawn(async move { identifier.identify(&origin).await });
        }
        let identities = all.join_all().await;
        assert!(identities.iter().all(|identity| identity.exe().is_some()));
    }

    #[tokio::test]
    async fn a_database_that_hangs_hides_nothing_but_names() {
        static HANGING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
        let mut identifier = identifier(false);
        let host = Arc::get_mut(&mut identifier.host).unwrap();
        host.databases = Databases::in_directory(Path::new("/nonexistent"));
        host.ask = |_| {
            drop(HANGING.blocking_lock());
            Ok(None)
        };
        let origin = Origin::new(std::process::id(), 0, 0, 0, 0);
        let until_asserted = HANGING.lock().await;
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..2 * MAX_CONCURRENT_READS {
            let identifier = identifier.clone();
            all.spawn(async move { identifier.identify(&origin).await });
        }
        for identity in all.join_all().await {
            assert!(identity.exe().is_some() && identity.cmdline().is_some());
            assert!(identity.user().is_none() && identity.lacks_names());
        }
        drop(until_asserted);
        assert!(!identifier.identify(&origin).await.lacks_names());
    }
}
