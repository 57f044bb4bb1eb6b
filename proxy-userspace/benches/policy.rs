//! What one question costs, by the number of policies: once for each connection, and never for what it carries.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot run should stop"
)]

use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;

use jiff::Zoned;
use proxy_userspace::policy::{
    Description, Policies, Question, Source, StartupFacts, Subject, TlsFacts,
};

fn main() {
    divan::main();
}

/// One policy that permits, and so many about others.
fn policies(others: usize) -> Policies {
    let mut text = String::from("permit (principal in Unit::\"app.service\", action, resource);\n");
    for number in 0..others {
        writeln!(
            text,
            "permit (principal in Unit::\"unit-{number}.service\", action == Action::\"connect\", resource) \
             when {{ context has startup && context.startup has user && context.startup.user == \"user-{number}\" }};"
        )
        .unwrap();
    }
    Policies::check(&[Source::new("bench.cedar", text)], Arc::default()).unwrap()
}

fn question() -> Question {
    let described = Description {
        user: Some("app".to_owned()),
        uid: Some(1000),
        groups: vec!["app".to_owned(), "db".to_owned()],
        unit: Some("app.service".to_owned()),
        slice: Some("system.slice".to_owned()),
        executable: Some("/usr/bin/app".to_owned()),
        ..Description::default()
    };
    let startup = StartupFacts::new(
        Some("app".to_owned()),
        Some("orders".to_owned()),
        Vec::new(),
    );
    let subject = Arc::new(Subject::described(&described));
    let server = "192.0.2.7:5432".parse().unwrap();
    Question::opaque(subject, server, TlsFacts::default()).with_startup(startup, false)
}

#[divan::bench(args = [0, 100, 1000])]
fn evaluate(bencher: divan::Bencher<'_, '_>, others: usize) {
    let (policies, question, now) = (policies(others), question(), Zoned::now());
    bencher.bench_local(|| policies.evaluate(black_box(&question), &now));
}

#[divan::bench(args = [0, 100, 1000])]
fn prospect(bencher: divan::Bencher<'_, '_>, others: usize) {
    let (policies, question) = (policies(others), question());
    bencher.bench_local(|| policies.prospect(black_box(&question)));
}
