//! Policies in force: what a reload does to live sessions, and what is counted.

use std::sync::Arc;

use super::super::*;
use super::question;
use crate::config::PolicyConfig;
use crate::wire::negotiation::Encryption;

/// A policy file and an enforcer that reads it.
struct Enforced {
    file: tempfile::NamedTempFile,
    enforcer: Enforcer,
}

impl Enforced {
    fn new(mode: PolicyMode, text: &str) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let config = PolicyConfig {
            mode,
            path: Some(file.path().to_path_buf()),
            groups: Arc::default(),
        };
        let enforcer = Enforcer::load(&config).unwrap();
        Self { file, enforcer }
    }

    fn reload(&self, text: &str) -> Result<Reloaded, PolicyError> {
        std::fs::write(self.file.path(), text).unwrap();
        self.enforcer.reload().map(Option::unwrap)
    }
}

fn decided(enforcer: &Enforcer, question: Question) -> Result<Permit, Denial> {
    let server = question.server.clone();
    enforcer.decide(&server, || question)
}

const FOR_APP: &str = "permit (principal in User::\"app\", action, resource);";
const FOR_ALL: &str = "permit (principal, action, resource);";

#[test]
fn a_reload_ends_what_is_no_longer_permitted_and_nothing_else() {
    let enforced = Enforced::new(PolicyMode::Enforce, FOR_ALL);
    let app = decided(&enforced.enforcer, question(&[("User", "app")])).unwrap();
    let other = decided(&enforced.enforcer, question(&[("User", "other")])).unwrap();
    let reloaded = enforced.reload(FOR_APP).unwrap();
    assert_eq!((reloaded.sessions, reloaded.ended), (2, 1));
    assert!(!app.revocation().is_cancelled());
    assert!(other.revocation().is_cancelled());
    assert!(other.denial().is_some_and(|denial| !denial.is_full()));
    drop(other);
    assert_eq!(enforced.reload(FOR_APP).unwrap().sessions, 1);
    assert!(decided(&enforced.enforcer, question(&[("User", "other")])).is_err());
}

#[test]
fn a_broken_policy_leaves_the_last_good_one_in_force() {
    let enforced = Enforced::new(PolicyMode::Enforce, FOR_APP);
    let permit = decided(&enforced.enforcer, question(&[("User", "app")])).unwrap();
    assert!(enforced.reload("permit (principal").is_err());
    assert!(!permit.revocation().is_cancelled());
    assert!(decided(&enforced.enforcer, question(&[("User", "app")])).is_ok());
    assert!(decided(&enforced.enforcer, question(&[("User", "other")])).is_err());
    assert!(enforced.enforcer.status().failure.is_some());
    enforced.reload(FOR_ALL).unwrap();
    assert!(enforced.enforcer.status().failure.is_none());
}

#[test]
fn observing_denies_nobody_and_says_whom_it_would() {
    let enforced = Enforced::new(PolicyMode::Observe, FOR_APP);
    let permit = decided(&enforced.enforcer, question(&[("User", "other")])).unwrap();
    assert_eq!(permit.ruling().unwrap().decision, Decision::Deny);
    assert!(!permit.is_revocable());
    assert_eq!(enforced.reload("").unwrap().ended, 0);
    assert!(!permit.revocation().is_cancelled());
    assert_eq!(enforced.enforcer.status().denied, 1);
}

#[test]
fn a_policys_limit_on_sessions_holds_on_both_sides_and_is_given_back() {
    let limited = "@id(\"few\") @max_sessions(\"2\") permit (principal, action, resource);";
    let enforced = Enforced::new(PolicyMode::Enforce, limited);
    let decide = || decided(&enforced.enforcer, question(&[]));
    let (first, second) = (decide().unwrap(), decide().unwrap());
    let denial = decide().unwrap_err();
    let full = Cause::SessionsFull {
        policy: "few".to_owned(),
        most: 2,
    };
    assert_eq!(denial.ruling().cause, Some(full));
    let cancel = CancelFacts {
        same_workload: true,
        ..CancelFacts::default()
    };
    let cancelling = question(&[]).cancelling(None, cancel);
    assert!(decided(&enforced.enforcer, cancelling).is_ok());
    drop(first);
    let third = decide().unwrap();
    assert!(decide().is_err());
    // Renamed: the sessions are counted under the new name from then on.
    enforced
        .reload(&limited.replace("few", "fewer").replace('2', "1"))
        .unwrap();
    assert!(!second.revocation().is_cancelled() && !third.revocation().is_cancelled());
    assert!(decide().is_err());
    drop((second, third));
    assert!(decide().is_ok());
}

