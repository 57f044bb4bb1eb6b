//! The draft's text.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use cedar_policy::EntityId;

use super::principal::Principal;
use super::{Lesson, Sightings, Target, Wish};
use crate::policy::Action;

/// Writes the draft.
pub(super) fn write(lesson: &Lesson) -> String {
    let mut text = String::from(
        "// A draft that permits exactly what was seen. Comments say where it is wider than that. Read every line of it,\n\
         // then try it with policy_mode = \"observe\" before you enforce it. Encryption, application names and other\n\
         // parameters are not part of it: what was seen with TLS is permitted without.\n",
    );
    let left_out = [
        (lesson.failed, "that did not succeed"),
        (lesson.unknown, "whose process or destination is not known"),
        (
            lesson.foreign_cancels,
            "that cancel other workloads' queries and no policy permits; permit those by hand",
        ),
    ];
    for (count, what) in left_out {
        if count > 0 {
            line(&mut text, &format!("// Left out: {count} sessions {what}."));
        }
    }
    let mut number = 0;
    for (principal, wishes) in &lesson.seen {
        for ((action, server), targets) in by_server(wishes) {
            for group in groups(targets) {
                number += 1;
                let id = format!("learned-{number}");
                policy(&mut text, &id, principal, (action, server), &group);
            }
        }
    }
    text
}

fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

type Seen<'a> = Vec<(&'a Target, &'a Sightings)>;

fn by_server(wishes: &BTreeMap<Wish, Sightings>) -> BTreeMap<(Action, &str), Seen<'_>> {
    let mut servers: BTreeMap<_, Seen<'_>> = BTreeMap::new();
    for (wish, sightings) in wishes {
        let key = (wish.action, wish.server.as_str());
        servers
            .entry(key)
            .or_default()
            .push((&wish.target, sightings));
    }
    servers
}

/// Targets that one policy can permit without permitting more: databases that the very same users were seen on.
struct Group<'a> {
    databases: BTreeSet<&'a str>,
    users: BTreeSet<Option<&'a str>>,
    is_hidden: bool,
    sightings: Vec<&'a Sightings>,
}

fn groups(targets: Seen<'_>) -> Vec<Group<'_>> {
    let mut users: BTreeMap<(bool, Option<&str>), BTreeSet<Option<&str>>> = BTreeMap::new();
    let mut seen: BTreeMap<(bool, Option<&str>), Vec<&Sightings>> = BTreeMap::new();
    for (target, sightings) in targets {
        let (database, user) = match target {
            Target::Hidden => (None, None),
            Target::Server { user } => (None, user.as_deref()),
            Target::Database { name, user } => (Some(name.as_str()), user.as_deref()),
        };
        let key = (*target == Target::Hidden, database);
        users.entry(key).or_default().insert(user);
        seen.entry(key).or_default().push(sightings);
    }
    let mut groups: Vec<Group<'_>> = Vec::new();
    for (key, users) in users {
        let (is_hidden, database) = key;
        let sightings = seen.remove(&key).unwrap_or_default();
        let alike = groups.iter_mut().find(|group| {
            database.is_some() && !group.databases.is_empty() && group.users == users
        });
        match alike {
            Some(group) => {
                group.databases.extend(database);
                group.sightings.extend(sightings);
            }
            None => groups.push(Group {
                databases: database.into_iter().collect(),
                users,
                is_hidden,
                sightings,
            }),
        }
    }
    groups
}

fn policy(
    text: &mut String,
    id: &str,
    principal: &Principal,
    (action, server): (Action, &str),
    group: &Group<'_>,
) {
    comment(text, principal, group);
    let (principal, condition) = scope(principal);
    let mut conditions: Vec<String> = condition.into_iter().collect();
    let resource = match group.databases.iter().collect::<Vec<_>>().as_slice() {
        [] => format!("resource == Server::{}", quoted(server)),
        [database] => format!(
            "resource == Database::{}",
            quoted(&format!("{server}/{database}"))
        ),
        databases => {
            let names: Vec<_> = databases
                .iter()
                .map(|database| format!("Database::{}", quoted(&format!("{server}/{database}"))))
                .collect();
            conditions.push(format!("resource in [{}]", names.join(", ")));
            format!("resource in Server::{}", quoted(server))
        }
    };
    if group.is_hidden {
        conditions.push("!(context has startup)".to_owned());
    } else {
        conditions.push(users(&group.users));
    }
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "@id(\"{id}\")\npermit (\n  {principal},\n  action == Action::\"{}\",\n  {resource}\n)",
        action.name()
    );
    if !conditions.is_empty() {
        let _ = write!(text, "\nwhen {{\n  {}\n}}", conditions.join(" &&\n  "));
    }
    text.push_str(";\n");
}

