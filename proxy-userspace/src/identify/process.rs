//! Reads a process's /proc entry without being fooled by one that took its number or its place.
//!
//! A hold pins the process; its start time must be the captured one. Only then is what /proc says about the
//! process graded `verified`, and the executable only if it is the captured file: exec after connect() must not lend
//! the connection somebody else's name.
//!
//! Reading goes from what the kernel answers by itself to what the process can hold up: a file system it serves, its
//! own memory. Whatever has been read by the time limit counts, so that a process cannot hide the former by holding up
//! the latter.

use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use proxy_ebpf::offsets::NANOSECONDS_PER_TICK;
use proxy_ebpf::origin::Origin;

use super::ancestry::{self, Ancestor};
use super::capabilities::Capabilities;
use super::container::Placement;
use super::databases::Databases;
use super::digest::Hashable;
use super::entry;
use super::executable::{self, Executable};
use super::fact::{Fact, Grade};
use super::held::Held;
use super::names::{Ask, Names};
use super::namespaces::Namespaces;
use super::pinned::Pinned;
use super::script::{self, Script};
use super::status::{Seccomp, Status};
use super::{cgroup, redact, verity};
use crate::wire::text::printable;

/// How much of a command line is read.
const MAX_COMMAND_LINE_BYTES: usize = 64 * 1024;

/// What /proc adds to a capture.
#[derive(Debug, Default)]
pub(super) struct Enrichment {
    pub(super) surroundings: Surroundings,
    pub(super) exe: Option<Executable>,
    pub(super) privileges: Privileges,
    pub(super) file: Option<RunningFile>,
    pub(super) cmdline: Option<Fact<Vec<String>>>,
    pub(super) script: Option<Fact<Script>>,
    /// What this host's files say its ids are called; `None` if they were not read in time.
    pub(super) names: Option<Names>,
}

/// Where a process runs and who is around it.
#[derive(Debug, Default)]
pub(super) struct Surroundings {
    pub(super) ancestors: Vec<Fact<Ancestor>>,
    pub(super) cgroup: Option<Fact<String>>,
    pub(super) placement: Placement,
    pub(super) groups: Option<Fact<Vec<u32>>>,
    pub(super) namespaces: Option<Fact<Namespaces>>,
    pub(super) tracer_pid: Option<Fact<u32>>,
}

/// What a process may do.
#[derive(Debug, Default)]
pub(super) struct Privileges {
    pub(super) capabilities: Option<Fact<Capabilities>>,
    pub(super) no_new_privs: Option<Fact<bool>>,
    pub(super) seccomp: Option<Fact<Seccomp>>,
}

/// The executable's file, open, with what is asked of it.
#[derive(Debug)]
pub(super) struct RunningFile {
    pub(super) hashable: Hashable,
    pub(super) verity: Option<String>,
    pub(super) grade: Grade,
}

/// What is the same for every process that is read.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) cgroup_root: PathBuf,
    /// Where the kubelet keeps the logs of pods.
    pub(super) pod_logs: PathBuf,
    pub(super) held: Held,
    pub(super) databases: Databases,
    /// Who is asked for names that those files do not have.
    pub(super) ask: Ask,
}

/// One process to be read.
pub(super) struct Reader<'a> {
    pub(super) origin: &'a Origin,
    pub(super) host: &'a Host,
    /// Whether the executable's file is wanted too.
    pub(super) wants_file: bool,
}