#[test]
fn without_policies_everything_is_permitted() {
    let enforcer = Enforcer::load(&PolicyConfig::default()).unwrap();
    let permit = decided(&enforcer, question(&[])).unwrap();
    assert!(permit.ruling().is_none() && !permit.is_revocable());
    assert!(enforcer.reload().unwrap().is_none());
}

#[test]
fn only_where_no_decision_can_keep_it_out_a_client_that_nobody_knows_may_have_its_server_dialled() {
    let server = question(&[]).server;
    let none = Enforcer::load(&PolicyConfig::default()).unwrap();
    let observed = Enforced::new(PolicyMode::Observe, "").enforcer;
    for open in [none, observed] {
        assert_eq!(open.unasked(&server).unwrap().destination(), &server);
    }
    // Whatever they say: a reload may change it before the decision falls.
    let enforced = Enforced::new(PolicyMode::Enforce, FOR_ALL).enforcer;
    assert!(enforced.unasked(&server).is_none());
}

const TERMINATED: &str = "@tls(\"terminate\") permit (principal, action, resource);";

/// A session that client and server encrypt between themselves.
fn hidden() -> Question {
    let tls = TlsFacts {
        encryption: Encryption::Tls,
        ..TlsFacts::default()
    };
    let asked = question(&[]);
    Question::opaque(asked.subject, asked.server, tls)
}

#[test]
fn what_is_to_be_seen_and_cannot_be_is_denied_also_after_a_reload() {
    let enforced = Enforced::new(PolicyMode::Enforce, FOR_ALL);
    let permit = decided(&enforced.enforcer, hidden()).unwrap();
    assert_eq!(enforced.reload(TERMINATED).unwrap().ended, 1);
    assert!(permit.revocation().is_cancelled());
    let denial = decided(&enforced.enforcer, hidden()).unwrap_err();
    assert_eq!(denial.ruling().cause, Some(Cause::CannotTerminate));
    // Nothing hides what is not encrypted, and a cancel request has nothing to look at.
    assert!(decided(&enforced.enforcer, question(&[])).is_ok());
    let cancelling = hidden().cancelling(None, CancelFacts::default());
    assert!(decided(&enforced.enforcer, cancelling).is_ok());
}

#[test]
fn what_would_be_seen_if_it_were_enforced_is_no_denial() {
    let observed = Enforced::new(PolicyMode::Observe, TERMINATED).enforcer;
    let mut asked = hidden();
    asked.tls.could_end_here = true;
    let permit = decided(&observed, asked).unwrap();
    assert!(permit.ruling().unwrap().permits());
}

#[test]
fn observing_records_every_denial_that_enforcing_would_bring() {
    let limited = "@max_sessions(\"1\") permit (principal, action, resource);";
    let enforced = Enforced::new(PolicyMode::Observe, limited);
    let _first = decided(&enforced.enforcer, question(&[])).unwrap();
    let second = decided(&enforced.enforcer, question(&[])).unwrap();
    assert!(!second.ruling().unwrap().permits());
    enforced.reload(TERMINATED).unwrap();
    let unseen = decided(&enforced.enforcer, hidden()).unwrap();
    let cause = unseen.ruling().unwrap().cause.clone();
    assert_eq!(cause, Some(Cause::CannotTerminate));
    assert_eq!(enforced.enforcer.status().denied, 2);
}

#[test]
fn a_workload_with_a_session_may_ask_about_encryption_to_cancel_it() {
    let enforced = Enforced::new(PolicyMode::Enforce, FOR_APP);
    let none = Question::opaque(
        question(&[]).subject,
        question(&[]).server,
        TlsFacts::default(),
    );
    assert!(enforced.enforcer.consider(&none, || false).is_err());
    assert!(enforced.enforcer.consider(&none, || true).is_ok());
    let app = question(&[("User", "app")]);
    let _permit = decided(&enforced.enforcer, app).unwrap();
    // The same process as far as its number goes, although no policy names it any more.
    assert!(enforced.enforcer.consider(&none, || false).is_ok());
}
