//! Sources on their way to [`super::Policies`]: what is checked of them, and where in them a mistake is.

use std::collections::BTreeMap;

use cedar_policy::{
    Effect, EntityUid, Policy, PolicySet, PrincipalConstraint, Schema, ValidationMode, Validator,
};

use super::obligations::Annotations;
use super::scope::Name;
use super::source::{Mistake, PolicyError, Source};
use crate::config::ServerGroups;

/// Sources on their way to [`Policies`].
#[derive(Default)]
pub(super) struct Checking<'a> {
    pub(super) set: PolicySet,
    pub(super) annotations: BTreeMap<String, Annotations>,
    origins: BTreeMap<String, &'a Source>,
    mistakes: Vec<Mistake>,
    pub(super) warnings: Vec<Mistake>,
}

impl<'a> Checking<'a> {
    /// Takes a source's policies, or its mistakes.
    pub(super) fn add(&mut self, source: &'a Source, groups: &ServerGroups) {
        let policies = match source.parse() {
            Ok(policies) => policies,
            Err(mistakes) => return self.mistakes.extend(mistakes),
        };
        for policy in policies {
            let id = policy.id().to_string();
            let refuse = |reason| Mistake {
                file: source.name().to_owned(),
                place: None,
                policy: Some(id.clone()),
                reason,
            };
            if let Some(other) = self.origins.get(&id) {
                let reason = format!("its @id is taken by a policy in {}", other.name());
                self.mistakes.push(refuse(reason));
                continue;
            }
            match Annotations::of(&policy) {
                Ok(annotations) => {
                    self.annotations.insert(id.clone(), annotations);
                }
                Err(reason) => self.mistakes.push(refuse(reason)),
            }
            if is_evadable(&policy) {
                self.warnings.push(refuse(EVADABLE.to_owned()));
            }
            let unknown = unknown_groups(&policy, groups);
            self.warnings.extend(unknown.map(refuse));
            if let Err(error) = self.set.add(policy) {
                self.mistakes.push(refuse(error.to_string()));
            }
            self.origins.insert(id, source);
        }
    }

    /// Checks them all against the schema.
    ///
    /// # Errors
    /// [`PolicyError::Mistakes`], with those of the sources.
    pub(super) fn validate(&mut self, schema: Result<&Schema, &String>) -> Result<(), PolicyError> {
        let schema = schema.map_err(|error| {
            let reason = format!("pgusher's own schema: {error}");
            PolicyError::Mistakes(vec![Mistake {
                file: "pgusher.cedarschema".to_owned(),
                place: None,
                policy: None,
                reason,
            }])
        })?;
        let result = Validator::new(schema.clone()).validate(&self.set, ValidationMode::Strict);
        for error in result.validation_errors() {
            let mistake = self.locate(error, error.policy_id());
            self.mistakes.push(mistake);
        }
        for warning in result.validation_warnings() {
            let mistake = self.locate(warning, warning.policy_id());
            self.warnings.push(mistake);
        }
        if self.mistakes.is_empty() {
            return Ok(());
        }
        Err(PolicyError::Mistakes(std::mem::take(&mut self.mistakes)))
    }

    fn locate(&self, error: &dyn miette::Diagnostic, policy: &cedar_policy::PolicyId) -> Mistake {
        let id: &str = policy.as_ref();
        match self.origins.get(id) {
            Some(source) => source.mistake(error, Some(policy)),
            None => Mistake {
                file: String::new(),
                place: None,
                policy: Some(id.to_owned()),
                reason: error.to_string(),
            },
        }
    }
}

const EVADABLE: &str = "a forbid of an executable stops nobody: a copy of the file under another name is another executable; permit what may, instead";

/// What is to be said of names that no server group has: nothing is ever in those.
fn unknown_groups(policy: &Policy, groups: &ServerGroups) -> impl Iterator<Item = String> {
    let named = policy.entity_literals().into_iter();
    let named = named.map(|uid| Name::of(&uid));
    let unknown = named.filter(|name| name.kind == "ServerGroup" && !groups.has(&name.id));
    unknown.map(|Name { id, .. }| {
        format!("the settings have no [[server_group]] \"{id}\", so no server is in it")
    })
}

/// Whether whoever is forbidden can get out of it by himself.
fn is_evadable(policy: &Policy) -> bool {
    let is_executable = |uid: &EntityUid| uid.type_name().to_string() == "Executable";
    policy.effect() == Effect::Forbid
        && match policy.principal_constraint() {
            PrincipalConstraint::In(uid)
            | PrincipalConstraint::Eq(uid)
            | PrincipalConstraint::IsIn(_, uid) => is_executable(&uid),
            PrincipalConstraint::Any | PrincipalConstraint::Is(_) => false,
        }
}
