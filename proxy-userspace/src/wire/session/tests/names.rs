//! Which text an Execute ran.

use super::transcript::play;

/// Runs a portal of a statement; the Execute's line must begin so.
fn executes(lines: &[&str], expected: &str) {
    let told = play(lines);
    let executed: Vec<&String> = told
        .iter()
        .filter(|line| line.starts_with("Execute"))
        .collect();
    assert!(
        executed.last().unwrap().starts_with(expected),
        "{expected}: {told:#?}"
    );
}

#[test]
fn unnamed_statements_and_portals_are_replaced_in_silence() {
    executes(
        &[
            "> P \"\" a",
            "> B \"\" \"\"",
            "> P \"\" b",
            "> E \"\"",
            "> S",
            "< 1",
            "< 2",
            "< 1",
            "< C SELECT 1",
            "< Z I",
        ],
        "Execute <(a): Completed",
    );
    executes(
        &[
            "> P \"\" a",
            "> B \"\" \"\"",
            "> P \"\" b",
            "> B \"\" \"\"",
            "> E \"\"",
            "> S",
            "< 1",
            "< 2",
            "< 1",
            "< 2",
            "< C SELECT 1",
            "< Z I",
        ],
        "Execute <(b): Completed",
    );
}

#[test]
fn a_named_parse_that_fails_leaves_the_name_to_the_statement_it_had() {
    executes(
        &[
            "> P s a",
            "> S",
            "< 1",
            "< Z T",
            "> P s b",
            "> S",
            "< E ERROR 42P05 exists",
            "< Z I",
            "> B p s",
            "> E p",
            "> S",
            "< 2",
            "< C SELECT 1",
            "< Z I",
        ],
        "Execute p<s(a): Completed",
    );
}

#[test]
fn an_unnamed_parse_that_fails_leaves_no_statement() {
    executes(
        &[
            "> P \"\" a",
            "> S",
            "< 1",
            "< Z I",
            "> P \"\" b",
            "> S",
            "< E ERROR 42601 syntax",
            "< Z I",
            "> B \"\" \"\"",
            "> E \"\"",
            "> S",
            "< 2",
            "< C SELECT 1",
            "< Z I",
        ],
        "Execute <(?): Completed",
    );
}

#[test]
fn a_query_drops_the_unnamed_statement_unless_it_was_refused_or_skipped() {
    let rest = [
        "> B \"\" \"\"",
        "> E \"\"",
        "> S",
        "< 2",
        "< C SELECT 1",
        "< Z I",
    ];
    let parse = ["> P \"\" a", "> S", "< 1", "< Z I"];
    let run = ["> Q q", "< C SELECT 1", "< Z I"];
    executes(&[&parse[..], &run, &rest].concat(), "Execute <(?)");
    let refused = ["> Q q\0x", "< E ERROR 08P01 invalid", "< Z I"];
    executes(&[&parse[..], &refused, &rest].concat(), "Execute <(a)");
    let skipped = ["> C X", "> Q q", "> S", "< E ERROR 08P01 invalid", "< Z I"];
    executes(&[&parse[..], &skipped, &rest].concat(), "Execute <(a)");
}

#[test]
fn portals_end_with_their_transaction_and_not_with_a_sync_inside_it() {
    let bind = ["> P s a", "> B p s", "> S", "< 1", "< 2"];
    let run = ["> E p", "> S", "< C SELECT 1", "< Z I"];
    executes(&[&bind[..], &["< Z T"], &run].concat(), "Execute p<s(a)");
    executes(&[&bind[..], &["< Z I"], &run].concat(), "Execute p<?(?)");
}

