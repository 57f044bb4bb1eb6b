//! Policies against questions: a table of decisions, and what is refused.

mod doubting;
mod enforcing;
mod selecting;

use std::sync::Arc;

use jiff::Zoned;

use super::interest::Interest;
use super::subject::{Description, Membership};
use super::*;
use crate::config::{AuditLevel, ServerGroups, TlsMode};

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
    let server = SERVER.parse().unwrap();
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
        "permit (principal, action, resource) when { resource has address && resource.address.isInRange(ip(\"192.0.2.0/24\")) && resource.port == 5432 };",
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

/// Has Cedar itself read what it would be asked, against the schema.
fn fits_the_schema(question: &Question) {
    use cedar_policy::{Context, Entities, Request, Schema};
    let (schema, _) = Schema::from_cedarschema_str(SCHEMA).unwrap();
    let groups = ServerGroups::tests_group("prod", SERVER.parse().unwrap());
    let facts = document::Facts::of(question, &groups, &Zoned::now(), &Interest::Everything);
    let entities = Entities::from_json_value(facts.entities.clone(), Some(&schema)).unwrap();
    let action = facts.action.uid().unwrap();
    let context =
        Context::from_json_value(facts.context.clone(), Some((&schema, &action))).unwrap();
    let (principal, resource) = (
        facts.principal.uid().unwrap(),
        facts.resource.uid().unwrap(),
    );
    Request::new(principal, action, resource, context, Some(&schema)).unwrap();
    // And our own reading of it is the same, but for the actions that the schema adds.
    let ours = values::entities(&facts.entities).unwrap();
    for entity in ours.iter() {
        assert!(
            entities.get(&entity.uid()).unwrap().deep_eq(entity),
            "{entity:?}"
        );
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
    let identity = Arc::new(identity);
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
    assert!(subject.workload().is_same(subject.workload()));
    let cancelling = asked.clone().cancelling(None, CancelFacts::default());
    let hidden = Question::opaque(subject, asked.server.clone(), TlsFacts::default());
    for question in [
        asked,
        cancelling,
        hidden,
        question(&[("Unit", "a.service")]),
    ] {
        fits_the_schema(&question);
    }
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
            "@id(\"pgusher.own-cancel\") permit (principal, action, resource);",
            "its @id is taken",
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
