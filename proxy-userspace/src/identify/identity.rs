//! The identity of a calling process: every fact there is about it, as the records show it (docs/audit.md).

use proxy_ebpf::origin::Origin;
use serde::{Deserialize, Serialize};

use super::ancestry::Ancestor;
use super::capabilities::Capabilities;
use super::container::{Container, Pod};
use super::fact::Fact;
use super::names::Names;
use super::namespaces::Namespaces;
use super::script::Script;
use super::status::Seccomp;
use crate::wire::text::printable;

/// The identity of a process that connected. [`Identifier`](super::Identifier) makes one; one that is read back from a
/// record is that record's word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pid: Fact<u32>,
    start_time_ns: Option<Fact<u64>>,
    pub(super) parent_pid: Option<Fact<u32>>,
    uid: Fact<u32>,
    pub(super) euid: Option<Fact<u32>>,
    pub(super) user: Option<Fact<String>>,
    gid: Fact<u32>,
    pub(super) egid: Option<Fact<u32>>,
    pub(super) group: Option<Fact<String>>,
    #[serde(default)]
    pub(super) effective_group: Option<Fact<String>>,
    pub(super) groups: Option<Fact<Vec<u32>>>,
    pub(super) group_names: Option<Fact<Vec<String>>>,
    login_uid: Option<Fact<u32>>,
    comm: Fact<String>,
    pub(super) exe: Option<Fact<String>>,
    exe_device: Option<Fact<String>>,
    exe_inode: Option<Fact<u64>>,
    pub(super) exe_deleted: Option<Fact<bool>>,
    pub(super) exe_sha256: Option<Fact<String>>,
    pub(super) exe_verity: Option<Fact<String>>,
    pub(super) cmdline: Option<Fact<Vec<String>>>,
    pub(super) script: Option<Fact<Script>>,
    #[serde(default)]
    pub(super) ancestors: Vec<Fact<Ancestor>>,
    cgroup_id: Fact<u64>,
    pub(super) cgroup: Option<Fact<String>>,
    pub(super) systemd_unit: Option<Fact<String>>,
    pub(super) systemd_slice: Option<Fact<String>>,
    pub(super) container: Option<Fact<Container>>,
    pub(super) pod: Option<Fact<Pod>>,
    pub(super) netns_cookie: Option<Fact<u64>>,
    pub(super) namespaces: Option<Fact<Namespaces>>,
    pub(super) other_namespaces: Option<Fact<Vec<String>>>,
    pub(super) capabilities: Option<Fact<Capabilities>>,
    pub(super) no_new_privs: Option<Fact<bool>>,
    pub(super) seccomp: Option<Fact<Seccomp>>,
    pub(super) tracer_pid: Option<Fact<u32>>,
    /// Not every name was looked up that the ids may have. What a record says is all that was known.
    #[serde(skip)]
    lacks_names: bool,
}

impl Identity {
    /// What the hook captured, and nothing else.
    pub(super) fn captured(origin: &Origin) -> Self {
        let exe = origin.exe();
        let effective = origin.effective_ids();
        let standing = origin.standing();
        let tracer = standing.tracer().filter(|tgid| *tgid != 0);
        let seccomp = standing.seccomp_mode().and_then(Seccomp::from_mode);
        Self {
            pid: Fact::kernel(origin.tgid()),
            start_time_ns: origin.start_time_ns().map(Fact::kernel),
            parent_pid: origin.parent().map(|(tgid, _)| Fact::kernel(tgid)),
            uid: Fact::kernel(origin.uid()),
            euid: effective.map(|(uid, _)| Fact::kernel(uid)),
            user: None,
            gid: Fact::kernel(origin.gid()),
            egid: effective.map(|(_, gid)| Fact::kernel(gid)),
            group: None,
            effective_group: None,
            groups: standing
                .groups()
                .map(|groups| Fact::kernel(groups.to_vec())),
            group_names: None,
            login_uid: origin.login_uid().map(Fact::kernel),
            comm: Fact::kernel(printable(origin.comm())),
            exe: None,
            exe_device: exe.map(|((major, minor), _)| Fact::kernel(format!("{major}:{minor}"))),
            exe_inode: exe.map(|(_, inode)| Fact::kernel(inode)),
            exe_deleted: None,
            exe_sha256: None,
            exe_verity: None,
            cmdline: None,
            script: None,
            ancestors: Vec::new(),
            cgroup_id: Fact::kernel(origin.cgroup_id()),
            cgroup: None,
            systemd_unit: None,
            systemd_slice: None,
            container: None,
            pod: None,
            netns_cookie: Some(Fact::kernel(origin.netns_cookie())),
            namespaces: Namespaces::captured(standing).map(Fact::kernel),
            other_namespaces: None,
            capabilities: standing
                .capabilities()
                .map(|mask| Fact::kernel(Capabilities::from_bits(mask))),
            no_new_privs: standing.no_new_privs().map(Fact::kernel),
            seccomp: seccomp.map(Fact::kernel),
            tracer_pid: tracer.map(Fact::kernel),
            lacks_names: true,
        }
    }

