//! `pgusher explain`: who a process would be, what the policies say to what it wants, and where it would go.

use std::fmt::{self, Write as _};

use jiff::Zoned;
use serde::Serialize;
use serde_json::Value;

use crate::config::{AuditLevel, Config, RouteRule, TlsMode};
use crate::destination::Destination;
use crate::identify::Identity;
use crate::policy::{Membership, Policies, PolicyMode, Question, Ruling};

/// One question and everything about its answer.
#[derive(Debug, Serialize)]
pub struct Explanation {
    /// The process, each fact with its grade.
    identity: Option<Identity>,
    /// What it is a member of, as policies see it.
    memberships: Vec<Membership>,
    /// What is asked.
    question: Asked,
    /// What the policies say; none where there are none, and everything is permitted.
    ruling: Option<Ruling>,
    /// The deciding policies' texts.
    policies: Vec<String>,
    /// What the configuration says about the destination.
    route: Route,
    /// The answer in a sentence.
    summary: String,
}

/// The question, for people.
#[derive(Debug, Serialize)]
struct Asked {
    action: &'static str,
    server: Destination,
    server_groups: Vec<String>,
    database: Option<String>,
    user: Option<String>,
    encryption: Value,
    time: String,
}

/// What applies to the destination.
#[derive(Debug, Serialize)]
struct Route {
    name: String,
    is_intercepted: bool,
    tls: TlsMode,
    audit: AuditLevel,
}

impl Explanation {
    /// Asks the policies, as pgusher would with this configuration.
    pub fn of(
        identity: Option<Identity>,
        question: &Question,
        config: &Config,
        policies: Option<&Policies>,
    ) -> Self {
        let now = Zoned::now();
        let rule = config.routes.find(&question.server);
        // Whatever the encryption that is asked about: a client that connects now would get pgusher's.
        let mut question = question.clone();
        question.tls.could_end_here = rule.can_terminate(&question.server);
        let ruling = policies.map(|policies| policies.rule(&question, config.policy.mode, &now));
        let texts = ruling.iter().flat_map(|ruling| &ruling.policies);
        let texts = texts.filter_map(|id| policies?.text(id)).collect();
        let startup = question.startup.as_ref();
        Self {
            identity,
            memberships: question.subject.memberships().to_vec(),
            question: Asked {
                action: question.action.name(),
                server: question.server.clone(),
                server_groups: config
                    .policy
                    .groups
                    .of(&question.server)
                    .map(str::to_owned)
                    .collect(),
                database: question.database.clone(),
                user: startup.and_then(|startup| startup.user.clone()),
                encryption: serde_json::to_value(question.tls.encryption).unwrap_or_default(),
                time: now.to_string(),
            },
            route: Route::of(rule, &question, config, policies, ruling.as_ref()),
            summary: summary(config.policy.mode, ruling.as_ref()),
            ruling,
            policies: texts,
        }
    }
}

impl Route {
    fn of(
        rule: &RouteRule,
        question: &Question,
        config: &Config,
        policies: Option<&Policies>,
        ruling: Option<&Ruling>,
    ) -> Self {
        let asked = policies.and_then(|policies| policies.prospect(question).tls);
        let asked = asked.filter(|_| config.policy.mode == PolicyMode::Enforce);
        let tls = match rule.termination(&question.server, asked) {
            Some(_) => TlsMode::Terminate,
            None => TlsMode::Passthrough,
        };
        let audit = ruling.and_then(|ruling| ruling.obligations.audit);
        Self {
            name: rule.name.clone(),
            is_intercepted: config.ports.contains(&question.server.port()),
            tls,
            audit: rule.audit.level.max(audit.unwrap_or(rule.audit.level)),
        }
    }
}

fn summary(mode: PolicyMode, ruling: Option<&Ruling>) -> String {
    match (ruling, mode) {
        (None, _) => "permitted: there is no policy (--config or --policy tells of one)".to_owned(),
        (Some(ruling), _) if ruling.permits() => {
            format!("permitted by {}", ruling.policies.join(", "))
        }
        (Some(ruling), PolicyMode::Enforce) => format!("denied: {ruling}"),
        (Some(ruling), PolicyMode::Observe) => {
            format!(
                "permitted, because policy_mode is \"observe\"; enforced, it would be denied: {ruling}"
            )
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}\n", self.summary)?;
        let asked = &self.question;
        writeln!(out, "asks      {} {}", asked.action, asked.server)?;
        if !asked.server_groups.is_empty() {
            writeln!(
                out,
                "          in server groups {}",
                asked.server_groups.join(", ")
            )?;
        }
        writeln!(
            out,
            "          database {}, user {}, encryption {}",
            shown(asked.database.as_deref()),
            shown(asked.user.as_deref()),
            asked.encryption.as_str().unwrap_or_default()
        )?;
        write_facts(self.identity.as_ref(), out)?;
        for (index, group) in self.memberships.iter().enumerate() {
            let label = if index == 0 { "member of" } else { "" };
            writeln!(out, "{label:9} {}::{:?}", group.kind, group.id)?;
        }
        let route = &self.route;
        writeln!(
            out,
            "route     {}: TLS {}, audit {}{}",
            route.name,
            plain(&route.tls),
            plain(&route.audit),
            if route.is_intercepted {
                ""
            } else {
                "; its port is not intercepted, so none of this applies"
            }
        )?;
        if let Some(ruling) = &self.ruling {
            writeln!(
                out,
                "policy    revision {}, mode {}",
                ruling.revision,
                plain(&ruling.mode)
            )?;
            for error in &ruling.errors {
                writeln!(out, "          error: {error}")?;
            }
            let obligations = &ruling.obligations;
            if *obligations != crate::policy::Obligations::default() {
                writeln!(out, "          asks for {}", plain(obligations))?;
            }
        }
        for policy in &self.policies {
            writeln!(out, "\n{policy}")?;
        }
        Ok(())
    }
}

/// What a client calls itself, in a form that a terminal takes for nothing else.
fn shown(name: Option<&str>) -> String {
    name.map_or_else(
        || "(hidden)".to_owned(),
        |name| name.escape_debug().to_string(),
    )
}

/// A value as JSON would have it, without the quotes of a string.
fn plain(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(text)) => text,
        Ok(other) => other.to_string(),
        Err(_) => String::new(),
    }
}

/// One fact a line, with its grade.
fn write_facts(identity: Option<&Identity>, out: &mut fmt::Formatter<'_>) -> fmt::Result {
    let facts = match serde_json::to_value(identity) {
        Ok(Value::Object(facts)) => facts,
        _ => return Ok(()),
    };
    let mut label = "process";
    let mut lines = String::new();
    for (name, fact) in &facts {
        let (Some(value), Some(grade)) = (fact.get("value"), fact.get("grade")) else {
            continue;
        };
        let grade = grade.as_str().unwrap_or_default();
        let value = match value {
            Value::String(text) => text.escape_debug().to_string(),
            other => other.to_string(),
        };
        writeln!(lines, "{label:9} {name:17} {grade:9} {value}")?;
        label = "";
    }
    out.write_str(&lines)
}
