//! Which policies a connection may still fall under, before it has said what it wants: scopes without conditions.

use std::collections::HashSet;

use cedar_policy::{ActionConstraint, EntityUid, Policy, PrincipalConstraint, ResourceConstraint};

use super::question::Question;
use crate::config::ServerGroups;

/// Everything a question's principal and server are members of.
pub(super) struct Scope {
    principal: HashSet<String>,
    server: HashSet<String>,
    database_prefix: String,
}

impl Scope {
    pub(super) fn of(question: &Question, groups: &ServerGroups) -> Self {
        let subject = &question.subject;
        let uid = |kind: &str, id: &str| format!("{kind}::{id}");
        let memberships = subject.memberships.iter();
        let mut principal: HashSet<_> = memberships
            .map(|group| uid(group.kind, &group.id))
            .collect();
        principal.insert(uid("Process", &subject.id));
        let server = &question.server;
        let mut servers: HashSet<_> = groups
            .of(server)
            .map(|group| uid("ServerGroup", group))
            .collect();
        servers.insert(uid("Server", &server.to_string()));
        Self {
            principal,
            server: servers,
            database_prefix: format!("{server}/"),
        }
    }

    /// Whether a policy's principal, action and server fit.
    pub(super) fn fits(&self, policy: &Policy) -> bool {
        let is_principal = |uid: &EntityUid| self.principal.contains(&key(uid));
        let principal = match policy.principal_constraint() {
            PrincipalConstraint::Any | PrincipalConstraint::Is(_) => true,
            PrincipalConstraint::In(uid)
            | PrincipalConstraint::Eq(uid)
            | PrincipalConstraint::IsIn(_, uid) => is_principal(&uid),
        };
        let action = match policy.action_constraint() {
            ActionConstraint::Any => true,
            ActionConstraint::In(actions) => actions.iter().any(is_session),
            ActionConstraint::Eq(action) => is_session(&action),
        };
        let resource = match policy.resource_constraint() {
            ResourceConstraint::Any | ResourceConstraint::Is(_) => true,
            ResourceConstraint::In(uid)
            | ResourceConstraint::Eq(uid)
            | ResourceConstraint::IsIn(_, uid) => self.may_hold(&uid),
        };
        principal && action && resource
    }

    /// Whether the resource is the server, holds it, or is a database on it.
    fn may_hold(&self, uid: &EntityUid) -> bool {
        let id: &str = uid.id().unescaped();
        self.server.contains(&key(uid))
            || (uid.type_name().to_string() == "Database" && id.starts_with(&self.database_prefix))
    }
}

fn key(uid: &EntityUid) -> String {
    format!("{}::{}", uid.type_name(), uid.id().unescaped())
}

/// Whether an action may be what an opening turns out to ask for. A cancel request may too: libpq 17 encrypts them.
fn is_session(action: &EntityUid) -> bool {
    matches!(action.id().unescaped(), "connect" | "replicate" | "cancel")
}