    /// Adds this host's names for the ids.
    pub(super) fn name(&mut self, names: Names) {
        self.user = names.user.map(Fact::late);
        self.group = names.group.map(Fact::late);
        self.effective_group = names.effective_group.map(Fact::late);
        self.group_names = names.groups.map(Fact::late);
        self.lacks_names = !names.is_whole;
    }

    /// Whether its ids may have names that it does not tell.
    pub(crate) fn lacks_names(&self) -> bool {
        self.lacks_names
    }

    /// The process id in the initial pid namespace, for what has to name the process and nothing more.
    pub(crate) fn process_id(&self) -> u32 {
        *self.pid.value()
    }

    /// The real user id in the initial user namespace, for what has to name the process and nothing more.
    pub(crate) fn real_uid(&self) -> u32 {
        *self.uid.value()
    }
}

/// The facts one by one. A fact that could not be had is none; a few are always there.
impl Identity {
    /// The process id in the initial pid namespace; always there.
    pub fn pid(&self) -> Option<&Fact<u32>> {
        Some(&self.pid)
    }

    /// When the process started, in nanoseconds since boot.
    pub fn start_time_ns(&self) -> Option<&Fact<u64>> {
        self.start_time_ns.as_ref()
    }

    /// The parent's process id at connect().
    pub fn parent_pid(&self) -> Option<&Fact<u32>> {
        self.parent_pid.as_ref()
    }

    /// The real user id in the initial user namespace; always there.
    pub fn uid(&self) -> Option<&Fact<u32>> {
        Some(&self.uid)
    }

    /// The effective user id of the calling thread.
    pub fn euid(&self) -> Option<&Fact<u32>> {
        self.euid.as_ref()
    }

    /// The name of [`Identity::uid`] in this host's user database.
    pub fn user(&self) -> Option<&Fact<String>> {
        self.user.as_ref()
    }

    /// The real group id in the initial user namespace; always there.
    pub fn gid(&self) -> Option<&Fact<u32>> {
        Some(&self.gid)
    }

    /// The effective group id of the calling thread.
    pub fn egid(&self) -> Option<&Fact<u32>> {
        self.egid.as_ref()
    }

    /// The name of [`Identity::gid`] in this host's group database.
    pub fn group(&self) -> Option<&Fact<String>> {
        self.group.as_ref()
    }

    /// The name of [`Identity::egid`] likewise.
    pub fn effective_group(&self) -> Option<&Fact<String>> {
        self.effective_group.as_ref()
    }

    /// The supplementary group ids, all of them.
    pub fn groups(&self) -> Option<&Fact<Vec<u32>>> {
        self.groups.as_ref()
    }

    /// The names of those of [`Identity::groups`] that have one.
    pub fn group_names(&self) -> Option<&Fact<Vec<String>>> {
        self.group_names.as_ref()
    }

    /// The audit login uid.
    pub fn login_uid(&self) -> Option<&Fact<u32>> {
        self.login_uid.as_ref()
    }

    /// The calling thread's command name, which any process can set; always there.
    pub fn comm(&self) -> Option<&Fact<String>> {
        Some(&self.comm)
    }

    /// The path of the executable.
    pub fn exe(&self) -> Option<&Fact<String>> {
        self.exe.as_ref()
    }

    /// The device of the executable's file system, `major:minor`.
    pub fn exe_device(&self) -> Option<&Fact<String>> {
        self.exe_device.as_ref()
    }

    /// The executable's inode.
    pub fn exe_inode(&self) -> Option<&Fact<u64>> {
        self.exe_inode.as_ref()
    }

    /// Whether the executable's file is no longer at that path.
    pub fn exe_deleted(&self) -> Option<&Fact<bool>> {
        self.exe_deleted.as_ref()
    }

    /// The SHA-256 of the file that runs, in hexadecimal.
    pub fn exe_sha256(&self) -> Option<&Fact<String>> {
        self.exe_sha256.as_ref()
    }

    /// The fs-verity digest of the file that runs, `algorithm:hexadecimal`.
    pub fn exe_verity(&self) -> Option<&Fact<String>> {
        self.exe_verity.as_ref()
    }

    /// The arguments, redacted and bounded.
    pub fn cmdline(&self) -> Option<&Fact<Vec<String>>> {
        self.cmdline.as_ref()
    }

    /// What the interpreter runs, where the executable is one.
    pub fn script(&self) -> Option<&Fact<Script>> {
        self.script.as_ref()
    }

    /// Parent, its parent and so on, as far as they could be read.
    pub fn ancestors(&self) -> &[Fact<Ancestor>] {
        &self.ancestors
    }

