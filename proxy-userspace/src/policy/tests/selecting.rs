//! What is left out of an evaluation, policies and facts, changes no answer.

use std::sync::Arc;

use jiff::Zoned;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::super::*;
use super::{SERVER, policies, subject};
use crate::wire::negotiation::Encryption;

const PRINCIPALS: &[&str] = &[
    "principal",
    "principal is Process",
    "principal in User::\"app\"",
    "principal in User::\"other\"",
    "principal in Unit::\"a.service\"",
    "principal is Process in Group::\"dba\"",
    "principal == Process::\"described\"",
];
const ACTIONS: &[&str] = &[
    "action",
    "action == Action::\"connect\"",
    "action in [Action::\"connect\", Action::\"replicate\"]",
    "action == Action::\"cancel\"",
];
const RESOURCES: &[&str] = &[
    "resource",
    "resource is Database",
    "resource in ServerGroup::\"prod\"",
    "resource in ServerGroup::\"test\"",
    "resource in Server::\"192.0.2.7:5432\"",
    "resource == Server::\"192.0.2.7:5432\"",
    "resource == Database::\"192.0.2.7:5432/orders\"",
    "resource in Server::\"192.0.2.7:54321\"",
    "resource is Database in ServerGroup::\"prod\"",
];
/// Of every kind of thing that a condition can look at; one fails.
const CONDITIONS: &[&str] = &[
    "",
    "when { principal in [User::\"app\", User::\"b\"] || principal in Unit::\"b.service\" }",
    "unless { principal in Group::\"#27\" }",
    "when { principal.uid == 1000 && !principal.is_traced }",
    "when { principal has executable && principal.executable like \"/usr/*\" }",
    "when { principal.uid * 9223372036854775807 > 0 }",
    "when { principal.ancestors.isEmpty() }",
    "when { resource.port == 5432 }",
    "when { resource has address && resource.address.isInRange(ip(\"192.0.2.0/24\")) }",
    "when { resource in ServerGroup::\"prod\" }",
    "when { context.tls.encryption == \"tls\" }",
    "when { context.time.hour >= 0 && context.time.now > datetime(\"2020-01-01\") }",
    "when { context has grades.groups }",
    "when { context has startup.user && context.startup.user == \"app\" }",
    "when { context has startup && context.startup.parameters.contains(\"database=orders\") }",
    "when { context == context }",
];

fn policy() -> impl Strategy<Value = String> {
    let effects = select(&["permit", "forbid"][..]);
    let scope = (select(PRINCIPALS), select(ACTIONS), select(RESOURCES));
    let parts = (effects, scope, select(CONDITIONS));
    parts.prop_map(|(effect, (principal, action, resource), condition)| {
        format!("{effect} ({principal}, {action}, {resource}) {condition};\n")
    })
}

fn asked() -> impl Strategy<Value = Question> {
    let memberships = subsequence(
        vec![
            ("User", "app"),
            ("Unit", "a.service"),
            ("Unit", "b.service"),
            ("Group", "dba"),
            ("Group", "#27"),
            ("Slice", "nobody-asks.slice"),
        ],
        0..=6,
    );
    let server = select(&[SERVER, "192.0.2.7:54321", "198.51.100.1:5432"][..]);
    let encryption = select(&[Encryption::None, Encryption::Tls][..]);
    (memberships, server, encryption, 0..4).prop_map(|(memberships, server, encryption, what)| {
        let tls = TlsFacts {
            encryption,
            ..TlsFacts::default()
        };
        let subject: Arc<Subject> = subject(&memberships);
        let hidden = Question::opaque(subject, server.parse().unwrap(), tls);
        let startup = StartupFacts::new(
            Some("app".to_owned()),
            Some("orders".to_owned()),
            Vec::new(),
        );
        match what {
            0 => hidden,
            1 => hidden.cancelling(Some("orders".to_owned()), CancelFacts::default()),
            other => hidden.with_startup(startup, other == 2),
        }
    })
}

proptest! {
    #[test]
    fn what_no_policy_looks_at_and_policies_that_do_not_fit_change_no_answer(
        texts in prop::collection::vec(policy(), 0..6),
        questions in prop::collection::vec(asked(), 1..4),
    ) {
        let policies = policies(&texts.concat());
        let now = Zoned::now();
        for question in &questions {
            let verdict = policies.evaluate(question, &now);
            prop_assert_eq!(&verdict, &policies.evaluate_all(question, &now));
            let is_impossible = !policies.prospect(question).is_possible;
            let is_own_cancel = verdict.policies == [OWN_CANCEL];
            prop_assert!(!verdict.permits || is_own_cancel || !is_impossible);
        }
    }
}

/// More selections of policies than are kept.
#[test]
fn each_of_many_processes_falls_under_its_own_policies() {
    let one =
        |number| format!("permit (principal in Unit::\"{number}.service\", action, resource);\n");
    let all: String = (0..200).map(one).collect();
    let policies = policies(&all);
    for _ in 0..2 {
        for number in 0..201 {
            let unit = format!("{number}.service");
            let asked = super::question(&[("Unit", &unit)]);
            let verdict = policies.evaluate(&asked, &Zoned::now());
            let expected: &[String] = &[format!("test.cedar#{}", number + 1)];
            let expected = if number < 200 { expected } else { &[] };
            assert_eq!(verdict.policies, expected);
        }
    }
}