#[test]
fn close_takes_the_name_away_only_when_it_is_confirmed() {
    let bind = ["> P s a", "> B p s", "> S", "< 1", "< 2", "< Z T"];
    let run = ["> E p", "> S", "< C SELECT 1", "< Z I"];
    let closed = ["> C P p", "> S", "< 3", "< Z T"];
    executes(&[&bind[..], &closed, &run].concat(), "Execute p<?(?)");
    let statement_closed = ["> C S s", "> S", "< 3", "< Z T"];
    executes(
        &[&bind[..], &statement_closed, &run].concat(),
        "Execute p<s(a)",
    );
    let skipped = ["> C X", "> C P p", "> S", "< E ERROR 08P01 x", "< Z T"];
    executes(&[&bind[..], &skipped, &run].concat(), "Execute p<s(a)");
}

#[test]
fn what_a_skipped_execute_meant_is_what_the_skipped_bind_would_have_made() {
    let told = play(&[
        "> P s old",
        "> B p s",
        "> S",
        "< 1",
        "< 2",
        "< Z T",
        "> C X",
        "> P s2 new",
        "> B p s2",
        "> E p",
        "> S",
        "< E ERROR 08P01 x",
        "< Z E",
    ]);
    assert_eq!(
        told[3..],
        [
            "Parse s2=new: NotRun @Failed",
            "Bind p<s2(new): NotRun @Failed",
            "Execute p<s2(new): NotRun @Failed",
        ]
    );
}

#[test]
fn tags_that_clear_statements_clear_them() {
    let run = ["> B p s", "> E p", "> S", "< 2", "< C SELECT 1", "< Z I"];
    let parse = ["> P s a", "> S", "< 1", "< Z I"];
    for (tag, expected) in [
        ("DEALLOCATE ALL", "Execute p<s(?)"),
        ("DISCARD ALL", "Execute p<s(?)"),
        ("DISCARD PLANS", "Execute p<s(a)"),
        ("DEALLOCATE", "Execute p<s(a)"),
        ("PREPARE", "Execute p<s(a)"),
    ] {
        let answer = format!("< C {tag}");
        let clear = ["> Q x", answer.as_str(), "< Z I"];
        executes(&[&parse[..], &clear, &run].concat(), expected);
    }
}

#[test]
fn a_text_is_not_named_for_a_name_that_sql_may_have_given_to_another() {
    executes(
        &[
            "> P s a",
            "> S",
            "< 1",
            "< Z I",
            "> Q deallocate s; prepare s as b",
            "< C DEALLOCATE",
            "< C PREPARE",
            "< Z I",
            "> B p s",
            "> E p",
            "> S",
            "< 2",
            "< C SELECT 1",
            "< Z I",
        ],
        "Execute p<s(?)",
    );
    executes(
        &[
            "> P s a",
            "> B p s",
            "> S",
            "< 1",
            "< 2",
            "< Z T",
            "> Q commit; begin; declare p cursor for b",
            "< C COMMIT",
            "< C BEGIN",
            "< C DECLARE CURSOR",
            "< Z T",
            "> E p",
            "> S",
            "< C SELECT 1",
            "< Z T",
        ],
        "Execute p<?(?)",
    );
}

#[test]
fn a_portal_outlives_a_rollback_to_a_savepoint() {
    executes(
        &[
            "> P s a",
            "> B p s",
            "> S",
            "< 1",
            "< 2",
            "< Z T",
            "> Q rollback to x",
            "< C ROLLBACK",
            "< Z T",
            "> E p",
            "> S",
            "< C SELECT 1",
            "< Z T",
        ],
        "Execute p<s(a)",
    );
}

#[test]
fn names_are_the_same_when_their_first_63_bytes_are() {
    let long = "n".repeat(70);
    let same = "n".repeat(63);
    let parse = format!("> P {long} a");
    let bind = format!("> B p {same}");
    executes(
        &[
            &parse,
            "> S",
            "< 1",
            "< Z I",
            &bind,
            "> E p",
            "> S",
            "< 2",
            "< C SELECT 1",
            "< Z I",
        ],
        &format!("Execute p<{same}(a)"),
    );
}
