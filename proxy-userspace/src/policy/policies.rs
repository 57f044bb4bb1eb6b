//! A checked set of policies, and what it answers. The only module that speaks Cedar at run time.
//!
//! **Invariant:** whatever goes wrong in an evaluation, the answer is a denial that says so. Cedar itself leaves a
//! policy out that fails, which for a `forbid` would let somebody in.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, LazyLock};

use cedar_policy::{
    ActionConstraint, Authorizer, Context, Decision, Effect, Entities, EntityUid, Policy,
    PolicySet, PrincipalConstraint, Request, ResourceConstraint, Schema, ValidationMode, Validator,
};
use sha2::{Digest as _, Sha256};

use super::document::{Document, Facts};
use super::obligations::{Annotations, Obligations};
use super::permit::{PolicyMode, Ruling};
use super::question::{Action, Question};
use super::source::{Mistake, PolicyError, Source};
use crate::config::{ServerGroups, TlsMode};
use crate::wire::text::hex;

/// The schema as it is shipped.
pub const SCHEMA: &str = include_str!("pgusher.cedarschema");
/// What holds beside the operator's own policies.
const BUILT_IN: &str = include_str!("builtin.cedar");
const BUILT_IN_NAME: &str = "(built in)";
/// The policy that lets a workload cancel its own sessions' queries.
pub const OWN_CANCEL: &str = "pgusher.own-cancel";
/// How its ids begin; no other policy's may.
const BUILT_IN_PREFIX: &str = "pgusher.";
/// How many characters of the digest name a revision.
const REVISION_CHARS: usize = 12;

/// The schema, compiled; its text is part of the program, and a unit test compiles it.
static COMPILED_SCHEMA: LazyLock<Result<Schema, String>> = LazyLock::new(|| {
    let parsed = Schema::from_cedarschema_str(SCHEMA);
    parsed
        .map(|(schema, _warnings)| schema)
        .map_err(|error| error.to_string())
});

/// Policies that have passed every check.
#[derive(Debug)]
pub struct Policies {
    set: PolicySet,
    annotations: BTreeMap<String, Annotations>,
    groups: Arc<ServerGroups>,
    revision: String,
    warnings: Vec<Mistake>,
}

/// What a set of policies says to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it is permitted.
    pub permits: bool,
    /// The policies that decided; none where no policy had anything to say, which is a denial.
    pub policies: Vec<String>,
    /// What a denied client is to be told.
    pub message: Option<String>,
    /// What went wrong; then it is a denial whatever the policies say.
    pub errors: Vec<String>,
    /// What else the deciding policies ask for.
    pub obligations: Obligations,
}

impl Policies {
    /// Checks the sources: syntax, the schema (strictly), names and annotations.
    ///
    /// # Errors
    /// [`PolicyError::Mistakes`], all of them, each with its place.
    pub fn check(sources: &[Source], groups: Arc<ServerGroups>) -> Result<Self, PolicyError> {
        let built_in = Source::new(BUILT_IN_NAME, BUILT_IN);
        let mut checking = Checking::default();
        for source in sources.iter().chain([&built_in]) {
            checking.add(source);
        }
        checking.validate()?;
        let mut digest = Sha256::new();
        for source in sources {
            digest.update(source.text());
        }
        let revision = hex(&digest.finalize());
        Ok(Self {
            set: checking.set,
            annotations: checking.annotations,
            groups,
            revision: revision
                .get(..REVISION_CHARS)
                .unwrap_or_default()
                .to_owned(),
            warnings: checking.warnings,
        })
    }

    /// The beginning of the sources' SHA-256.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// How many policies there are, without the built-in ones.
    pub fn len(&self) -> usize {
        self.set.policies().count().saturating_sub(1)
    }

    /// Whether there are none but the built-in ones.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is allowed, and probably not what was meant.
    pub fn warnings(&self) -> &[Mistake] {
        &self.warnings
    }

    /// The text of a policy.
    pub fn text(&self, id: &str) -> Option<String> {
        self.set
            .policy(&cedar_policy::PolicyId::new(id))?
            .to_cedar()
    }

    /// Whether any policy asks for TLS to end at pgusher.
    pub fn may_terminate(&self) -> bool {
        self.annotations
            .values()
            .any(|annotations| annotations.tls == Some(TlsMode::Terminate))
    }

    /// Answers a question in a mode, for records.
    pub fn rule(&self, question: &Question, mode: PolicyMode, now: &jiff::Zoned) -> Ruling {
        Ruling::new(
            mode,
            question.action,
            self.evaluate(question, now),
            &self.revision,
        )
    }

    /// Answers a question, as of `now`.
    pub fn evaluate(&self, question: &Question, now: &jiff::Zoned) -> Verdict {
        let facts = Facts::of(question, &self.groups, now);
        match self.request(&facts) {
            Ok((request, entities)) => self.verdict(&request, &entities, question.action),
            Err(error) => Verdict {
                permits: false,
                policies: Vec::new(),
                message: None,
                errors: vec![error],
                obligations: Obligations::default(),
            },
        }
    }

