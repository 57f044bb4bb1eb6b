//! COPY in, out and both ways.

use super::transcript::play;

#[test]
fn copy_out_is_counted_and_several_copies_are_told_apart() {
    let told = play(&[
        "> Q copy a to stdout; copy b from stdin; copy c to stdout",
        "< H",
        "< d 100",
        "< N NOTICE 00000 in between",
        "< d 23",
        "< c",
        "< C COPY 2",
        "< G",
        "> d 7",
        "> d 8",
        "> c",
        "< C COPY 1",
        "< H",
        "< c",
        "< C COPY 0",
        "< Z I",
    ]);
    assert_eq!(
        told,
        [
            "Query copy a to stdout; copy b from stdin; copy c to stdout: Completed \
            [COPY 2, COPY 1, COPY 0] Out(0>,123<) In(15>,0<) Out(0>,0<) @Idle"
        ]
    );
}

#[test]
fn data_sent_ahead_of_the_answer_belongs_to_the_copy_it_was_sent_for() {
    let told = play(&[
        "> Q copy a from stdin; copy b from stdin",
        "> d 1",
        "> d 2",
        "> c",
        "> d 10",
        "> c",
        "> Q select 1",
        "< G",
        "< C COPY 1",
        "< G",
        "< C COPY 1",
        "< Z I",
        "< C SELECT 1",
        "< Z I",
    ]);
    assert_eq!(
        told,
        [
            "Query copy a from stdin; copy b from stdin: Completed [COPY 1, COPY 1] \
            In(3>,0<) In(10>,0<) @Idle",
            "Query select 1: Completed [SELECT 1] @Idle",
        ]
    );
}

/// What libpq does: Sync right behind Execute, and another behind CopyDone.
#[test]
fn a_sync_sent_right_behind_the_execute_of_a_copy_in_is_swallowed() {
    let told = play(&[
        "> P \"\" copy t from stdin",
        "> B \"\" \"\"",
        "> E \"\"",
        "> S",
        "< 1",
        "< 2",
        "< G",
        "> H",
        "> d 5",
        "> S",
        "> H with a body",
        "> c",
        "> S",
        "< C COPY 1",
        "< Z I",
        "> Q select 1",
        "< C SELECT 1",
        "< Z I",
    ]);
    assert_eq!(
        told[2..],
        [
            "Execute <(copy t from stdin): Completed [COPY 1] In(5>,0<) @Idle",
            "Query select 1: Completed [SELECT 1] @Idle",
        ]
    );
}

const EXTENDED_COPY: [&str; 7] = [
    "> P \"\" copy t from stdin",
    "> B \"\" \"\"",
    "> E \"\"",
    "> S",
    "< 1",
    "< 2",
    "< G",
];

#[test]
fn a_failed_copy_in_swallowed_its_first_sync_or_did_not() {
    for ready in [&["< Z I"][..], &["< Z I", "< Z I"]] {
        let mut lines = EXTENDED_COPY.to_vec();
        lines.extend(["> d 5", "< E ERROR 22P04 bad data", "> d 5", "> c", "> S"]);
        lines.extend(ready);
        lines.extend(["> Q select 1", "< C SELECT 1", "< Z I"]);
        assert_eq!(
            play(&lines)[2..],
            [
                "Execute <(copy t from stdin): Failed In(5>,0<) (ERROR 22P04 bad data) @Idle",
                "Query select 1: Completed [SELECT 1] @Idle",
            ]
        );
    }
}

/// Found by the property test: what the first failure left open was settled by the second.
#[test]
fn a_batch_that_fails_behind_a_failed_copy_in_is_skipped_as_any_other() {
    let mut lines = EXTENDED_COPY.to_vec();
    lines.extend(["< E ERROR 22P04 bad data", "> c", "> S", "< Z I"]);
    lines.extend([
        "> P \"\" bad",
        "> Q drop table t",
        "> S",
        "< E ERROR 42601 syntax",
        "< Z I",
    ]);
    let told = play(&lines);
    assert_eq!(told[4], "Query drop table t: NotRun @Idle");
}

#[test]
fn a_copy_in_that_failed_before_it_read_anything_answers_the_sync_behind_it() {
    // A statement trigger raised the error: the first Sync is answered, and the client goes on without another.
    let mut lines = EXTENDED_COPY.to_vec();
    lines.extend([
        "< E ERROR P0001 trigger",
        "< Z I",
        "> d 5",
        "> P \"\" insert",
        "> B \"\" \"\"",
        "> E \"\"",
        "> S",
        "< 1",
        "< 2",
        "< C INSERT 0 1",
        "< Z I",
    ]);
    let told = play(&lines);
    assert_eq!(told[5], "Execute <(insert): Completed [INSERT 0 1] @Idle");
}

