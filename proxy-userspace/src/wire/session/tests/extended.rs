//! Extended-query batches: order, Sync, errors and skipping.

use std::sync::Arc;

use super::transcript::{CAPTURE, LOGIN, feed, play};
use crate::wire::session::{Event, Session, Subject};

#[test]
fn a_batch_has_an_event_for_each_message_and_the_status_of_its_sync() {
    let told = play(&[
        "> P s select $1",
        "> D S s",
        "> B p s a",
        "> D P p",
        "> E p 10",
        "> E p",
        "> C S s",
        "> H",
        "> S",
        "< 1",
        "< t",
        "< T",
        "< 2",
        "< n",
        "< D",
        "< s",
        "< D",
        "< C SELECT 2",
        "< 3",
        "< Z T",
    ]);
    assert_eq!(
        told,
        [
            "Parse s=select $1: Completed @InTransaction",
            "Describe statement s: Completed @InTransaction",
            "Bind p<s(select $1): Completed @InTransaction",
            "Describe portal p: Completed @InTransaction",
            "Execute p<s(select $1) max=10: Suspended rows=1 @InTransaction",
            "Execute p<s(select $1): Completed [SELECT 2] rows=1 @InTransaction",
            "Close statement s: Completed @InTransaction",
        ]
    );
}

#[test]
fn a_negative_row_limit_is_none_and_an_empty_text_is_empty() {
    let told = play(&[
        "> P \"\"",
        "> B \"\" \"\"",
        "> E \"\" -1",
        "> S",
        "< 1",
        "< 2",
        "< I",
        "< Z I",
    ]);
    assert_eq!(told[2], "Execute <(): Empty @Idle");
}

#[test]
fn every_sync_has_its_own_ready_for_query() {
    let told = play(&[
        "> P \"\" a",
        "> S",
        "> S",
        "> P \"\" b",
        "> S",
        "< 1",
        "< Z I",
        "< Z I",
        "< 1",
        "< Z T",
    ]);
    assert_eq!(
        told,
        [
            "Parse =a: Completed @Idle",
            "Parse =b: Completed @InTransaction"
        ]
    );
}

/// The whole batch as one client would send it: queries and function calls are skipped too.
#[test]
fn after_an_error_everything_up_to_sync_is_not_run_even_queries() {
    let told = play(&[
        "> P \"\" bad",
        "> B \"\" \"\"",
        "> E \"\"",
        "> Q drop table t",
        "> F 1",
        "> S",
        "> Q select 1",
        "< E ERROR 42601 syntax",
        "< Z I",
        "< C SELECT 1",
        "< Z I",
    ]);
    assert_eq!(
        told,
        [
            "Parse =bad: Failed (ERROR 42601 syntax) @Idle",
            "Bind <(bad): NotRun @Idle",
            "Execute <(bad): NotRun @Idle",
            "Query drop table t: NotRun @Idle",
            "Function 1: NotRun @Idle",
            "Query select 1: Completed [SELECT 1] @Idle",
        ]
    );
}

#[test]
fn what_is_sent_after_the_error_has_come_is_not_run_either() {
    let told = play(&[
        "> P \"\" bad",
        "> H",
        "< E ERROR 42601 syntax",
        "> Q drop table t",
        "> H",
        "> d 5",
        "> S",
        "< Z I",
        "> Q select 1",
        "< C SELECT 1",
        "< Z I",
    ]);
    assert_eq!(
        told,
        [
            "Parse =bad: Failed (ERROR 42601 syntax) @Idle",
            "Query drop table t: NotRun @Idle",
            "Query select 1: Completed [SELECT 1] @Idle",
        ]
    );
}

#[test]
fn skipping_ends_at_the_first_sync_only() {
    let told = play(&[
        "> P \"\" bad",
        "> S",
        "> P \"\" good",
        "> S",
        "< E ERROR 42601 syntax",
        "< Z I",
        "< 1",
        "< Z I",
    ]);
    assert_eq!(
        told,
        [
            "Parse =bad: Failed (ERROR 42601 syntax) @Idle",
            "Parse =good: Completed @Idle",
        ]
    );
}