impl Reader<'_> {
    /// Reads what can be read into `found`, part by part, and last what the files of names have for its ids. Blocks for
    /// as long as /proc does. No other database is asked here: one that hangs would take everybody's place.
    pub(super) fn read(&self, found: &Mutex<Enrichment>) {
        if let Some((process, grade)) = self.pin() {
            self.read_pinned(&process, grade, found);
        }
        let groups = {
            let found = lock(found);
            let read = found.surroundings.groups.as_ref();
            let captured = self.origin.standing().groups().map(<[u32]>::to_vec);
            captured.or_else(|| read.map(|groups| groups.value().clone()))
        };
        let names = Names::in_files(&self.host.databases, self.origin, groups.as_deref());
        lock(found).names = Some(names);
    }

    fn read_pinned(&self, process: &Pinned, grade: Grade, found: &Mutex<Enrichment>) {
        let pid = process.pid();
        let status = self.status(pid);
        let link = executable::link(pid);
        let surroundings = self.surroundings(process, &status, grade);
        let unchecked = link.as_deref().map(executable::unchecked);
        let privileges = privileges_of(&status, Grade::Late);
        publish(process, found, |found| {
            found.surroundings = surroundings;
            found.exe = unchecked;
            found.privileges = privileges;
        });
        // From here on a file system may be asked that the process itself serves.
        let checked = link.map(|link| executable::checked(&link, self.origin, grade));
        let is_unchanged =
            status.has_ids_of(self.origin) && executable::runs_captured(pid, self.origin);
        let privileges = privileges_of(&status, if is_unchanged { grade } else { Grade::Late });
        let exe = checked.as_ref().map(|exe| exe.path.value().clone());
        publish(process, found, |found| {
            found.exe = checked;
            found.privileges = privileges;
        });
        if self.wants_file {
            let file = self.running_file(pid, grade);
            publish(process, found, |found| found.file = file);
        }
        // Last, because they are worth least: its own words, in memory that only it can unlock.
        let arguments = command_line(pid);
        let script = exe.zip(arguments.as_deref()).and_then(|(exe, arguments)| {
            let cwd = || fs::read_link(format!("/proc/{pid}/cwd")).ok();
            script::script(&exe, arguments, cwd)
        });
        publish(process, found, |found| {
            // The process may rewrite its own arguments at any time: never better than late.
            found.script = script.and_then(redact::script).map(Fact::late);
            found.cmdline = arguments.map(|arguments| Fact::late(redact::arguments(arguments)));
        });
    }

    /// What the process's status says, where the hook has not captured all of it.
    fn status(&self, pid: u32) -> Status {
        if self.origin.standing().is_complete() {
            return Status::default();
        }
        Status::of(pid).unwrap_or_default()
    }

    /// Pins the process and checks that it is the captured one.
    fn pin(&self) -> Option<(Pinned, Grade)> {
        let process = self.host.held.pin(self.origin.tgid())?;
        match self.origin.start_time_ns() {
            None => Some((process, Grade::Late)),
            Some(captured) if process.started_at_ticks() == captured / NANOSECONDS_PER_TICK => {
                Some((process, Grade::Verified))
            }
            Some(_) => None,
        }
    }

    fn surroundings(&self, process: &Pinned, status: &Status, grade: Grade) -> Surroundings {
        let pid = process.pid();
        // Groups change only together with ids, or by a process that may change either.
        let groups_grade = if status.has_ids_of(self.origin) {
            grade
        } else {
            Grade::Late
        };
        let cgroup = cgroup::path(pid, self.origin, grade, &self.host.cgroup_root);
        let placement = cgroup
            .as_ref()
            .map(|path| Placement::of(path, &self.host.pod_logs));
        let namespaces = match Namespaces::captured(self.origin.standing()) {
            Some(_) => None,
            // A process may enter others at any time.
            None => Namespaces::of(&pid.to_string()).map(Fact::late),
        };
        let tracer_pid = match self.origin.standing().tracer() {
            Some(_) => None,
            // One may come and go.
            None => status.tracer_pid.map(Fact::late),
        };
        Surroundings {
            ancestors: ancestry::ancestors(process, self.origin, &self.host.held),
            cgroup,
            placement: placement.unwrap_or_default(),
            groups: status
                .groups
                .clone()
                .map(|groups| Fact::new(groups, groups_grade)),
            namespaces,
            tracer_pid,
        }
    }

    fn running_file(&self, pid: u32, grade: Grade) -> Option<RunningFile> {
        let (file, metadata) = executable::open(pid, self.origin)?;
        let hashable = Hashable::new(file, &metadata)?;
        Some(RunningFile {
            verity: verity::measure(hashable.file()),
            hashable,
            grade,
        })
    }
}

/// Privileges are as good as the process's grade while it runs the captured file with the captured ids: exec of another
/// may add some. What it gives up by itself, it gives up.
fn privileges_of(status: &Status, grade: Grade) -> Privileges {
    Privileges {
        capabilities: status.capabilities.map(|held| Fact::new(held, grade)),
        no_new_privs: status.no_new_privs.map(|is_set| Fact::new(is_set, grade)),
        seccomp: status.seccomp.map(|mode| Fact::new(mode, grade)),
    }
}

/// Hands over a part of what was read. If the process has exited meanwhile its number may have been taken, and what
/// was read may be another's.
fn publish(process: &Pinned, found: &Mutex<Enrichment>, put: impl FnOnce(&mut Enrichment)) {
    if process.is_alive() {
        put(&mut lock(found));
    }
}

fn lock(found: &Mutex<Enrichment>) -> MutexGuard<'_, Enrichment> {
    found.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The start of the process's command line. The process decides how long it is and where it lies, so no more than a