#[test]
fn what_was_sent_behind_the_sync_of_such_a_copy_is_run() {
    let told = play(&[
        "> P \"\" copy t from stdin",
        "> B \"\" \"\"",
        "> E \"\"",
        "> S",
        "> P \"\" insert",
        "> B \"\" \"\"",
        "> E \"\"",
        "> S",
        "< 1",
        "< 2",
        "< G",
        "< E ERROR P0001 trigger",
        "< Z I",
        "< 1",
        "< 2",
        "< C INSERT 0 1",
        "< Z I",
    ]);
    assert_eq!(told[5], "Execute <(insert): Completed [INSERT 0 1] @Idle");
    assert_eq!(told.len(), 6);
}

#[test]
fn a_failed_copy_in_of_a_simple_query_ignores_what_the_client_still_sends() {
    let told = play(&[
        "> Q copy t from stdin",
        "< G",
        "> d 5",
        "< E ERROR 22P04 bad data",
        "< Z I",
        "> d 5",
        "> d 5",
        "> c",
        "> Q select 1",
        "> d 3",
        "> f",
        "> Q select 2",
        "< C SELECT 1",
        "< Z I",
        "< C SELECT 1",
        "< Z I",
    ]);
    assert_eq!(
        told,
        [
            "Query copy t from stdin: Failed In(5>,0<) (ERROR 22P04 bad data) @Idle",
            "Query select 1: Completed [SELECT 1] @Idle",
            "Query select 2: Completed [SELECT 1] @Idle",
        ]
    );
}

#[test]
fn copy_fail_ends_the_clients_side() {
    let told = play(&[
        "> Q copy t from stdin",
        "< G",
        "> d 5",
        "> f",
        "> Q select 1",
        "< E ERROR 57014 COPY from stdin failed",
        "< Z I",
        "< C SELECT 1",
        "< Z I",
    ]);
    assert_eq!(told[1], "Query select 1: Completed [SELECT 1] @Idle");
}

#[test]
fn a_query_during_copy_in_ends_the_session_and_is_not_run() {
    let told = play(&[
        "> Q copy t from stdin",
        "< G",
        "> d 5",
        "> Q select 1",
        "< E ERROR 08P01 unexpected message type 0x51 during COPY from stdin",
        "< E FATAL 08P01 terminating connection because protocol synchronization was lost",
    ]);
    assert_eq!(
        told,
        [
            "Query copy t from stdin: Failed In(5>,0<) \
            (ERROR 08P01 unexpected message type 0x51 during COPY from stdin)",
            "Query select 1: Unanswered",
        ]
    );
}

#[test]
fn copy_both_ends_when_both_sides_have_ended_it() {
    let told = play(&[
        "> Q START_REPLICATION 0/0",
        "< W",
        "< d 100",
        "> d 34",
        "< d 50",
        "> c",
        "< d 1",
        "< c",
        "< T",
        "< D",
        "< C START_STREAMING",
        "< C START_REPLICATION",
        "< Z I",
        "> Q IDENTIFY_SYSTEM",
        "< T",
        "< D",
        "< C IDENTIFY_SYSTEM",
        "< Z I",
    ]);
    assert_eq!(
        told,
        [
            "Query START_REPLICATION 0/0: Completed [START_STREAMING, START_REPLICATION] rows=1 \
            Both(34>,151<) @Idle",
            "Query IDENTIFY_SYSTEM: Completed [IDENTIFY_SYSTEM] rows=1 @Idle",
        ]
    );
}

#[test]
fn a_wal_sender_may_send_a_keepalive_behind_its_copy_done() {
    let told = play(&[
        "> Q START_REPLICATION SLOT s LOGICAL 0/0",
        "< W",
        "> d 34",
        "> c",
        "< c",
        "< d 18",
        "< C COPY 0",
        "< C START_REPLICATION",
        "< Z I",
    ]);
    assert_eq!(
        told,
        [
            "Query START_REPLICATION SLOT s LOGICAL 0/0: Completed [COPY 0, START_REPLICATION] \
            Both(34>,18<) @Idle"
        ]
    );
}

#[test]
fn copy_data_behind_the_end_of_a_copy_out_answers_nothing() {
    let told = play(&["> Q copy a to stdout", "< H", "< d 1", "< c", "< d 1"]);
    assert!(
        told.contains(&"Violation BackendOutOfTurn(100)".to_owned()),
        "{told:?}"
    );
}

#[test]
fn an_error_in_copy_both_leaves_the_session_as_after_any_query() {
    let told = play(&[
        "> Q START_REPLICATION SLOT s LOGICAL 0/0",
        "< W",
        "> d 34",
        "< E ERROR 58P01 no WAL",
        "< Z I",
        "> d 34",
        "> c",
        "> Q IDENTIFY_SYSTEM",
        "< C IDENTIFY_SYSTEM",
        "< Z I",
    ]);
    assert_eq!(
        told[1],
        "Query IDENTIFY_SYSTEM: Completed [IDENTIFY_SYSTEM] @Idle"
    );
}

#[test]
fn copy_data_outside_a_copy_is_ignored_as_the_server_does() {
    let told = play(&[
        "> d 5",
        "> c",
        "> f",
        "> Q select 1",
        "< C SELECT 1",
        "< Z I",
    ]);
    assert_eq!(told, ["Query select 1: Completed [SELECT 1] @Idle"]);
}
