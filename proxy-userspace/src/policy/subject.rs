//! Who asks: a process as policies see it, and what it is a member of.
//!
//! **Invariant:** a membership is made only of facts graded `kernel` or `verified`. What is merely `late` can be read
//! among the attributes, where a policy has to ask for it by name.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::attributes::Attributes;
use super::interest::Interest;
use crate::identify::{Fact, Identity};

/// A group that a process is a member of, as policies name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Membership {
    /// The entity type.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The entity's id.
    pub id: String,
}

/// A kind of groups of which nobody could establish whether a process is a member: it has exited, or has moved since, or
/// reading takes too long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Doubt {
    kind: &'static str,
    /// Only where a group goes by its name, and not by a number or a pod's uid.
    of_names_only: bool,
}

impl Doubt {
    /// Whether it is in doubt if the process is a member of this one.
    pub(super) fn is_about(&self, kind: &str, id: &str) -> bool {
        let is_name = !id.starts_with('#') && !id.starts_with("uid:");
        self.kind == kind && (is_name || !self.of_names_only)
    }

    /// The entity type.
    pub(super) fn kind(&self) -> &'static str {
        self.kind
    }
}

/// A process, ready to be asked about.
#[derive(Clone, Debug, PartialEq)]
pub struct Subject {
    pub(super) id: String,
    pub(super) memberships: Vec<Membership>,
    pub(super) grades: Map<String, Value>,
    doubts: Vec<Doubt>,
    attributes: Attributes,
    workload: Workload,
}

/// A process in an operator's own words, for tests of policies; every membership is taken as attested.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Description {
    /// The user's name.
    pub user: Option<String>,
    /// The real user id.
    pub uid: Option<u32>,
    /// The real group id.
    pub gid: Option<u32>,
    /// Names of groups.
    pub groups: Vec<String>,
    /// The audit login uid.
    pub login_uid: Option<u32>,
    /// The systemd unit.
    pub unit: Option<String>,
    /// The systemd slice.
    pub slice: Option<String>,
    /// The container's id.
    pub container: Option<String>,
    /// The pod, as namespace/name.
    pub pod: Option<String>,
    /// The executable's path.
    pub executable: Option<String>,
    /// Its SHA-256.
    pub sha256: Option<String>,
    /// The script that it runs.
    pub script: Option<String>,
}

/// The uid and gid of a process whose description has none: nobody's.
const NOBODY: u32 = 65_534;

/// What is run, however many processes run it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    process: (u32, Option<u64>),
    container: Option<String>,
    unit: Option<String>,
    /// User, and the program's file.
    program: Option<(u32, String, u64)>,
}

impl Workload {
    /// Whether both are the same process, container, unit, or program of the same user.
    pub fn is_same(&self, other: &Self) -> bool {
        fn is_same<T: PartialEq>(one: &Option<T>, other: &Option<T>) -> bool {
            one.is_some() && one == other
        }
        self.process == other.process
            || is_same(&self.container, &other.container)
            || is_same(&self.unit, &other.unit)
            // The same program in another container is another workload.
            || (self.container == other.container && is_same(&self.program, &other.program))
    }
}

impl Subject {
    /// Reads an identity as policies see it.
    pub fn of(identity: &Arc<Identity>) -> Self {
        let started = identity.start_time_ns().map(|started| *started.value());
        let pid = identity.process_id();
        let mut subject = Self {
            id: process_id(pid, started),
            memberships: Vec::new(),
            attributes: Attributes::Of(Arc::clone(identity)),
            grades: Map::new(),
            doubts: Vec::new(),
            workload: Workload {
                process: (pid, started),
                ..Workload::default()
            },
        };
        subject.add_user(identity);
        subject.add_program(identity);
        subject.add_cgroup(identity);
        subject
    }