/// bounded part is ever read.
fn command_line(pid: u32) -> Option<Vec<String>> {
    let bytes = entry::read(pid, "cmdline", MAX_COMMAND_LINE_BYTES)?;
    let arguments = bytes
        .strip_suffix(b"\0")
        .unwrap_or(&bytes)
        .split(|byte| *byte == 0);
    Some(arguments.map(printable).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;
    use std::path::Path;

    use super::*;

    fn own_start_time_ns() -> u64 {
        let own = Pinned::open(std::process::id()).unwrap();
        own.started_at_ticks() * NANOSECONDS_PER_TICK
    }

    fn own_origin() -> Origin {
        let (uid, gid) = (
            nix::unistd::getuid().as_raw(),
            nix::unistd::getgid().as_raw(),
        );
        let mut origin = Origin::new(std::process::id(), uid, gid, 0, 0);
        origin.set_effective_ids(
            nix::unistd::geteuid().as_raw(),
            nix::unistd::getegid().as_raw(),
        );
        origin
    }

    fn with_own_file(mut origin: Origin) -> Origin {
        let exe = fs::metadata("/proc/self/exe").unwrap();
        let (major, minor) = executable::device(&exe);
        origin.set_exe(u32::try_from((major << 20) | minor).unwrap(), exe.ino());
        origin
    }

    fn read(origin: &Origin) -> Enrichment {
        let found = Mutex::default();
        let host = Host {
            cgroup_root: PathBuf::from("/nonexistent"),
            pod_logs: PathBuf::from("/nonexistent"),
            held: Held::default(),
            databases: Databases::in_directory(Path::new("/etc")),
            ask: |_| Ok(None),
        };
        let reader = Reader {
            origin,
            host: &host,
            wants_file: true,
        };
        reader.read(&found);
        found.into_inner().unwrap()
    }

    #[test]
    fn a_process_with_the_captured_start_time_ids_and_file_is_verified() {
        let mut origin = with_own_file(own_origin());
        origin.set_start_time_ns(own_start_time_ns() + 5_000_000);
        let found = read(&origin);
        let expected = std::env::current_exe().unwrap().display().to_string();
        let exe = found.exe.unwrap();
        assert_eq!(exe.path, Fact::new(expected, Grade::Verified));
        assert_eq!(exe.is_deleted, Fact::new(false, Grade::Verified));
        assert!(found.file.is_some());
        let surroundings = found.surroundings;
        assert_eq!(surroundings.cgroup.unwrap().grade(), Grade::Late);
        assert_eq!(surroundings.groups.unwrap().grade(), Grade::Verified);
        assert_eq!(
            found.privileges.capabilities.unwrap().grade(),
            Grade::Verified
        );
    }

    #[test]
    fn other_ids_by_now_leave_groups_and_privileges_late() {
        let mut origin = with_own_file(own_origin());
        origin.set_start_time_ns(own_start_time_ns());
        origin.set_effective_ids(4242, 4242);
        let found = read(&origin);
        assert_eq!(found.surroundings.groups.unwrap().grade(), Grade::Late);
        assert_eq!(found.privileges.no_new_privs.unwrap().grade(), Grade::Late);
        assert_eq!(found.exe.unwrap().path.grade(), Grade::Verified);
    }

    #[test]
    fn another_executable_by_now_is_only_late_and_not_hashed() {
        let mut origin = own_origin();
        origin.set_start_time_ns(own_start_time_ns());
        origin.set_exe(0, 1);
        let found = read(&origin);
        assert_eq!(found.exe.unwrap().path.grade(), Grade::Late);
        assert!(found.file.is_none());
        assert_eq!(found.privileges.seccomp.unwrap().grade(), Grade::Late);
    }

    #[test]
    fn a_process_that_took_the_number_lends_nothing() {
        let mut origin = with_own_file(own_origin());
        origin.set_start_time_ns(own_start_time_ns() + 1_000_000_000);
        assert_lends_nothing(&read(&origin));
    }

    #[test]
    fn a_process_that_has_gone_lends_nothing() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let origin = Origin::new(child.id(), 0, 0, 0, 0);
        child.wait().unwrap();
        assert_lends_nothing(&read(&origin));
    }

    fn assert_lends_nothing(found: &Enrichment) {
        let surroundings = &found.surroundings;
        assert!(found.exe.is_none() && found.cmdline.is_none() && found.script.is_none());
        assert!(found.file.is_none() && found.privileges.capabilities.is_none());
        assert!(surroundings.ancestors.is_empty() && surroundings.cgroup.is_none());
        assert!(surroundings.groups.is_none() && surroundings.namespaces.is_none());
    }
}
