//! From an audit trail to a policy that permits exactly what was seen: `pgusher learn`.
//!
//! **Invariant:** nothing is widened in silence. A permit for a unit is for whatever that unit runs, and one for a
//! hidden session for whatever goes on in it; where the draft is wider than what was seen, a comment says so. Every
//! session that was taken is asked about again under the draft before it is printed.

mod draft;
mod principal;

use std::collections::BTreeMap;
use std::io::BufRead;
use std::sync::Arc;

use jiff::{Timestamp, Zoned};

use crate::audit::reading::{Kind, SessionRecord, TrailError, sessions};
use crate::config::ServerGroups;
use crate::policy::{Action, Policies, PolicyError, Question, Source};

use principal::Principal;

/// Distinct things that may be seen; a trail with more of them is not one to read a policy from.
const MAX_SEEN: usize = 100_000;
/// Programs that a comment names.
const MAX_PROGRAMS: usize = 8;

/// Why there is no draft.
#[derive(Debug, thiserror::Error)]
pub enum LearnError {
    /// The trail cannot be read.
    #[error(transparent)]
    Trail(#[from] TrailError),
    /// There is nothing to learn from.
    #[error("the trail has no session that succeeded")]
    Nothing,
    /// There is too much.
    #[error(
        "more than {MAX_SEEN} combinations of process, database and user; learn from a shorter trail"
    )]
    TooMuch,
    /// The draft is not valid: a defect of pgusher's.
    #[error("the draft is not a valid policy, which is a defect of pgusher's: {0}")]
    Invalid(PolicyError),
    /// The draft does not permit what was seen: a defect of pgusher's.
    #[error("the draft does not permit session {0}, which is a defect of pgusher's")]
    NotPermitted(uuid::Uuid),
}

/// What a session wanted, as a policy can tell it apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Wish {
    action: Action,
    server: String,
    target: Target,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    /// Encryption hides what it is.
    Hidden,
    /// The server itself: physical replication.
    Server {
        user: Option<String>,
    },
    Database {
        name: String,
        user: Option<String>,
    },
}

/// Sessions that are alike.
#[derive(Clone, Debug)]
struct Sightings {
    sessions: u64,
    first: Timestamp,
    last: Timestamp,
    programs: Vec<String>,
    /// Some of it was a script's doing.
    is_script: bool,
    example: (uuid::Uuid, Question),
}

/// Everything that was seen.
#[derive(Debug, Default)]
pub struct Lesson {
    seen: BTreeMap<Principal, BTreeMap<Wish, Sightings>>,
    combinations: usize,
    failed: u64,
    unknown: u64,
    foreign_cancels: u64,
}

impl Lesson {
    /// Reads a trail; more than one may be read.
    ///
    /// # Errors
    /// [`LearnError::Trail`], [`LearnError::TooMuch`]
    pub fn read(&mut self, trail: impl BufRead) -> Result<(), LearnError> {
        sessions(trail, |record| self.take(&record))?;
        if self.combinations > MAX_SEEN {
            return Err(LearnError::TooMuch);
        }
        Ok(())
    }

    fn take(&mut self, record: &SessionRecord) {
        if self.combinations > MAX_SEEN {
            return;
        }
        if record.kind == Kind::Cancel {
            // One's own sessions may be cancelled anyway.
            self.foreign_cancels += u64::from(record.was_denied());
            return;
        }
        if !has_succeeded(record) {
            self.failed += 1;
            return;
        }
        let Some(question) = record.question() else {
            self.unknown += 1;
            return;
        };
        let wish = Wish::of(&question);
        let principal = Principal::of(&question.subject);
        let program = question.subject.program().map(str::to_owned);
        let is_script = question.subject.runs_a_script();
        let wishes = self.seen.entry(principal).or_default();
        let known = wishes.len();
        let sightings = wishes.entry(wish).or_insert_with(|| Sightings {
            sessions: 0,
            first: record.started,
            last: record.started,
            programs: Vec::new(),
            is_script: false,
            example: (record.session, question),
        });
        sightings.sessions += 1;
        sightings.is_script |= is_script;
        sightings.first = sightings.first.min(record.started);
        sightings.last = sightings.last.max(record.started);
        if let Some(program) = program
            && !sightings.programs.contains(&program)
            && sightings.programs.len() <= MAX_PROGRAMS
        {
            let is_too_many = sightings.programs.len() == MAX_PROGRAMS;
            sightings.programs.push(if is_too_many {
                "…".to_owned()
            } else {
                program
            });
        }
        self.combinations += wishes.len() - known;
    }

    /// The draft.
    ///
    /// # Errors
    /// [`LearnError`]
    pub fn draft(&self) -> Result<String, LearnError> {
        if self.seen.is_empty() {
            return Err(LearnError::Nothing);
        }
        let text = draft::write(self);
        let source = Source::new("draft", text.as_str());
        let policies = Policies::check(&[source], Arc::new(ServerGroups::default()))
            .map_err(LearnError::Invalid)?;
        let now = Zoned::now();
        for sightings in self.seen.values().flat_map(BTreeMap::values) {
            let (session, question) = &sightings.example;
            if !policies.evaluate(question, &now).permits {
                return Err(LearnError::NotPermitted(*session));
            }
        }
        Ok(text)
    }
}

/// Whether the server let it in; of a session that encryption hides nobody knows.
fn has_succeeded(record: &SessionRecord) -> bool {
    match record.kind {
        Kind::Session | Kind::Replication => record.login.outcome == "accepted",
        Kind::Opaque => record.encryption().is_with_the_server(),
        Kind::Cancel | Kind::None => false,
    }
}

impl Wish {
    fn of(question: &Question) -> Self {
        let user = question
            .startup
            .as_ref()
            .and_then(|startup| startup.user.clone());
        let target = match (&question.database, &question.startup) {
            (Some(name), _) => Target::Database {
                name: name.clone(),
                user,
            },
            (None, Some(_)) => Target::Server { user },
            (None, None) => Target::Hidden,
        };
        Self {
            action: question.action,
            server: question.server.to_string(),
            target,
        }
    }
}

#[cfg(test)]
mod tests;