    /// The cgroup-v2 id; always there.
    pub fn cgroup_id(&self) -> Option<&Fact<u64>> {
        Some(&self.cgroup_id)
    }

    /// The path in the cgroup-v2 hierarchy.
    pub fn cgroup(&self) -> Option<&Fact<String>> {
        self.cgroup.as_ref()
    }

    /// The service or scope that systemd itself put the process into.
    pub fn systemd_unit(&self) -> Option<&Fact<String>> {
        self.systemd_unit.as_ref()
    }

    /// The innermost slice of systemd's own that holds the process.
    pub fn systemd_slice(&self) -> Option<&Fact<String>> {
        self.systemd_slice.as_ref()
    }

    /// The container, as the runtime named its cgroup.
    pub fn container(&self) -> Option<&Fact<Container>> {
        self.container.as_ref()
    }

    /// The Kubernetes pod.
    pub fn pod(&self) -> Option<&Fact<Pod>> {
        self.pod.as_ref()
    }

    /// The cookie of the socket's network namespace.
    pub fn netns_cookie(&self) -> Option<&Fact<u64>> {
        self.netns_cookie.as_ref()
    }

    /// The process's namespaces, by number.
    pub fn namespaces(&self) -> Option<&Fact<Namespaces>> {
        self.namespaces.as_ref()
    }

    /// The kinds of namespaces that are not pgusher's own.
    pub fn other_namespaces(&self) -> Option<&Fact<Vec<String>>> {
        self.other_namespaces.as_ref()
    }

    /// The effective capabilities, valid in the process's own user namespace.
    pub fn capabilities(&self) -> Option<&Fact<Capabilities>> {
        self.capabilities.as_ref()
    }

    /// Whether exec can no longer give the process privileges.
    pub fn no_new_privs(&self) -> Option<&Fact<bool>> {
        self.no_new_privs.as_ref()
    }

    /// Which system calls are filtered, if any.
    pub fn seccomp(&self) -> Option<&Fact<Seccomp>> {
        self.seccomp.as_ref()
    }

    /// The process that traces it, if one does.
    pub fn tracer_pid(&self) -> Option<&Fact<u32>> {
        self.tracer_pid.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::super::container::Runtime;
    use super::super::fact::Grade;
    use super::*;

    fn sample() -> Identity {
        let mut origin = Origin::new(7, 1000, 100, 42, 1);
        origin.set_effective_ids(0, 100);
        origin.set_parent(5, 10);
        origin.set_comm(*b"psql\0\0\0\0\0\0\0\0\0\0\0\0");
        let mut identity = Identity::captured(&origin);
        identity.seccomp = Some(Fact::late(Seccomp::Filter));
        identity.ancestors = vec![Fact::late(Ancestor {
            pid: 5,
            start_time_ns: 10,
            exe: None,
            comm: "sh".to_owned(),
        })];
        identity.container = Some(Fact::late(Container {
            runtime: Runtime::CriO,
            id: "ab".to_owned(),
        }));
        identity
    }

    #[test]
    fn an_identity_is_read_back_from_a_record_as_it_was() {
        let mut identity = sample();
        let record = serde_json::to_string(&identity).unwrap();
        assert!(record.contains(r#""runtime":"cri-o""#), "{record}");
        let read: Identity = serde_json::from_str(&record).unwrap();
        // Nobody can look up more.
        identity.lacks_names = false;
        assert_eq!(read, identity);
    }

    #[test]
    fn a_record_of_an_older_version_lacks_facts_and_is_read_all_the_same() {
        let mut record = serde_json::to_value(sample()).unwrap();
        let fields = record.as_object_mut().unwrap();
        for absent in [
            "euid",
            "egid",
            "ancestors",
            "container",
            "seccomp",
            "namespaces",
        ] {
            fields.remove(absent);
        }
        let read: Identity = serde_json::from_value(record.clone()).unwrap();
        assert_eq!((read.euid(), read.ancestors().len()), (None, 0));
        assert_eq!(*read.uid().unwrap().value(), 1000);
        // What every record has is not made up.
        record.as_object_mut().unwrap().remove("uid");
        assert!(serde_json::from_value::<Identity>(record).is_err());
    }

    #[test]
    fn facts_that_the_hook_captures_are_of_grade_kernel() {
        let identity = sample();
        let ids = [
            identity.uid(),
            identity.euid(),
            identity.gid(),
            identity.egid(),
        ];
        let found = ids.map(|id| id.map(|id| (*id.value(), id.grade())));
        let kernel = |value| Some((value, Grade::Kernel));
        assert_eq!(found, [kernel(1000), kernel(0), kernel(100), kernel(100)]);
        let parent = identity
            .parent_pid()
            .map(|parent| (*parent.value(), parent.grade()));
        assert_eq!(parent, kernel(5));
    }
}
