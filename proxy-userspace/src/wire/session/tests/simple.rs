//! Query and FunctionCall, and what comes unasked.

use super::transcript::play;

#[test]
fn several_statements_in_one_query_are_one_event_with_their_tags_in_order() {
    let told = play(&[
        "> Q begin; select 1; commit",
        "< C BEGIN",
        "< T",
        "< D",
        "< D",
        "< C SELECT 2",
        "< C COMMIT",
        "< Z I",
    ]);
    assert_eq!(
        told,
        ["Query begin; select 1; commit: Completed [BEGIN, SELECT 2, COMMIT] rows=2 @Idle"]
    );
}

#[test]
fn an_empty_query_is_empty() {
    assert_eq!(
        play(&["> Q", "< I", "< Z T"]),
        ["Query : Empty @InTransaction"]
    );
}

#[test]
fn an_error_in_a_simple_query_does_not_start_skipping() {
    let told = play(&[
        "> Q select 1; select 1/0",
        "> Q select 2",
        "> P s select 3",
        "> S",
        "< T",
        "< D",
        "< C SELECT 1",
        "< E ERROR 22012 division by zero",
        "< Z I",
        "< T",
        "< C SELECT 0",
        "< Z I",
        "< 1",
        "< Z I",
    ]);
    assert_eq!(
        told,
        [
            "Query select 1; select 1/0: Failed [SELECT 1] rows=1 (ERROR 22012 division by zero) @Idle",
            "Query select 2: Completed [SELECT 0] @Idle",
            "Parse s=select 3: Completed @Idle",
        ]
    );
}

#[test]
fn bytes_behind_the_text_are_said_and_never_become_the_text() {
    let told = play(&[
        "> Q select 1\0drop table t",
        "< E ERROR 08P01 invalid message format",
        "< Z I",
        "> Q select 2",
        "< C SELECT 1",
        "< Z I",
    ]);
    assert_eq!(
        told,
        [
            "Query select 1 (malformed): Failed (ERROR 08P01 invalid message format) @Idle",
            "Query select 2: Completed [SELECT 1] @Idle",
        ]
    );
}

#[test]
fn a_function_call_ends_with_its_result_or_an_error_and_does_not_start_skipping() {
    let told = play(&[
        "> F 952",
        "> F 953",
        "> Q select 1",
        "< V",
        "< Z T",
        "< E ERROR 42883 no such function",
        "< Z E",
        "< E ERROR 25P02 aborted",
        "< Z E",
    ]);
    assert_eq!(
        told,
        [
            "Function 952: Completed @InTransaction",
            "Function 953: Failed (ERROR 42883 no such function) @Failed",
            "Query select 1: Failed (ERROR 25P02 aborted) @Failed",
        ]
    );
}

#[test]
fn notices_notifications_and_settings_come_at_any_moment() {
    let told = play(&[
        "< N NOTICE 00000 idle",
        "< A",
        "< S TimeZone UTC",
        "> Q set timezone to x; select 1",
        "< N WARNING 01000 careful",
        "< C SET",
        "< S TimeZone x",
        "< T",
        "< D",
        "< A",
        "< D",
        "< C SELECT 2",
        "< A",
        "< Z I",
    ]);
    assert_eq!(
        told,
        [
            "Setting b\"TimeZone\" b\"UTC\"",
            "Setting b\"TimeZone\" b\"x\"",
            "Query set timezone to x; select 1: Completed [SET, SELECT 2] rows=2 @Idle",
        ]
    );
}

#[test]
fn a_setting_does_not_overtake_what_was_finished_before_it() {
    let told = play(&[
        "> P \"\" set timezone to x",
        "> B \"\" \"\"",
        "> E \"\"",
        "> S",
        "< 1",
        "< 2",
        "< C SET",
        "< S TimeZone x",
        "< Z I",
    ]);
    assert_eq!(told.last().unwrap(), "Setting b\"TimeZone\" b\"x\"");
}

#[test]
fn a_fatal_error_in_an_idle_session_answers_nothing() {
    assert_eq!(
        play(&["< E FATAL 57P01 terminating"]),
        ["Unsolicited (FATAL 57P01 terminating)"]
    );
}

#[test]
fn a_fatal_error_ends_what_was_under_way_and_what_follows_has_no_answer() {
    let told = play(&[
        "> Q select pg_sleep(100)",
        "> Q select 2",
        "< T",
        "< E FATAL 57P01 terminating",
    ]);
    assert_eq!(
        told,
        [
            "Query select pg_sleep(100): Failed (FATAL 57P01 terminating)",
            "Query select 2: Unanswered",
        ]
    );
}

#[test]
fn what_has_no_answer_when_the_session_ends_is_unanswered_and_half_a_message_is_nothing() {
    let told = play(&["> Q select 1", "> X"]);
    assert_eq!(told, ["Query select 1: Unanswered"]);
    let told = play(&["> Q a; b", "< C SELECT 1"]);
    assert_eq!(told, ["Query a; b: Unanswered [SELECT 1]"]);
    let told = play(&["> Q a; b", "< C SELECT 1", "< E ERROR 22012 zero"]);
    assert_eq!(told, ["Query a; b: Failed [SELECT 1] (ERROR 22012 zero)"]);
}

#[test]
fn an_error_while_idle_may_or_may_not_be_followed_by_ready_for_query() {
    for ready in [&["< Z I"][..], &[]] {
        let mut lines = vec!["< E ERROR 40001 conflict"];
        lines.extend(ready);
        lines.extend(["> Q select 1", "< C SELECT 1", "< Z I"]);
        assert_eq!(
            play(&lines),
            [
                "Unsolicited (ERROR 40001 conflict)",
                "Query select 1: Completed [SELECT 1] @Idle",
            ]
        );
    }
}

#[test]
fn a_second_error_is_trouble_in_handling_the_first() {
    let told = play(&[
        "> Q select 1/0",
        "< E ERROR 22012 zero",
        "< E ERROR XX000 cleanup",
        "< Z I",
    ]);
    assert_eq!(told, ["Query select 1/0: Failed (ERROR 22012 zero) @Idle"]);
}
