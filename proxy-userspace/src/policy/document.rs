//! A question as Cedar reads it: entities, request and context, in Cedar's JSON form, as far as any policy looks at them.

use cedar_policy::EntityUid;
use serde_json::{Map, Value, json};

use super::interest::Interest;
use super::question::{Action, Question, StartupFacts, TlsFacts};
use super::subject::Subject;
use super::values;
use crate::config::ServerGroups;
use crate::destination::Destination;

/// An entity's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Document {
    kind: &'static str,
    id: String,
}

impl Document {
    fn new(kind: &'static str, id: impl Into<String>) -> Self {
        Self {
            kind,
            id: id.into(),
        }
    }

    pub(super) fn uid(&self) -> Result<EntityUid, String> {
        values::uid(self.kind, &self.id)
    }

    fn json(&self) -> Value {
        json!({ "type": self.kind, "id": self.id })
    }
}

/// Everything an evaluation needs but the policies.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) principal: Document,
    pub(super) action: Document,
    pub(super) resource: Document,
    pub(super) entities: Value,
    pub(super) context: Value,
}

impl Facts {
    pub(super) fn of(
        question: &Question,
        groups: &ServerGroups,
        now: &jiff::Zoned,
        interest: &Interest,
    ) -> Self {
        let dialled = &question.server;
        let server_uid = Document::new("Server", dialled.to_string());
        let resource = match &question.database {
            Some(database) => Document::new("Database", format!("{dialled}/{database}")),
            None => server_uid.clone(),
        };
        let principal = Document::new("Process", question.subject.id.clone());
        let mut entities = vec![
            process(&question.subject, &principal, interest),
            server(dialled, &server_uid, groups, interest),
        ];
        if let Some(database) = &question.database {
            let mut attributes = address(dialled);
            attributes.insert("name".to_owned(), json!(database));
            let attributes = interest.among(&attributes);
            entities.push(entity(&resource, &attributes, &[server_uid.json()]));
        }
        Self {
            principal,
            action: Document::new("Action", question.action.name()),
            resource,
            entities: Value::Array(entities),
            context: context(question, now, interest),
        }
    }
}

fn entity(uid: &Document, attributes: &Map<String, Value>, parents: &[Value]) -> Value {
    json!({ "uid": uid.json(), "attrs": attributes, "parents": parents })
}

/// A member of groups, which have nothing to say of themselves and need no entities of their own.
fn member(uid: &Document, attributes: &Map<String, Value>, groups: &[Document]) -> Value {
    let groups: Vec<_> = groups.iter().map(Document::json).collect();
    entity(uid, attributes, &groups)
}

fn process(subject: &Subject, uid: &Document, interest: &Interest) -> Value {
    let groups = subject.memberships.iter();
    let groups: Vec<_> = groups
        .filter(|group| interest.in_entity(group.kind, &group.id))
        .map(|group| Document::new(group.kind, group.id.clone()))
        .collect();
    member(uid, &subject.attributes(interest), &groups)
}

fn server(
    server: &Destination,
    uid: &Document,
    groups: &ServerGroups,
    interest: &Interest,
) -> Value {
    const KIND: &str = "ServerGroup";
    let groups = groups.of(server);
    let groups: Vec<_> = groups
        .filter(|name| interest.in_entity(KIND, name))
        .map(|name| Document::new(KIND, name))
        .collect();
    member(uid, &interest.among(&address(server)), &groups)
}

fn address(server: &Destination) -> Map<String, Value> {
    let place = match server {
        Destination::Tcp(address) => {
            let ip = json!({ "__extn": { "fn": "ip", "arg": address.ip().to_string() } });
            ("address".to_owned(), ip)
        }
        Destination::Unix(path) => ("path".to_owned(), json!(path.as_str())),
    };
    Map::from_iter([place, ("port".to_owned(), json!(server.port()))])
}

fn context(question: &Question, now: &jiff::Zoned, interest: &Interest) -> Value {
    let mut context = Map::new();
    let mut set = |name: &str, value: &dyn Fn() -> Value| {
        if interest.in_context(name) {
            context.insert(name.to_owned(), value());
        }
    };
    set("tls", &|| tls(&question.tls));
    set("grades", &|| json!(question.subject.grades));
    set("time", &|| time(now));
    if question.action == Action::Cancel {
        let cancel = question.cancel;
        set("session", &|| {
            json!({
                "known": cancel.known,
                "same_workload": cancel.same_workload,
                "may_connect": cancel.may_connect,
            })
        });
    } else if let Some(facts) = &question.startup {
        set("startup", &|| startup(facts));
    }
    Value::Object(context)
}

fn startup(facts: &StartupFacts) -> Value {
    let parameters: Vec<_> = facts
        .settled()
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    without_nulls(json!({
        "protocol": facts.protocol,
        "user": facts.user,
        "database": facts.database,
        "application_name": facts.last("application_name"),
        "options": facts.last("options"),
        "parameters": parameters,
    }))
}

fn tls(facts: &TlsFacts) -> Value {
    let certificate = facts
        .certificate
        .as_ref()
        .map(|certificate| without_nulls(json!(certificate)));
    without_nulls(json!({
        "encryption": facts.encryption,
        "sni": facts.sni,
        "certificate": certificate,
    }))
}

fn time(now: &jiff::Zoned) -> Value {
    let utc = now.timestamp().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    json!({
        "now": { "__extn": { "fn": "datetime", "arg": utc } },
        "hour": now.hour(),
        "minute": now.minute(),
        "weekday": now.strftime("%A").to_string(),
    })
}

/// What is not known is absent, not null: Cedar has no null.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let known = fields.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(known.collect())
        }
        other => other,
    }
}
