//! Tables of decisions that policies are expected to take, for an operator's own tests: `pgusher policy test`.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::Deserialize;

use super::policies::Policies;
use super::question::{Action, CancelFacts, Question, StartupFacts, TlsFacts};
use super::ruling::Decision;
use super::subject::{Description, Subject};
use crate::destination::Destination;
use crate::wire::negotiation::Encryption;

/// A file of cases.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    case: Vec<Case>,
}

/// One question and the answer it is to get.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    expect: Decision,
    /// A policy that must be among those that decide.
    policy: Option<String>,
    process: Description,
    server: Destination,
    #[serde(default = "connect")]
    action: Action,
    /// None for a session whose startup packet is hidden.
    database: Option<String>,
    user: Option<String>,
    #[serde(default)]
    parameters: std::collections::BTreeMap<String, String>,
    #[serde(default)]
    encryption: Encryption,
    sni: Option<String>,
    /// For a cancel request: whether it is the workload's own session.
    #[serde(default)]
    own_session: bool,
    /// The host's time; the present where it is left out.
    time: Option<DateTime>,
}

fn connect() -> Action {
    Action::Connect
}

/// What came of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The case.
    pub name: String,
    /// What is wrong; none where the answer is the expected one.
    pub failure: Option<String>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.failure {
            None => write!(out, "ok      {}", self.name),
            Some(failure) => write!(out, "FAILED  {}: {failure}", self.name),
        }
    }
}

impl Table {
    /// Reads a file.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn read(path: &Path) -> Result<Self, String> {
        let failed = |reason: String| format!("{}: {reason}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        toml::from_str(&text).map_err(|error| failed(error.to_string()))
    }

    /// Asks every case's question.
    pub fn run(&self, policies: &Policies) -> Vec<Outcome> {
        self.case.iter().map(|case| case.run(policies)).collect()
    }
}

impl Case {
    fn run(&self, policies: &Policies) -> Outcome {
        let zone = TimeZone::system();
        let now = match self.time {
            Some(time) => time.to_zoned(zone),
            None => Ok(jiff::Zoned::now()),
        };
        let failure = match now {
            Ok(now) => self.failure(policies, &now),
            Err(error) => Some(format!("time: {error}")),
        };
        Outcome {
            name: self.name.clone(),
            failure,
        }
    }

    fn failure(&self, policies: &Policies, now: &jiff::Zoned) -> Option<String> {
        let verdict = policies.evaluate(&self.question(), now);
        let decision = if verdict.permits {
            Decision::Allow
        } else {
            Decision::Deny
        };
        let by = match verdict.policies.as_slice() {
            [] => "no policy".to_owned(),
            policies => policies.join(", "),
        };
        if let Some(error) = verdict.errors.first() {
            return Some(format!("the evaluation failed: {error}"));
        }
        if decision != self.expect {
            return Some(format!("{decision}, by {by}; expected {}", self.expect));
        }
        let expected = self.policy.as_ref()?;
        (!verdict.policies.contains(expected))
            .then(|| format!("{decision} as expected, but by {by}, not {expected}"))
    }

    fn question(&self) -> Question {
        let subject = Arc::new(Subject::described(&self.process));
        let tls = TlsFacts {
            encryption: self.encryption,
            sni: self.sni.clone(),
            certificate: None,
            ..TlsFacts::default()
        };
        let hidden = Question::opaque(subject, self.server.clone(), tls);
        if self.action == Action::Cancel {
            let cancel = CancelFacts {
                known: true,
                same_workload: self.own_session,
                may_connect: false,
            };
            return hidden.cancelling(self.database.clone(), cancel);
        }
        if self.database.is_none() && self.user.is_none() {
            return hidden;
        }
        let replicates = self.action == Action::Replicate;
        let more = self.parameters.clone().into_iter().collect();
        let (user, database) = (self.user.clone(), self.database.clone());
        let startup = if replicates && database.is_none() {
            StartupFacts::physical_replication(user, more)
        } else {
            StartupFacts::new(user, database, more)
        };
        hidden.with_startup(startup, replicates)
    }
}