#[test]
fn trouble_in_handling_an_error_is_no_answer_to_what_is_skipped() {
    let told = play(&[
        "> P \"\" bad",
        "> H",
        "< E ERROR 42601 syntax",
        "< E ERROR XX000 cleanup",
        "> P \"\" next",
        "> S",
        "< E ERROR XX000 cleanup",
        "< Z I",
    ]);
    assert_eq!(
        told,
        [
            "Parse =bad: Failed (ERROR 42601 syntax) @Idle",
            "Parse =next: NotRun @Idle",
        ]
    );
}

#[test]
fn a_commit_that_fails_at_sync_is_told_behind_the_statements_it_undoes() {
    let told = play(&[
        "> P \"\" insert",
        "> B \"\" \"\"",
        "> E \"\"",
        "> S",
        "> Q select 1",
        "< 1",
        "< 2",
        "< C INSERT 0 1",
        "< E ERROR 23503 deferred",
        "< Z I",
        "< C SELECT 1",
        "< Z I",
    ]);
    assert_eq!(
        told[2..],
        [
            "Execute <(insert): Completed [INSERT 0 1] @Idle",
            "Sync: Failed (ERROR 23503 deferred) @Idle",
            "Query select 1: Completed [SELECT 1] @Idle",
        ]
    );
}

#[test]
fn a_query_within_a_pipeline_has_its_own_ready_for_query() {
    let told = play(&[
        "> P s a",
        "> B \"\" s",
        "> E \"\"",
        "> Q b",
        "> E \"\"",
        "> S",
        "< 1",
        "< 2",
        "< C SELECT 1",
        "< C SELECT 1",
        "< Z I",
        "< E ERROR 34000 portal does not exist",
        "< Z I",
    ]);
    assert_eq!(
        told[2..],
        [
            "Execute <s(a): Completed [SELECT 1] @Idle",
            "Query b: Completed [SELECT 1] @Idle",
            "Execute <?(?): Failed (ERROR 34000 portal does not exist) @Idle",
        ]
    );
}

#[test]
fn a_flush_with_a_body_fails_like_any_extended_message() {
    let told = play(&[
        "> H x",
        "> P \"\" a",
        "> S",
        "> P \"\" b",
        "> S",
        "< E ERROR 08P01 invalid message format",
        "< Z I",
        "< 1",
        "< Z I",
    ]);
    assert_eq!(
        told,
        ["Parse =a: NotRun @Idle", "Parse =b: Completed @Idle"]
    );
}

#[test]
fn malformed_bodies_are_the_servers_to_refuse() {
    let told = play(&[
        "> P \"\" a\0b",
        "> S",
        "> D X s",
        "> S",
        "< E ERROR 08P01 invalid",
        "< Z I",
        "< E ERROR 08P01 invalid",
        "< Z I",
    ]);
    assert_eq!(
        told,
        [
            "Parse =a (malformed): Failed (ERROR 08P01 invalid) @Idle",
            "Describe portal  (malformed): Failed (ERROR 08P01 invalid) @Idle",
        ]
    );
}

#[test]
fn a_fatal_error_at_sync_undoes_the_batch() {
    let told = play(&["> P \"\" a", "> S", "< 1", "< E FATAL 57P01 bye"]);
    assert_eq!(
        told,
        ["Parse =a: Completed", "Sync: Failed (FATAL 57P01 bye)"]
    );
}

#[test]
fn executes_share_the_values_of_their_portal() {
    let mut session = Session::new(CAPTURE);
    let mut shared = Vec::new();
    let lines = ["> P \"\" a", "> B p \"\" 1,2", "> E p 1", "> E p 1", "> S"];
    let answers = ["< 1", "< 2", "< s", "< s", "< Z T"];
    for line in LOGIN.iter().chain(&lines).chain(&answers) {
        feed(&mut session, line, usize::MAX, &mut |event| {
            let Event::Finished(finished) = event else {
                return;
            };
            match finished.subject {
                Subject::Bind { parameters, .. } | Subject::Execute { parameters, .. } => {
                    shared.push(parameters);
                }
                _ => {}
            }
        });
    }
    assert_eq!(shared.len(), 3);
    assert_eq!(shared[0].count, 2);
    let values = shared.iter().map(|one| one.values.as_ref().unwrap());
    let values: Vec<&Arc<[_]>> = values.collect();
    assert!(values.iter().all(|one| Arc::ptr_eq(one, values[0])));
}
