//! What is not known, or cannot be: forbids that would be passed by, and names of nothing.

use std::sync::Arc;

use jiff::Zoned;

use super::{policies, question};

fn warnings(text: &str) -> Vec<String> {
    let policies = policies(text);
    policies
        .warnings()
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn a_forbid_that_anybody_can_evade_is_warned_about() {
    let text = "permit (principal, action, resource); forbid (principal in Executable::\"/usr/bin/psql\", action, resource);";
    let warnings = warnings(text);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}

#[test]
fn a_forbid_that_asks_for_what_nobody_could_establish_denies() {
    let forbids = |principal: &str, rest: &str| {
        format!("permit (principal, action, resource); @id(\"no\") forbid ({principal}, {rest});")
    };
    let connect = "action == Action::\"connect\", resource in ServerGroup::\"prod\"";
    let cases: [(&[&'static str], bool, String, bool); 11] = [
        (&["Unit"], false, forbids("principal in Unit::\"a\"", connect), false),
        (&["Slice"], false, forbids("principal in Unit::\"a\"", connect), true),
        (
            &["Unit"],
            false,
            "permit (principal, action, resource); forbid (principal, action, resource) when { principal in Unit::\"a\" };".to_owned(),
            false,
        ),
        // In one and not in the other.
        (
            &["Unit"],
            false,
            "permit (principal, action, resource); forbid (principal in Unit::\"a\", action, resource) unless { principal in Unit::\"b\" };".to_owned(),
            false,
        ),
        // It says nothing of what its other conditions leave out,
        (
            &["Unit"],
            false,
            forbids(
                "principal in Unit::\"a\"",
                "action, resource == Database::\"192.0.2.7:5432/payroll\"",
            ),
            true,
        ),
        (
            &["Unit"],
            false,
            "permit (principal, action, resource); forbid (principal, action, resource) when { principal in Unit::\"a\" && principal.uid == 0 };".to_owned(),
            true,
        ),
        // or of other servers and actions.
        (&["Unit"], false, forbids("principal in Unit::\"a\"", "action, resource in Server::\"192.0.2.8:5432\""), true),
        (&["Unit"], false, forbids("principal in Unit::\"a\"", "action == Action::\"cancel\", resource"), true),
        (&["User"], true, forbids("principal in User::\"a\"", connect), false),
        (&["User"], true, forbids("principal in User::\"#7\"", connect), true),
        (&[], false, forbids("principal in Unit::\"a\"", connect), true),
    ];
    for (kinds, of_names_only, text, expected) in cases {
        let mut asked = question(&[]);
        Arc::make_mut(&mut asked.subject).doubt(kinds, of_names_only);
        let verdict = policies(&text).evaluate(&asked, &Zoned::now());
        assert_eq!(verdict.permits, expected, "{kinds:?} {text}\n{verdict:?}");
        assert!(verdict.errors.is_empty(), "{verdict:?}");
        assert_eq!(verdict.in_doubt.is_none(), expected, "{verdict:?}");
    }
}

#[test]
fn a_server_group_that_nobody_made_is_warned_about() {
    let text = "forbid (principal, action, resource in ServerGroup::\"prodution\");\n\
        permit (principal, action, resource) when { resource in ServerGroup::\"prod\" };";
    let warnings = warnings(text);
    assert!(
        warnings.len() == 1 && warnings[0].contains("\"prodution\""),
        "{warnings:?}"
    );
}