fn comment(text: &mut String, principal: &Principal, group: &Group<'_>) {
    let sessions: u64 = group.sightings.iter().map(|seen| seen.sessions).sum();
    let first = group.sightings.iter().map(|seen| seen.first).min();
    let last = group.sightings.iter().map(|seen| seen.last).max();
    let programs: BTreeSet<_> = group
        .sightings
        .iter()
        .flat_map(|seen| &seen.programs)
        .map(|program| remark(program))
        .collect();
    let programs: Vec<_> = programs.into_iter().collect();
    let day = |time: Option<jiff::Timestamp>| {
        time.map(|time| time.strftime("%Y-%m-%d").to_string())
            .unwrap_or_default()
    };
    text.push('\n');
    line(
        text,
        &format!("// {sessions} sessions, {} to {}", day(first), day(last)),
    );
    let wider = match principal {
        Principal::Unit(_) => Some("any program of the unit"),
        Principal::Pod(_) => Some(
            "any program of the pod, whose name may change with the next roll-out (see Namespace)",
        ),
        Principal::Container(_) => {
            Some("any program of the container, whose id changes with the next one")
        }
        Principal::Program { .. } if group.sightings.iter().any(|seen| seen.is_script) => {
            Some("any script that the user runs with this interpreter")
        }
        Principal::Program { .. } => None,
        Principal::User(_) => {
            Some("any program of the user, because the program could not be attested")
        }
    };
    if let Some(wider) = wider {
        line(
            text,
            &format!("// wider than seen: {wider}; seen: {}", programs.join(", ")),
        );
    }
    if group.is_hidden {
        line(
            text,
            "// wider than seen: encryption hides users, databases and whether they got in, so this is for all of them",
        );
    }
}

fn scope(principal: &Principal) -> (String, Option<String>) {
    let of = |kind: &str, id: &str| format!("principal in {kind}::{}", quoted(id));
    match principal {
        Principal::Unit(unit) => (of("Unit", unit), None),
        Principal::Pod(pod) => (of("Pod", pod), None),
        Principal::Container(id) => (of("Container", id), None),
        Principal::Program { executable, user } => {
            (of("Executable", executable), Some(of("User", user)))
        }
        Principal::User(user) => (of("User", user), None),
    }
}

fn users(users: &BTreeSet<Option<&str>>) -> String {
    let names: Vec<_> = users.iter().flatten().map(|user| quoted(user)).collect();
    let is_named = match names.as_slice() {
        [] => None,
        [user] => Some(format!("context.startup.user == {user}")),
        users => Some(format!(
            "[{}].contains(context.startup.user)",
            users.join(", ")
        )),
    };
    let nameless = "!(context.startup has user)";
    let user = match (is_named, users.contains(&None)) {
        (Some(named), false) => format!("context.startup has user && {named}"),
        (Some(named), true) => format!("({nameless} || {named})"),
        (None, _) => nameless.to_owned(),
    };
    format!("context has startup && {user}")
}

/// A string literal.
fn quoted(text: &str) -> String {
    format!("\"{}\"", EntityId::new(text).escaped())
}

/// A text that stays within its comment.
fn remark(text: &str) -> String {
    text.escape_debug().to_string()
}
