//! The attributes of a process, made when policies look at them: most never are, and values of all of them take longer
//! to make than the answer.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::interest::Interest;
use crate::identify::{Fact, Identity};

/// Where a process's attributes are.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Attributes {
    /// In its identity.
    Of(Arc<Identity>),
    /// In an operator's description.
    Described(Map<String, Value>),
}

impl Attributes {
    /// Those that are looked at.
    pub(super) fn told(&self, interest: &Interest) -> Map<String, Value> {
        match self {
            Self::Of(identity) => of_identity(identity, interest),
            Self::Described(all) => interest.among(all),
        }
    }

    /// The executable's path, whatever its grade.
    pub(super) fn program(&self) -> Option<&str> {
        match self {
            Self::Of(identity) => identity.exe().map(|exe| exe.value().as_str()),
            Self::Described(all) => all.get("executable").and_then(Value::as_str),
        }
    }

    /// Whether the program is an interpreter that was told to run a script.
    pub(super) fn has_script(&self) -> bool {
        match self {
            Self::Of(identity) => identity.script().is_some(),
            Self::Described(all) => all.contains_key("script"),
        }
    }
}

/// Attributes of a process that connected.
fn of_identity(identity: &Identity, interest: &Interest) -> Map<String, Value> {
    let mut asked = Map::new();
    let mut tell = |name: &str, value: &dyn Fn() -> Option<Value>| {
        if interest.in_attribute(name)
            && let Some(value) = value()
        {
            asked.insert(name.to_owned(), value);
        }
    };
    tell("pid", &|| value(identity.pid()));
    tell("uid", &|| value(identity.uid()));
    tell("gid", &|| value(identity.gid()));
    tell("effective_uid", &|| value(identity.euid()));
    tell("effective_gid", &|| value(identity.egid()));
    tell("login_uid", &|| value(identity.login_uid()));
    tell("executable", &|| value(identity.exe()));
    tell("sha256", &|| value(identity.exe_sha256()));
    tell("script", &|| {
        let script = identity.script()?;
        Some(script.value().path.as_str().into())
    });
    tell("cgroup", &|| value(identity.cgroup()));
    tell("capabilities", &|| value(identity.capabilities()));
    tell("no_new_privs", &|| value(identity.no_new_privs()));
    tell("foreign_namespaces", &|| value(identity.other_namespaces()));
    tell("is_traced", &|| {
        let is_traced = identity.tracer_pid().is_some_and(|pid| *pid.value() != 0);
        Some(is_traced.into())
    });
    tell("ancestors", &|| {
        let ancestors = identity.ancestors().iter();
        let programs = ancestors.filter_map(|ancestor| ancestor.value().exe.clone());
        Some(programs.collect())
    });
    asked
}

/// A fact's value, whatever its grade.
fn value<T: Clone + Into<Value>>(fact: Option<&Fact<T>>) -> Option<Value> {
    fact.map(|fact| fact.value().clone().into())
}
