//! Policies against questions: a table of decisions, and what a reload does to live sessions.

use std::net::SocketAddr;
use std::sync::Arc;

use jiff::Zoned;

use super::subject::{Description, Membership};
use super::*;
use crate::config::{AuditLevel, PolicyConfig, ServerGroups, TlsMode};

const SERVER: &str = "192.0.2.7:5432";

fn subject(memberships: &[(&'static str, &str)]) -> Arc<Subject> {
    let mut subject = Subject::described(&Description {
        uid: Some(1000),
        ..Description::default()
    });
    subject.memberships = memberships
        .iter()
        .map(|(kind, id)| Membership {
            kind,
            id: (*id).to_owned(),
        })
        .collect();
    Arc::new(subject)
}

fn question(memberships: &[(&'static str, &str)]) -> Question {
    let server: SocketAddr = SERVER.parse().unwrap();
    Question {
        database: Some("orders".to_owned()),
        startup: Some(StartupFacts {
            protocol: "3.0".to_owned(),
            user: Some("app".to_owned()),
            database: Some("orders".to_owned()),
            parameters: vec![
                ("user".to_owned(), "app".to_owned()),
                ("application_name".to_owned(), "test".to_owned()),
            ],
        }),
        ..Question::opaque(subject(memberships), server, TlsFacts::default())
    }
}

fn policies(text: &str) -> Policies {
    let groups = ServerGroups::tests_group("prod", SERVER.parse().unwrap());
    Policies::check(&[Source::new("test.cedar", text)], Arc::new(groups)).unwrap()
}

fn mistakes(text: &str) -> String {
    let sources = [Source::new("test.cedar", text)];
    Policies::check(&sources, Arc::default())
        .unwrap_err()
        .to_string()
}

/// Each text alone is the policy.
const DECISIONS: &[(&str, bool)] = &[
    ("permit (principal, action, resource);", true),
    ("", false),
    (
        "permit (principal in Unit::\"billing.service\", action, resource);",
        true,
    ),
    (
        "permit (principal in Unit::\"other.service\", action, resource);",
        false,
    ),
    (
        "permit (principal in User::\"#1000\", action == Action::\"connect\", resource);",
        true,
    ),
    (
        "permit (principal, action == Action::\"replicate\", resource);",
        false,
    ),
    (
        "permit (principal, action, resource in ServerGroup::\"prod\");",
        true,
    ),
    (
        "permit (principal, action, resource in ServerGroup::\"test\");",
        false,
    ),
    (
        "permit (principal, action, resource == Database::\"192.0.2.7:5432/orders\");",
        true,
    ),
    (
        "permit (principal, action, resource in Server::\"192.0.2.7:5432\");",
        true,
    ),
    (
        "permit (principal, action, resource in Server::\"192.0.2.7:5433\");",
        false,
    ),
    (
        "permit (principal, action, resource is Database) when { resource.name == \"orders\" };",
        true,
    ),
    (
        "permit (principal, action, resource) when { resource.address.isInRange(ip(\"192.0.2.0/24\")) && resource.port == 5432 };",
        true,
    ),
    (
        "permit (principal, action == Action::\"connect\", resource) when { context has startup && context.startup has user && context.startup.user == \"app\" };",
        true,
    ),
    (
        "permit (principal, action == Action::\"connect\", resource) when { context has startup && context.startup.parameters.contains(\"application_name=test\") };",
        true,
    ),
    (
        "permit (principal, action, resource) when { context.tls.encryption == \"none\" };",
        true,
    ),
    (
        "permit (principal, action, resource) when { context.time.hour >= 0 && context.time.now > datetime(\"2020-01-01\") };",
        true,
    ),
    (
        "permit (principal, action, resource) when { principal.uid == 1000 };",
        true,
    ),
    (
        "permit (principal, action, resource) when { principal has executable && principal.executable like \"/usr/*\" };",
        false,
    ),
    (
        "permit (principal, action, resource); forbid (principal in User::\"app\", action, resource);",
        false,
    ),
    (
        "permit (principal, action, resource); forbid (principal, action, resource) unless { context.tls.encryption == \"tls\" };",
        false,
    ),
    // An error in a forbid must not let anybody in.
    (
        "permit (principal, action, resource); forbid (principal, action, resource) when { principal.uid * 9223372036854775807 > 0 };",
        false,
    ),
];

/// Policies and what they say: the same process (unit billing.service, user app #1000, program /usr/bin/psql), the database
/// orders on 192.0.2.7:5432 in the group prod.
#[test]
fn decisions_by_scope_and_condition() {
    let asked = question(&[
        ("Unit", "billing.service"),
        ("User", "app"),
        ("User", "#1000"),
        ("Executable", "/usr/bin/psql"),
    ]);
    for (text, expected) in DECISIONS {
        let verdict = policies(text).evaluate(&asked, &Zoned::now());
        assert_eq!(verdict.permits, *expected, "{text}\n{verdict:?}");
    }
}

/// Whatever is known of a process, it is what the schema says.
#[tokio::test]
async fn a_real_process_fits_the_schema() {
    let root = crate::intercept::cgroup_root().unwrap();
    let config = crate::config::IdentityConfig {
        exe_sha256: true,
        ..crate::config::IdentityConfig::default()
    };
    let identifier = crate::identify::Identifier::new(&root, &config);
    let identity = identifier
        .identify_running(std::process::id())
        .await
        .unwrap();
    let subject = Arc::new(Subject::of(&identity));
    let exe = std::env::current_exe().unwrap().display().to_string();
    let asked = Question {
        subject: Arc::clone(&subject),
        ..question(&[])
    };
    let uid = nix::unistd::getuid();
    let text = format!(
        "permit (principal in User::\"#{uid}\", action, resource) when {{ principal in Executable::\"{exe}\" && context.grades has sha256 && context.grades.sha256 == \"verified\" }};"
    );
    let verdict = policies(&text).evaluate(&asked, &Zoned::now());
    assert!(verdict.permits, "{verdict:?}\n{subject:?}");
    assert!(subject.is_same_workload(&subject));
}

#[test]
fn what_an_evaluation_error_is_is_told() {
    let text = "permit (principal, action, resource); forbid (principal, action, resource) when { principal.uid * 9223372036854775807 > 0 };";
    let verdict = policies(text).evaluate(&question(&[]), &Zoned::now());
    assert!(!verdict.permits);
    assert!(
        verdict.errors.first().unwrap().contains("overflow"),
        "{verdict:?}"
    );
}

#[test]
fn a_denial_names_its_policies_and_speaks_their_words() {
    let text = "permit (principal, action, resource);\n@id(\"no-apps\") @deny_message(\"ask the DBAs\") forbid (principal in User::\"app\", action, resource);";
    let verdict = policies(text).evaluate(&question(&[("User", "app")]), &Zoned::now());
    assert_eq!(verdict.policies, ["no-apps"]);
    assert_eq!(verdict.message.as_deref(), Some("ask the DBAs"));
}

#[test]
fn obligations_of_all_deciding_policies_hold_together() {
    let text = "@id(\"a\") @audit(\"sessions\") @max_sessions(\"3\") permit (principal, action, resource);\n\
        @id(\"b\") @audit(\"statements\") @tls(\"terminate\") permit (principal, action, resource);\n\
        @id(\"c\") @max_sessions(\"1\") permit (principal in User::\"other\", action, resource);";
    let verdict = policies(text).evaluate(&question(&[]), &Zoned::now());
    let obligations = verdict.obligations;
    assert_eq!(obligations.audit, Some(AuditLevel::Statements));
    assert_eq!(obligations.tls, Some(TlsMode::Terminate));
    let limits: Vec<_> = obligations.max_sessions.keys().collect();
    assert_eq!(limits, ["a"]);
}

#[test]
fn a_workload_may_cancel_its_own_sessions_and_others_need_a_permit() {
    let connect = "permit (principal, action == Action::\"connect\", resource);";
    let both = "permit (principal, action in [Action::\"connect\", Action::\"cancel\"], resource);";
    let forbidden = "permit (principal, action, resource); forbid (principal, action == Action::\"cancel\", resource);";
    let cases = [
        // known, same workload, may connect
        (connect, (true, true, false), true),
        (connect, (true, false, true), false),
        (connect, (false, false, true), true),
        (connect, (false, false, false), false),
        (both, (true, false, true), true),
        (forbidden, (true, true, true), false),
    ];
    for (text, (known, same_workload, may_connect), expected) in cases {
        let cancel = CancelFacts {
            known,
            same_workload,
            may_connect,
        };
        let asked = question(&[]).cancelling(known.then(|| "orders".to_owned()), cancel);
        let verdict = policies(text).evaluate(&asked, &Zoned::now());
        assert_eq!(verdict.permits, expected, "{text} {cancel:?} {verdict:?}");
    }
}

#[test]
fn a_prospect_is_no_only_where_no_startup_packet_could_make_it_a_yes() {
    let hidden = Question::opaque(
        subject(&[("User", "app")]),
        SERVER.parse().unwrap(),
        TlsFacts::default(),
    );
    let cases = [
        ("", false),
        (
            "permit (principal, action, resource) when { context.tls.encryption == \"none\" };",
            true,
        ),
        (
            "permit (principal in User::\"app\", action, resource == Database::\"192.0.2.7:5432/orders\");",
            true,
        ),
        (
            "permit (principal in User::\"app\", action, resource == Database::\"192.0.2.8:5432/orders\");",
            false,
        ),
        (
            "permit (principal in User::\"other\", action, resource);",
            false,
        ),
        (
            "permit (principal, action, resource in ServerGroup::\"prod\");",
            true,
        ),
        (
            "permit (principal, action, resource is Database in ServerGroup::\"test\");",
            false,
        ),
        (
            "permit (principal, action == Action::\"replicate\", resource);",
            true,
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(
            policies(text).prospect(&hidden).is_possible,
            expected,
            "{text}"
        );
    }
    let text = "@tls(\"terminate\") permit (principal in User::\"app\", action, resource) when { context has startup };\npermit (principal, action, resource);";
    assert_eq!(
        policies(text).prospect(&hidden).tls,
        Some(TlsMode::Terminate)
    );
}

#[test]
fn every_mistake_is_refused_with_its_place() {
    let cases = [
        ("permit (principal, action, resource)", "test.cedar:1:"),
        (
            "\npermit (principal in Unt::\"x\", action, resource);",
            "test.cedar:2:22: policy \"test.cedar#1\": ",
        ),
        (
            "permit (principal, action == Action::\"conect\", resource);",
            "test.cedar:1:",
        ),
        (
            "permit (principal, action, resource) when { principal.exe == \"x\" };",
            "test.cedar:1:",
        ),
        (
            "permit (principal, action, resource) when { principal.executable == \"x\" };",
            "test.cedar:1:",
        ),
        (
            "permit (principal, action, resource) when { context.startup.user == \"x\" };",
            "test.cedar:1:",
        ),
        (
            "@id(\"a\") permit (principal, action, resource); @id(\"a\") forbid (principal, action, resource);",
            "its @id is taken",
        ),
        (
            "@id(\"pgusher.x\") permit (principal, action, resource);",
            "pgusher's own",
        ),
        (
            "@adit(\"x\") permit (principal, action, resource);",
            "@adit is no annotation",
        ),
        (
            "@audit(\"all\") permit (principal, action, resource);",
            "none of \"sessions\"",
        ),
        (
            "@max_sessions(\"0\") permit (principal, action, resource);",
            "no number from 1 on",
        ),
        (
            "@max_sessions(\"5\") forbid (principal, action, resource);",
            "means nothing on a forbid",
        ),
        (
            "@deny_message(\"x\") permit (principal, action, resource);",
            "means nothing on a permit",
        ),
    ];
    for (text, expected) in cases {
        let told = mistakes(text);
        assert!(told.contains(expected), "{text}\n{told}");
    }
}

#[test]
fn a_forbid_that_anybody_can_evade_is_warned_about() {
    let text = "permit (principal, action, resource); forbid (principal in Executable::\"/usr/bin/psql\", action, resource);";
    let warnings: Vec<_> = policies(text)
        .warnings()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}

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

const FOR_APP: &str = "permit (principal in User::\"app\", action, resource);";
const FOR_ALL: &str = "permit (principal, action, resource);";

#[test]
fn a_reload_ends_what_is_no_longer_permitted_and_nothing_else() {
    let enforced = Enforced::new(PolicyMode::Enforce, FOR_ALL);
    let app = enforced
        .enforcer
        .decide(question(&[("User", "app")]))
        .unwrap();
    let other = enforced
        .enforcer
        .decide(question(&[("User", "other")]))
        .unwrap();
    let reloaded = enforced.reload(FOR_APP).unwrap();
    assert_eq!((reloaded.sessions, reloaded.ended), (2, 1));
    assert!(!app.revocation().is_cancelled());
    assert!(other.revocation().is_cancelled());
    assert!(matches!(other.denial(), Some(Denial::Policy(_))));
    drop(other);
    assert_eq!(enforced.reload(FOR_APP).unwrap().sessions, 1);
    assert!(
        enforced
            .enforcer
            .decide(question(&[("User", "other")]))
            .is_err()
    );
}

#[test]
fn a_broken_policy_leaves_the_last_good_one_in_force() {
    let enforced = Enforced::new(PolicyMode::Enforce, FOR_APP);
    let permit = enforced
        .enforcer
        .decide(question(&[("User", "app")]))
        .unwrap();
    assert!(enforced.reload("permit (principal").is_err());
    assert!(!permit.revocation().is_cancelled());
    assert!(
        enforced
            .enforcer
            .decide(question(&[("User", "app")]))
            .is_ok()
    );
    assert!(
        enforced
            .enforcer
            .decide(question(&[("User", "other")]))
            .is_err()
    );
    assert!(enforced.enforcer.status().failure.is_some());
    enforced.reload(FOR_ALL).unwrap();
    assert!(enforced.enforcer.status().failure.is_none());
}

#[test]
fn observing_denies_nobody_and_says_whom_it_would() {
    let enforced = Enforced::new(PolicyMode::Observe, FOR_APP);
    let permit = enforced
        .enforcer
        .decide(question(&[("User", "other")]))
        .unwrap();
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
    let decide = || enforced.enforcer.decide(question(&[]));
    let (first, second) = (decide().unwrap(), decide().unwrap());
    let denial = decide().unwrap_err();
    assert!(
        matches!(&denial, Denial::Full { policy, most: 2, .. } if policy == "few"),
        "{denial:?}"
    );
    let cancel = CancelFacts {
        same_workload: true,
        ..CancelFacts::default()
    };
    let cancelling = question(&[]).cancelling(None, cancel);
    assert!(enforced.enforcer.decide(cancelling).is_ok());
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
    let permit = enforcer.decide(question(&[])).unwrap();
    assert!(permit.ruling().is_none() && !permit.is_revocable());
    assert!(enforcer.reload().unwrap().is_none());
}
