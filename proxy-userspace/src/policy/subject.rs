//! Who asks: a process as policies see it, and what it is a member of.
//!
//! **Invariant:** a membership is made only of facts graded `kernel` or `verified`. What is merely `late` can be read
//! among the attributes, where a policy has to ask for it by name.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::identify::{Fact, Grade, Identity};

/// A group that a process is a member of, as policies name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Membership {
    /// The entity type.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The entity's id.
    pub id: String,
}

/// A process, ready to be asked about.
#[derive(Clone, Debug, PartialEq)]
pub struct Subject {
    pub(super) id: String,
    pub(super) memberships: Vec<Membership>,
    pub(super) attributes: Map<String, Value>,
    pub(super) grades: Map<String, Value>,
    workload: Workload,
}

/// What is run, however many processes run it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Workload {
    process: (u32, Option<u64>),
    container: Option<String>,
    unit: Option<String>,
    /// User, and the program's file.
    program: Option<(u32, String, u64)>,
}

impl Subject {
    /// Reads an identity as policies see it.
    pub fn of(identity: &Identity) -> Self {
        let mut subject = Self {
            id: process_id(identity),
            memberships: Vec::new(),
            attributes: Map::new(),
            grades: Map::new(),
            workload: Workload {
                process: (identity.pid(), identity.start_time_ns()),
                ..Workload::default()
            },
        };
        subject.add_user(identity);
        subject.add_program(identity);
        subject.add_cgroup(identity);
        subject
    }

    /// A process of the user 1000 of which nothing else is known.
    #[cfg(test)]
    pub(super) fn tests_default() -> Self {
        let attributes = [("pid", 7), ("uid", 1000), ("gid", 1000)];
        Self {
            id: "7@1".to_owned(),
            memberships: Vec::new(),
            attributes: attributes
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.into()))
                .collect(),
            grades: Map::new(),
            workload: Workload::default(),
        }
    }

    /// What it is a member of.
    pub fn memberships(&self) -> &[Membership] {
        &self.memberships
    }

    /// Whether both are the same process, container, unit, or program of the same user.
    pub fn is_same_workload(&self, other: &Self) -> bool {
        fn is_same<T: PartialEq>(one: &Option<T>, other: &Option<T>) -> bool {
            one.is_some() && one == other
        }
        let (this, other) = (&self.workload, &other.workload);
        this.process == other.process
            || is_same(&this.container, &other.container)
            || is_same(&this.unit, &other.unit)
            // The same program in another container is another workload.
            || (this.container == other.container && is_same(&this.program, &other.program))
    }

    fn join(&mut self, kind: &'static str, id: impl Into<String>) {
        self.memberships.push(Membership {
            kind,
            id: id.into(),
        });
    }

    fn set(&mut self, attribute: &str, value: impl Into<Value>) {
        self.attributes.insert(attribute.to_owned(), value.into());
    }

    fn grade<T>(&mut self, name: &str, fact: &Fact<T>) {
        let grade = Value::from(fact.grade().name());
        self.grades.insert(name.to_owned(), grade);
    }

    fn add_user(&mut self, identity: &Identity) {
        self.set("pid", identity.pid());
        self.set("uid", identity.uid());
        self.set("gid", identity.gid());
        self.join("User", format!("#{}", identity.uid()));
        self.join("Group", format!("#{}", identity.gid()));
        // Grade `late` here says no more than that the host's user database may change.
        if let Some(user) = identity.user() {
            self.join("User", user.value());
        }
        if let Some(login_uid) = identity.login_uid() {
            self.set("login_uid", *login_uid.value());
        }
    }

    fn add_program(&mut self, identity: &Identity) {
        if let Some(exe) = identity.exe_fact() {
            self.set("executable", exe.value().as_str());
            self.grade("executable", exe);
            if is_attested(exe) {
                self.join("Executable", exe.value());
            }
        }
    }

    fn add_cgroup(&mut self, identity: &Identity) {
        if let Some(cgroup) = identity.cgroup() {
            self.set("cgroup", cgroup.value().as_str());
            self.grade("cgroup", cgroup);
        }
        if let Some(unit) = identity.systemd_unit().filter(|unit| is_attested(unit)) {
            self.join("Unit", unit.value());
            self.workload.unit = Some(unit.value().clone());
        }
    }
}

/// Whether nobody but the kernel, or root on this host, could have made it up.
fn is_attested<T>(fact: &Fact<T>) -> bool {
    matches!(fact.grade(), Grade::Kernel | Grade::Verified)
}

/// A process's id: its number alone is used again.
fn process_id(identity: &Identity) -> String {
    match identity.start_time_ns() {
        Some(started) => format!("{}@{started}", identity.pid()),
        None => identity.pid().to_string(),
    }
}