    /// Makes up the process that a description is of.
    pub fn described(description: &Description) -> Self {
        let mut subject = Self {
            id: "described".to_owned(),
            memberships: Vec::new(),
            attributes: Attributes::Described(description.attributes()),
            grades: Map::new(),
            doubts: Vec::new(),
            workload: Workload::default(),
        };
        let (uid, gid) = description.ids();
        if description.uid.is_some() {
            subject.join("User", format!("#{uid}"));
        }
        if description.gid.is_some() {
            subject.join("Group", format!("#{gid}"));
        }
        let named = [
            ("User", &description.user),
            ("Unit", &description.unit),
            ("Slice", &description.slice),
            ("Container", &description.container),
            ("Pod", &description.pod),
            ("Executable", &description.executable),
        ];
        for (kind, id) in named {
            if let Some(id) = id {
                subject.join(kind, id);
            }
        }
        for group in &description.groups {
            subject.join("Group", group);
        }
        if let Some((namespace, _)) = description.pod.as_ref().and_then(|pod| pod.split_once('/')) {
            subject.join("Namespace", namespace);
        }
        if let Some(digest) = &description.sha256 {
            subject.join("Executable", format!("sha256:{digest}"));
        }
        let given = [
            ("executable", description.executable.is_some()),
            ("cgroup", description.unit.is_some()),
            ("sha256", description.sha256.is_some()),
            ("groups", !description.groups.is_empty()),
        ];
        for (grade, _) in given.iter().filter(|(_, is_given)| *is_given) {
            subject
                .grades
                .insert((*grade).to_owned(), "verified".into());
        }
        subject
    }

    /// The executable's path, whatever its grade.
    pub fn program(&self) -> Option<&str> {
        self.attributes.program()
    }

    /// Whether the program is an interpreter that was told to run a script.
    pub fn runs_a_script(&self) -> bool {
        self.attributes.has_script()
    }

    /// What is to be said of it in answer to policies, as far as they look at it.
    pub(super) fn attributes(&self, interest: &Interest) -> Map<String, Value> {
        self.attributes.told(interest)
    }

    /// What it is a member of.
    pub fn memberships(&self) -> &[Membership] {
        &self.memberships
    }

    /// What it may be a member of, or not.
    pub(super) fn doubts(&self) -> &[Doubt] {
        &self.doubts
    }

    /// The same, as a member of these too.
    pub(super) fn joined_to(&self, memberships: &[Membership]) -> Self {
        let mut joined = self.clone();
        joined.memberships.extend_from_slice(memberships);
        joined
    }

    /// What it is a process of.
    pub fn workload(&self) -> &Workload {
        &self.workload
    }

    fn join(&mut self, kind: &'static str, id: impl Into<String>) {
        self.memberships.push(Membership {
            kind,
            id: id.into(),
        });
    }

