//! Stage 4, policy: may this process do what it asks for? The answer is a value that dialling requires.
//!
//! Policies are Cedar (docs/policy.md, docs/decisions/0030-cedar-policy.md). Where there are none, everything is
//! permitted. A session needs a [`Permit`]. Less is a [`Clearance`], leave to dial: for a connection that asks the server
//! about encryption and has not said what it wants; and for one that nobody knows yet, where policies only observe. Both can
//! be made only here, so no path leads to a server past this stage. Previous stage: [`crate::startup`]; next: [`crate::route`].

mod attributes;
mod check;
mod document;
mod enforcer;
mod interest;
mod obligations;
mod permit;
mod policies;
mod question;
mod ruling;
mod scope;
mod selection;
mod source;
mod status;
mod subject;
mod table;
mod values;

pub use enforcer::Enforcer;
pub use obligations::Obligations;
pub use permit::{Clearance, Permit};
pub use policies::{OWN_CANCEL, Policies, Prospect, SCHEMA, Verdict};
pub use question::{Action, CancelFacts, Question, StartupFacts, TlsFacts};
pub use ruling::{Cause, Decision, Denial, PolicyMode, Ruling};
pub use source::{Mistake, PolicyError, Source};
pub use status::{PolicyStatus, Reloaded};
pub use subject::{Description, Membership, Subject, Workload};
pub use table::{Outcome, Table};

#[cfg(test)]
pub(crate) use permit::tests_clearance;

#[cfg(test)]
mod tests;
