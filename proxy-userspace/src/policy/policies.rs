//! A checked set of policies, and what it answers. The only module that speaks Cedar at run time.
//!
//! **Invariant:** whatever goes wrong in an evaluation, the answer is a denial that says so. Cedar itself leaves a
//! policy out that fails, which for a `forbid` would let somebody in. What could not be established of a process is likewise
//! no reason to pass by a `forbid` that asks for it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, LazyLock};

use cedar_policy::{Authorizer, Decision, Entities, PolicySet, Request, Response, Schema};
use sha2::{Digest as _, Sha256};

use super::check::Checking;
use super::document::{Document, Facts};
use super::interest::Interest;
use super::obligations::{Annotations, Obligations};
use super::question::{Action, Question};
use super::ruling::{Cause, PolicyMode, Ruling};
use super::scope::Around;
use super::selection::Selection;
use super::source::{Mistake, PolicyError, Source};
use super::values;
use crate::config::{ServerGroups, TlsMode};
use crate::wire::text::hex;

/// The schema as it is shipped.
pub const SCHEMA: &str = include_str!("pgusher.cedarschema");
/// What holds beside the operator's own policies.
const BUILT_IN: &str = include_str!("builtin.cedar");
/// The policy that lets a workload cancel its own sessions' queries.
pub const OWN_CANCEL: &str = "pgusher.own-cancel";
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
    selection: Selection,
    interest: Interest,
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
    /// Why it is a denial although, by what is known of the process, it would be none.
    pub in_doubt: Option<Cause>,
    /// What else the deciding policies ask for.
    pub obligations: Obligations,
}

impl Policies {
    /// Reads and checks the policies of a file or directory.
    ///
    /// # Errors
    /// [`PolicyError`]
    pub fn load(path: &Path, groups: Arc<ServerGroups>) -> Result<Self, PolicyError> {
        Self::check(&Source::read(path)?, groups)
    }

    /// Checks the sources: syntax, the schema (strictly), names and annotations.
    ///
    /// # Errors
    /// [`PolicyError::Mistakes`], all of them, each with its place.
    pub fn check(sources: &[Source], groups: Arc<ServerGroups>) -> Result<Self, PolicyError> {
        let built_in = Source::new("(built in)", BUILT_IN);
        let mut checking = Checking::default();
        for source in [&built_in].into_iter().chain(sources) {
            checking.add(source, &groups);
        }
        checking.validate(COMPILED_SCHEMA.as_ref())?;
        let mut digest = Sha256::new();
        for source in sources {
            source.hash(&mut digest);
        }
        let revision = hex(&digest.finalize());
        Ok(Self {
            interest: Interest::of(&checking.set),
            selection: Selection::of(checking.set),
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
        self.selection.whole().policies().count().saturating_sub(1)
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
        let whole = self.selection.whole();
        whole.policy(&cedar_policy::PolicyId::new(id))?.to_cedar()
    }

    /// Answers a question in a mode, for records.
    pub fn rule(&self, question: &Question, mode: PolicyMode, now: &jiff::Zoned) -> Ruling {
        Ruling::new(mode, question, self.evaluate(question, now), &self.revision)
    }

    /// Answers a question, as of `now`.
    pub fn evaluate(&self, question: &Question, now: &jiff::Zoned) -> Verdict {
        let verdict = self.evaluate_known(question, now);
        if verdict.permits {
            self.unless_in_doubt(verdict, question, now)
        } else {
            verdict
        }
    }

    /// Answers it by what is known of the process.
    fn evaluate_known(&self, question: &Question, now: &jiff::Zoned) -> Verdict {
        let fitting = self.selection.fitting(&self.around(question));
        self.answer(question, now, &fitting, &self.interest)
    }

    /// The verdict, unless the process may be one that is forbidden.
    fn unless_in_doubt(&self, verdict: Verdict, question: &Question, now: &jiff::Zoned) -> Verdict {
        for guess in self.selection.guesses(question.subject.doubts()) {
            let subject = Arc::new(question.subject.joined_to(&guess));
            let supposed = Question {
                subject,
                ..question.clone()
            };
            let answer = self.evaluate_known(&supposed, now);
            if !answer.permits {
                let kinds: BTreeSet<_> = guess.iter().map(|group| group.kind).collect();
                let kinds = kinds.into_iter().collect();
                return Verdict {
                    in_doubt: Some(Cause::InDoubt { kinds }),
                    ..answer
                };
            }
        }
        verdict
    }

    /// The same from all policies and all there is to know, which must make no difference.
    #[cfg(test)]
    pub(super) fn evaluate_all(&self, question: &Question, now: &jiff::Zoned) -> Verdict {
        self.answer(question, now, self.selection.whole(), &Interest::Everything)
    }

    fn answer(
        &self,
        question: &Question,
        now: &jiff::Zoned,
        policies: &PolicySet,
        interest: &Interest,
    ) -> Verdict {
        let facts = Facts::of(question, &self.groups, now, interest);
        match Self::request(&facts) {
            Ok((request, entities)) => {
                let response = Authorizer::new().is_authorized(&request, policies, &entities);
                self.verdict(&response, question.action)
            }
            Err(error) => Verdict {
                permits: false,
                policies: Vec::new(),
                message: None,
                errors: vec![error],
                in_doubt: None,
                obligations: Obligations::default(),
            },
        }
    }

    fn request(facts: &Facts) -> Result<(Request, Entities), String> {
        let entities = values::entities(&facts.entities)?;
        let context = values::context(&facts.context)?;
        let [principal, action, resource] =
            [&facts.principal, &facts.action, &facts.resource].map(Document::uid);
        let request = Request::new(principal?, action?, resource?, context, None);
        Ok((request.map_err(|error| error.to_string())?, entities))
    }

    fn verdict(&self, response: &Response, action: Action) -> Verdict {
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
            // It must work when every session's place is taken, and there is nothing in it to look at.
            obligations = Obligations::default();
        }
        Verdict {
            permits,
            policies,
            message: message.filter(|_| !permits),
            errors,
            in_doubt: None,
            obligations,
        }
    }

    /// What may come of a connection whose startup packet has not been seen yet: whether any permit's scope (principal,
    /// action, server) fits at all, and whether one that does asks for TLS to end here. Conditions are not looked at,
    /// so the answer is no only where no startup packet could make it a yes.
    pub fn prospect(&self, question: &Question) -> Prospect {
        let mut prospect = Prospect::default();
        for policy in self.selection.permits(&self.around(question)) {
            // Whose sessions there are to cancel, [`super::Enforcer`] knows.
            if AsRef::<str>::as_ref(policy.id()) != OWN_CANCEL {
                prospect.is_possible = true;
                let annotations = self.annotations.get(AsRef::<str>::as_ref(policy.id()));
                prospect.tls = prospect.tls.or(annotations.and_then(|found| found.tls));
            }
        }
        prospect
    }

    fn around<'a>(&'a self, question: &'a Question) -> Around<'a> {
        Around::of(question, &self.groups, &self.interest)
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