    pub(super) fn doubt(&mut self, kinds: &[&'static str], of_names_only: bool) {
        self.doubts.extend(kinds.iter().map(|kind| Doubt {
            kind,
            of_names_only,
        }));
    }

    fn grade<T>(&mut self, name: &str, fact: &Fact<T>) {
        let grade = Value::from(fact.grade().name());
        self.grades.insert(name.to_owned(), grade);
    }

    fn add_user(&mut self, identity: &Identity) {
        if let Some(uid) = identity.uid() {
            self.join("User", format!("#{}", uid.value()));
        }
        // A name is as good as the number it was looked up for: the host's own user database says so.
        if let Some(user) = identity.user() {
            self.join("User", user.value());
        }
        for gid in [identity.gid(), identity.egid()].into_iter().flatten() {
            self.join("Group", format!("#{}", gid.value()));
        }
        for group in [identity.group(), identity.effective_group()]
            .into_iter()
            .flatten()
        {
            self.join("Group", group.value());
        }
        self.add_supplementary_groups(identity);
        if attested(identity.groups()).is_none() {
            self.doubt(&["Group"], false);
        }
        if identity.lacks_names() {
            self.doubt(&["User", "Group"], true);
        }
    }

    fn add_supplementary_groups(&mut self, identity: &Identity) {
        let Some(groups) = identity.groups() else {
            return;
        };
        self.grade("groups", groups);
        if !groups.grade().is_attested() {
            return;
        }
        for gid in groups.value() {
            self.join("Group", format!("#{gid}"));
        }
        for name in identity.group_names().into_iter().flat_map(Fact::value) {
            self.join("Group", name);
        }
    }

    fn add_program(&mut self, identity: &Identity) {
        if let Some(exe) = identity.exe() {
            self.grade("executable", exe);
            if exe.grade().is_attested() {
                self.join("Executable", exe.value());
            }
        }
        for (prefix, digest) in [
            ("sha256", identity.exe_sha256()),
            ("verity", identity.exe_verity()),
        ] {
            if let Some(digest) = digest.filter(|digest| digest.grade().is_attested()) {
                self.join("Executable", format!("{prefix}:{}", digest.value()));
            }
        }
        if let Some(digest) = identity.exe_sha256() {
            self.grade("sha256", digest);
        }
        self.workload.program =
            identity
                .exe_device()
                .zip(identity.exe_inode())
                .map(|(device, inode)| {
                    let uid = identity.uid().map(|uid| *uid.value());
                    (
                        uid.unwrap_or_default(),
                        device.value().clone(),
                        *inode.value(),
                    )
                });
    }

    fn add_cgroup(&mut self, identity: &Identity) {
        if let Some(cgroup) = identity.cgroup() {
            self.grade("cgroup", cgroup);
        }
        if attested(identity.cgroup()).is_none() {
            self.doubt(&["Unit", "Slice", "Container", "Pod", "Namespace"], false);
        }
        if let Some(unit) = attested(identity.systemd_unit()) {
            self.join("Unit", unit);
            self.workload.unit = Some(unit.clone());
        }
        if let Some(slice) = attested(identity.systemd_slice()) {
            self.join("Slice", slice);
        }
        if let Some(container) = attested(identity.container()) {
            self.join("Container", &container.id);
            self.workload.container = Some(container.id.clone());
        }
        if let Some(pod) = attested(identity.pod()) {
            self.join("Pod", format!("uid:{}", pod.uid));
            if pod.namespace.is_none() || pod.name.is_none() {
                self.doubt(&["Pod", "Namespace"], true);
            }
            if let Some(namespace) = &pod.namespace {
                self.join("Namespace", namespace);
                if let Some(name) = &pod.name {
                    self.join("Pod", format!("{namespace}/{name}"));
                }
            }
        }
    }
}

impl Description {
    fn ids(&self) -> (u32, u32) {
        (self.uid.unwrap_or(NOBODY), self.gid.unwrap_or(NOBODY))
    }

    fn attributes(&self) -> Map<String, Value> {
        let mut all = Map::new();
        let mut set = |name: &str, value: Value| all.insert(name.to_owned(), value);
        let (uid, gid) = self.ids();
        set("pid", 1.into());
        set("uid", uid.into());
        set("gid", gid.into());
        set("is_traced", false.into());
        set("ancestors", Value::Array(Vec::new()));
        let texts = [
            ("executable", &self.executable),
            ("sha256", &self.sha256),
            ("script", &self.script),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                set(name, text.as_str().into());
            }
        }
        if let Some(login_uid) = self.login_uid {
            set("login_uid", login_uid.into());
        }
        all
    }
}

/// A fact's value, if nobody but root on this host could have made it up.
fn attested<T>(fact: Option<&Fact<T>>) -> Option<&T> {
    fact.filter(|fact| fact.grade().is_attested())
        .map(Fact::value)
}

/// A process's id: its number alone is used again.
fn process_id(pid: u32, started: Option<u64>) -> String {
    match started {
        Some(started) => format!("{pid}@{started}"),
        None => pid.to_string(),
    }
}
