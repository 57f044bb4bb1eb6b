//! A COPY IN that failed behind a Sync: whether what was sent behind that Sync is run shows only later.

use super::transcript::play;

/// A COPY with a Sync right behind it, and an INSERT sent without waiting; then the COPY fails, and one ReadyForQuery
/// comes.
const FAILED_COPY: [&str; 13] = [
    "> P \"\" copy t from stdin",
    "> B \"\" \"\"",
    "> E \"\"",
    "> S",
    "< 1",
    "< 2",
    "< G",
    "> P \"\" insert",
    "> B \"\" \"\"",
    "> E \"\"",
    "> S",
    "< E ERROR 57014 canceled",
    "< Z I",
];

const INSERTED: [&str; 4] = ["< 1", "< 2", "< C INSERT 0 1", "< Z I"];
const SECOND: [&str; 4] = ["> P \"\" second", "> B \"\" \"\"", "> E \"\"", "> S"];

fn told_behind(lines: &[&str]) -> Vec<String> {
    let told = play(&[&FAILED_COPY, lines].concat());
    let failed = "Execute <(copy t from stdin): Failed In(0>,0<) (ERROR 57014 canceled) @Idle";
    assert_eq!(told[2], failed);
    told[3..].to_vec()
}

fn insert(verdict: &str) -> [String; 3] {
    let (outcome, tag) = match verdict {
        "Completed" => ("Completed @Idle", "Completed [INSERT 0 1] @Idle"),
        "NotRun" => ("NotRun @Idle", "NotRun @Idle"),
        other => (other, other),
    };
    [
        format!("Parse =insert: {outcome}"),
        format!("Bind <(insert): {outcome}"),
        format!("Execute <(insert): {tag}"),
    ]
}

/// The server had read the Sync when it failed, so that it skips everything up to the next one.
#[test]
fn a_batch_behind_a_swallowed_sync_is_not_run() {
    let told = told_behind(&["> Q select 1", "< T", "< D", "< C SELECT 1", "< Z I"]);
    assert_eq!(told[..3], insert("NotRun"));
    assert_eq!(
        told[3..],
        ["Query select 1: Completed [SELECT 1] rows=1 @Idle"]
    );
}

/// It had not.
#[test]
fn a_batch_behind_an_answered_sync_is_run() {
    let mut lines = INSERTED.to_vec();
    lines.extend(["> Q select 1", "< C SELECT 1", "< Z I"]);
    let told = told_behind(&lines);
    assert_eq!(told[..3], insert("Completed"));
    assert_eq!(told[3..], ["Query select 1: Completed [SELECT 1] @Idle"]);
}

/// Two batches wait, and the answers fit either: the next answer, or the next message's, decides.
#[test]
fn answers_that_fit_two_batches_are_paired_when_more_come() {
    let mut lines = SECOND.to_vec();
    lines.extend(INSERTED);
    let skipped = [&lines[..], &["> Q select 1", "< C SELECT 1", "< Z I"]].concat();
    let told = told_behind(&skipped);
    assert_eq!(told[..3], insert("NotRun"));
    assert_eq!(told[5], "Execute <(second): Completed [INSERT 0 1] @Idle");
    assert_eq!(told[6..], ["Query select 1: Completed [SELECT 1] @Idle"]);
    let run = [&lines[..], &INSERTED].concat();
    let told = told_behind(&run);
    assert_eq!(told[..3], insert("Completed"));
    assert_eq!(told[5], "Execute <(second): Completed [INSERT 0 1] @Idle");
    assert_eq!(told.len(), 6);
}

/// Nobody knows whether it was: neither is claimed.
#[test]
fn a_batch_of_which_nothing_was_heard_is_unanswered_and_not_said_to_be_not_run() {
    for lines in [&[][..], &SECOND, &[&SECOND[..], &INSERTED].concat()] {
        let told = told_behind(lines);
        assert_eq!(told[..3], insert("Unanswered"), "{lines:?}");
        assert!(!told.join("\n").contains("Violation"), "{told:?}");
    }
}

#[test]
fn a_second_copy_may_fail_before_the_first_is_understood() {
    let mut lines = FAILED_COPY[..4].to_vec();
    lines.extend(SECOND);
    lines.extend(["< 1", "< 2", "< G", "< E ERROR 57014 canceled", "< Z I"]);
    lines.extend(["> Q select 1", "< C SELECT 1", "< Z I"]);
    let told = told_behind(&lines);
    assert_eq!(told[..3], insert("NotRun"));
    assert_eq!(
        told[5],
        "Execute <(copy t from stdin): Failed In(0>,0<) (ERROR 57014 canceled) @Idle"
    );
    assert_eq!(told[8], "Execute <(second): NotRun @Idle");
    assert_eq!(told[9..], ["Query select 1: Completed [SELECT 1] @Idle"]);
}

/// A client that waits for its answers has had them all in one reading only.
#[test]
fn a_doubt_that_lasts_ends_in_favour_of_the_client_that_waits() {
    let mut lines = Vec::new();
    for _ in 0..200 {
        lines.extend(["> Q select 1", "< E ERROR 22012 zero", "< Z I"]);
    }
    let told = told_behind(&lines);
    assert_eq!(told[..3], insert("Unanswered"));
    assert_eq!(told.len(), 3 + 200);
    let failed = "Query select 1: Failed (ERROR 22012 zero) @Idle";
    assert!(told[3..].iter().all(|line| line == failed), "{told:?}");
}

/// One that never waits is not followed for ever.
#[test]
fn a_client_that_keeps_the_doubt_alive_is_too_far_ahead() {
    let mut lines = SECOND.to_vec();
    for _ in 0..200 {
        lines.extend(SECOND);
        lines.extend(INSERTED);
    }
    let told = told_behind(&lines);
    assert_eq!(told.last().unwrap(), "Violation TooManyPending");
    assert!(told.len() < 300, "{}", told.len());
}
