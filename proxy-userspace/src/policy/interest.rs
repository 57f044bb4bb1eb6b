//! What of a question any of the policies looks at. Only that is put into Cedar's form: making values of forty
//! capabilities, parsing addresses and times, takes longer than the evaluation, and what no policy names can change no answer.
//!
//! **Invariant:** whatever is not understood counts as looked at.

use std::collections::{HashMap, HashSet};

use cedar_policy::{Policy, PolicySet};
use serde_json::{Map, Value};

/// Names that occur in policies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Interest {
    /// In anything.
    Everything,
    /// In these.
    Named(Named),
}

/// What policies name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Named {
    /// Attributes, of whatever they may be.
    attributes: HashSet<String>,
    /// Whether the context is looked at otherwise than by its attributes.
    whole_context: bool,
    /// Entities that are named, by type, in scopes or conditions.
    entities: HashMap<String, HashSet<String>>,
}

impl Interest {
    /// What the policies of a set look at.
    pub(super) fn of(policies: &PolicySet) -> Self {
        let mut named = Named::default();
        for policy in policies.policies() {
            if named.add(policy).is_none() {
                return Self::Everything;
            }
        }
        Self::Named(named)
    }

    /// Whether an attribute of this name is looked at.
    pub(super) fn in_attribute(&self, name: &str) -> bool {
        match self {
            Self::Everything => true,
            Self::Named(named) => named.attributes.contains(name),
        }
    }

    /// Whether this part of the context is looked at.
    pub(super) fn in_context(&self, name: &str) -> bool {
        let is_whole = matches!(self, Self::Named(named) if named.whole_context);
        is_whole || self.in_attribute(name)
    }

    /// Whether this entity is named.
    pub(super) fn in_entity(&self, kind: &str, id: &str) -> bool {
        match self {
            Self::Everything => true,
            Self::Named(named) => {
                let of_kind = named.entities.get(kind);
                of_kind.is_some_and(|ids| ids.contains(id))
            }
        }
    }

    /// Those attributes of an entity that are looked at.
    pub(super) fn among(&self, attributes: &Map<String, Value>) -> Map<String, Value> {
        let attributes = attributes.iter();
        attributes
            .filter(|(name, _)| self.in_attribute(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }
}

impl Named {
    /// Adds what a policy names; none if that cannot be told.
    fn add(&mut self, policy: &Policy) -> Option<()> {
        for uid in policy.entity_literals() {
            let ids = self.entities.entry(uid.type_name().to_string());
            ids.or_default().insert(uid.id().unescaped().to_owned());
        }
        self.walk(&policy.to_json().ok()?);
        Some(())
    }

    /// Walks a policy in Cedar's JSON form. What is under `.` and `has` there has the names of attributes in `attr` (one, or
    /// those of `a has b.c`), and in `left` what is asked for them.
    fn walk(&mut self, expression: &Value) {
        match expression {
            Value::Object(fields) => {
                for (key, value) in fields {
                    match access(key, value) {
                        Some((left, names)) => {
                            self.take_names(names);
                            if !is_context(left) {
                                self.walk(left);
                            }
                        }
                        None => self.walk(value),
                    }
                }
                self.whole_context |= is_context(expression);
            }
            Value::Array(items) => items.iter().for_each(|item| self.walk(item)),
            _ => {}
        }
    }

    fn take_names(&mut self, names: &Value) {
        match names {
            Value::String(name) => {
                self.attributes.insert(name.clone());
            }
            Value::Array(names) => names.iter().for_each(|name| self.take_names(name)),
            _ => {}
        }
    }
}

/// What is asked for attributes, and their names, if this is a look at some. A field of a record may be called `has` too,
/// but its value has one key, its operator.
fn access<'a>(key: &str, value: &'a Value) -> Option<(&'a Value, &'a Value)> {
    if !matches!(key, "." | "has") {
        return None;
    }
    value.get("left").zip(value.get("attr"))
}

fn is_context(expression: &Value) -> bool {
    expression.get("Var").and_then(Value::as_str) == Some("context")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interest(text: &str) -> Named {
        match Interest::of(&text.parse().unwrap()) {
            Interest::Named(named) => named,
            Interest::Everything => panic!("everything: {text}"),
        }
    }

    fn attributes(text: &str) -> Vec<String> {
        let named = interest(&format!("permit (principal, action, resource) {text};"));
        assert!(!named.whole_context, "{text}");
        let mut attributes: Vec<_> = named.attributes.into_iter().collect();
        attributes.sort();
        attributes
    }

    #[test]
    fn attributes_are_found_however_they_are_asked_for() {
        let cases: [(&str, &[&str]); 8] = [
            ("", &[]),
            ("when { principal.uid == 0 }", &["uid"]),
            ("unless { principal has sha256 }", &["sha256"]),
            (
                "when { context[\"tls\"].encryption == \"tls\" }",
                &["encryption", "tls"],
            ),
            ("when { context has startup.user }", &["startup", "user"]),
            (
                "when { (if true then principal else principal).pid > 1 }",
                &["pid"],
            ),
            ("when { [principal.cgroup].contains(\"a\") }", &["cgroup"]),
            (
                "when { resource.address.isInRange(ip(\"10.0.0.0/8\")) && context.time.now.toTime() > duration(\"1h\") }",
                &["address", "now", "time"],
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(attributes(text), expected, "{text}");
        }
    }

    #[test]
    fn a_context_that_is_looked_at_as_a_whole_is_there_as_a_whole() {
        for condition in [
            "context == context",
            "(if principal.uid == 0 then context else context).tls.encryption == \"tls\"",
            "[context].contains(context)",
            "{ a: context }.a has tls",
            "{ attr: 1, left: context }.left has tls",
            "{ \"has\": { attr: \"tls\", left: context } }[\"has\"].left has tls",
        ] {
            let text = format!("permit (principal, action, resource) when {{ {condition} }};");
            assert!(interest(&text).whole_context, "{condition}");
            let all = Interest::of(&text.parse().unwrap());
            assert!(all.in_context("time"), "{condition}");
        }
    }

    #[test]
    fn entities_are_found_in_scopes_and_conditions() {
        let found = Interest::of(
            &"permit (principal in Unit::\"a\", action == Action::\"connect\", resource in Server::\"s\")
              when { principal in [User::\"u\", Group::\"a\\\"b\"] || resource == Database::\"d\" };"
                .parse()
                .unwrap(),
        );
        for (kind, id) in [
            ("Unit", "a"),
            ("Server", "s"),
            ("User", "u"),
            ("Group", "a\"b"),
            ("Database", "d"),
        ] {
            assert!(found.in_entity(kind, id), "{kind} {id}");
        }
        assert!(!found.in_entity("User", "a") && !found.in_entity("Pod", "a"));
    }
}
