//! Which policies can have a say about a connection, before any condition is looked at: by their scopes.

use cedar_policy::{ActionConstraint, EntityUid, Policy, PrincipalConstraint, ResourceConstraint};

use super::interest::Interest;
use super::question::Question;
use crate::config::ServerGroups;

/// A policy's scope, taken apart once; none is anything.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    principal: Option<Name>,
    resource: Option<Name>,
    /// Whether it is about anything that a connection can turn out to ask for.
    is_about_sessions: bool,
}

/// An entity's type and id.
#[derive(Clone, Debug)]
pub(super) struct Name {
    pub(super) kind: String,
    pub(super) id: String,
}

/// What a question's principal and server are, and are members of, as far as any policy names it.
pub(super) struct Around<'a> {
    subject: &'a str,
    memberships: Vec<(&'static str, &'a str)>,
    server: String,
    server_groups: Vec<&'a str>,
}

impl Scope {
    pub(super) fn of(policy: &Policy) -> Self {
        let principal = match policy.principal_constraint() {
            PrincipalConstraint::Any | PrincipalConstraint::Is(_) => None,
            PrincipalConstraint::In(uid)
            | PrincipalConstraint::Eq(uid)
            | PrincipalConstraint::IsIn(_, uid) => Some(Name::of(&uid)),
        };
        let resource = match policy.resource_constraint() {
            ResourceConstraint::Any | ResourceConstraint::Is(_) => None,
            ResourceConstraint::In(uid)
            | ResourceConstraint::Eq(uid)
            | ResourceConstraint::IsIn(_, uid) => Some(Name::of(&uid)),
        };
        let is_about_sessions = match policy.action_constraint() {
            ActionConstraint::Any => true,
            ActionConstraint::In(actions) => actions.iter().any(is_session),
            ActionConstraint::Eq(action) => is_session(&action),
        };
        Self {
            principal,
            resource,
            is_about_sessions,
        }
    }

    /// Whether principal, action and server fit: if not, the policy has nothing to say about anything that this process
    /// may want there.
    pub(super) fn fits(&self, around: &Around<'_>) -> bool {
        self.is_about_sessions
            && self
                .principal
                .as_ref()
                .is_none_or(|it| around.is_principal(it))
            && self.resource.as_ref().is_none_or(|it| around.may_hold(it))
    }
}

impl Name {
    pub(super) fn of(uid: &EntityUid) -> Self {
        Self {
            kind: uid.type_name().to_string(),
            id: uid.id().unescaped().to_owned(),
        }
    }
}

impl<'a> Around<'a> {
    pub(super) fn of(
        question: &'a Question,
        groups: &'a ServerGroups,
        interest: &Interest,
    ) -> Self {
        let memberships = question.subject.memberships.iter();
        let memberships = memberships.map(|group| (group.kind, group.id.as_str()));
        Self {
            subject: &question.subject.id,
            memberships: memberships
                .filter(|(kind, id)| interest.in_entity(kind, id))
                .collect(),
            server: question.server.to_string(),
            server_groups: groups.of(&question.server).collect(),
        }
    }

    fn is_principal(&self, name: &Name) -> bool {
        (name.kind == "Process" && name.id == self.subject)
            || self
                .memberships
                .contains(&(name.kind.as_str(), name.id.as_str()))
    }

    /// Whether the resource is the server, holds it, or is a database on it.
    fn may_hold(&self, name: &Name) -> bool {
        match name.kind.as_str() {
            "Server" => name.id == self.server,
            "ServerGroup" => self.server_groups.contains(&name.id.as_str()),
            "Database" => {
                let database = name.id.strip_prefix(&self.server);
                database.is_some_and(|database| database.starts_with('/'))
            }
            _ => false,
        }
    }
}

/// Whether an action may be what an opening turns out to ask for. A cancel request may too: libpq 17 encrypts them.
fn is_session(action: &EntityUid) -> bool {
    matches!(action.id().unescaped(), "connect" | "replicate" | "cancel")
}