    fn request(&self, facts: &Facts) -> Result<(Request, Entities), String> {
        let schema = COMPILED_SCHEMA.as_ref().map_err(Clone::clone)?;
        let entities = Entities::from_json_value(facts.entities.clone(), Some(schema))
            .map_err(|error| format!("entities: {}", chain(&error)))?;
        let uid = |document: &Document| {
            EntityUid::from_json(document.uid()).map_err(|error| format!("entity: {error}"))
        };
        let action = uid(&facts.action)?;
        let context = Context::from_json_value(facts.context.clone(), Some((schema, &action)))
            .map_err(|error| format!("context: {}", chain(&error)))?;
        let (principal, resource) = (uid(&facts.principal)?, uid(&facts.resource)?);
        let request = Request::new(principal, action, resource, context, Some(schema))
            .map_err(|error| format!("request: {}", chain(&error)))?;
        Ok((request, entities))
    }

    fn verdict(&self, request: &Request, entities: &Entities, action: Action) -> Verdict {
        let response = Authorizer::new().is_authorized(request, &self.set, entities);
        let diagnostics = response.diagnostics();
        let errors: Vec<_> = diagnostics.errors().map(ToString::to_string).collect();
        let permits = response.decision() == Decision::Allow && errors.is_empty();
        let mut policies: Vec<_> = diagnostics.reason().map(ToString::to_string).collect();
        policies.sort();
        let mut obligations = Obligations::default();
        let mut message = None;
        for id in &policies {
            let Some(annotations) = self.annotations.get(id) else {
                continue;
            };
            if permits {
                obligations.add(id, annotations);
            }
            message = message.or_else(|| annotations.deny_message.clone());
        }
        if action == Action::Cancel {
            // It must work when every session's place is taken.
            obligations.max_sessions.clear();
        }
        Verdict {
            permits,
            policies,
            message: message.filter(|_| !permits),
            errors,
            obligations,
        }
    }

    /// What may come of a connection whose startup packet has not been seen yet: whether any permit's scope (principal,
    /// action, server) fits at all, and whether one that does asks for TLS to end here. Conditions are not looked at,
    /// so the answer is no only where no startup packet could make it a yes.
    pub fn prospect(&self, question: &Question) -> Prospect {
        let scope = Scope::of(question, &self.groups);
        let mut prospect = Prospect::default();
        let mut obligations = Obligations::default();
        let permits = self.set.policies();
        for policy in permits.filter(|policy| policy.effect() == Effect::Permit) {
            let is_built_in = AsRef::<str>::as_ref(policy.id()).starts_with(BUILT_IN_PREFIX);
            if !is_built_in && scope.fits(policy) {
                prospect.is_possible = true;
                let annotations = self.annotations.get(AsRef::<str>::as_ref(policy.id()));
                obligations.add_tls(annotations.and_then(|found| found.tls));
            }
        }
        prospect.tls = obligations.tls;
        prospect
    }
}

/// What may come of a connection, before it is known what it wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prospect {
    /// A permit is possible.
    pub is_possible: bool,
    /// Where TLS is to end, if any permit that fits says so.
    pub tls: Option<TlsMode>,
}

/// Everything a question's principal and server are members of.
struct Scope {
    principal: HashSet<String>,
    server: HashSet<String>,
    database_prefix: String,
}

impl Scope {
    fn of(question: &Question, groups: &ServerGroups) -> Self {
        let subject = &question.subject;
        let uid = |kind: &str, id: &str| format!("{kind}::{id}");
        let memberships = subject.memberships.iter();
        let mut principal: HashSet<_> = memberships
            .map(|group| uid(group.kind, &group.id))
            .collect();
        principal.insert(uid("Process", &subject.id));
        let server = question.server;
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

    fn fits(&self, policy: &Policy) -> bool {
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

/// An error and what is behind it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// Sources on their way to [`Policies`].
#[derive(Default)]
struct Checking<'a> {
    set: PolicySet,
    annotations: BTreeMap<String, Annotations>,
    origins: BTreeMap<String, &'a Source>,
    mistakes: Vec<Mistake>,
    warnings: Vec<Mistake>,
}

impl<'a> Checking<'a> {
    fn add(&mut self, source: &'a Source) {
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
            if id.starts_with(BUILT_IN_PREFIX) && source.name() != BUILT_IN_NAME {
                self.mistakes.push(refuse(format!(
                    "ids that begin with \"{BUILT_IN_PREFIX}\" are pgusher's own"
                )));
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
            if let Err(error) = self.set.add(policy) {
                self.mistakes.push(refuse(error.to_string()));
            }
            self.origins.insert(id, source);
        }
    }

    fn validate(&mut self) -> Result<(), PolicyError> {
        let schema = COMPILED_SCHEMA.as_ref().map_err(|error| {
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
