use proptest::prelude::*;

use super::*;

fn shown(text: &[u8], is_cut: bool, redaction: Redaction) -> Shown<'_> {
    let text = SqlText {
        kept: text,
        is_cut,
        scanning: Scanning::Certain,
    };
    show(text, redaction)
}

fn normalised(text: &str) -> Option<Cow<'_, str>> {
    shown(text.as_bytes(), false, Redaction::LiteralsRemoved).text
}

#[test]
fn literals_become_parameters_and_the_rest_stays() {
    let cases = [
        ("select 1", "select $1"),
        (
            "select * from t where a = 'x' and b = $2 limit 5",
            "select * from t where a = $3 and b = $2 limit $4",
        ),
        ("select'x'y", "select $1 y"),
        (
            "select E'a\\'b', U&'\\0061' UESCAPE '!'",
            "select $1, $2 UESCAPE $3",
        ),
        ("select $$a$$ || $t$b$$c$t$", "select $1 || $2"),
        (
            "select 1 -- secret\n+ 2 /* secret */",
            "select $1  \n+ $2  ",
        ),
        ("select/* secret */a", "select a"),
        (
            "select \"a'b\", 'c'::text, -1.5e10",
            "select \"a'b\", $1::text, -$2",
        ),
        (
            "select a[1:2], b @> '{1}' ? 'k'",
            "select a[$1:$2], b @> $3 ? $4",
        ),
        ("select 'a'\n'b'", "select $1"),
        (
            "insert into t values (1,'a'), (2,'b');",
            "insert into t values ($1,$2), ($3,$4);",
        ),
        ("select 'x'1", "select $1 $2"),
        (
            "select true, null, current_date",
            "select true, null, current_date",
        ),
        ("sélect 'é' from tablé", "sélect $1 from tablé"),
    ];
    for (text, expected) in cases {
        assert_eq!(normalised(text).as_deref(), Some(expected), "{text}");
    }
}

#[test]
fn a_text_in_doubt_is_withheld() {
    for text in [
        "select 'secret",
        "select 12secret x",
        "{call f('secret')}",
        "select \\'secret'",
    ] {
        for redaction in [Redaction::LiteralsRemoved, Redaction::FingerprintOnly] {
            let shown = shown(text.as_bytes(), false, redaction);
            assert_eq!(shown, Shown::withheld(Withheld::NotScanned), "{text}");
        }
    }
}

#[test]
fn a_text_that_the_settings_do_not_let_be_scanned_is_withheld() {
    let cases = [
        (Scanning::UnsafeEncoding, "select 'é'", Withheld::Encoding),
        (Scanning::UnsafeEncoding, "select '\\'", Withheld::Encoding),
        (
            Scanning::EscapeStrings,
            "select '\\'",
            Withheld::EscapeStrings,
        ),
    ];
    for (scanning, text, withheld) in cases {
        let text = SqlText {
            kept: text.as_bytes(),
            is_cut: false,
            scanning,
        };
        for redaction in [Redaction::LiteralsRemoved, Redaction::FingerprintOnly] {
            assert_eq!(show(text, redaction), Shown::withheld(withheld));
        }
    }
}

#[test]
fn a_text_that_every_setting_reads_alike_is_shown() {
    for scanning in [Scanning::UnsafeEncoding, Scanning::EscapeStrings] {
        let text = SqlText {
            kept: b"select 'secret'",
            is_cut: false,
            scanning,
        };
        let shown = show(text, Redaction::LiteralsRemoved);
        assert_eq!(shown.text.as_deref(), Some("select $1"));
    }
}

#[test]
fn a_text_is_as_sent_unless_something_is_left_out() {
    let is_as_sent = |text: &'static [u8], redaction| shown(text, true, redaction).is_as_sent;
    assert!(is_as_sent(b"select 'a'", Redaction::Full));
    assert!(is_as_sent(b"select password", Redaction::Full));
    assert!(!is_as_sent(b"alter role a password 'x'", Redaction::Full));
    assert!(!is_as_sent(b"", Redaction::Full));
    assert!(!is_as_sent(b"select 'a'", Redaction::LiteralsRemoved));
}

#[test]
fn of_a_cut_text_only_whole_tokens_are_shown_and_there_is_no_fingerprint() {
    let cases = [
        ("select 'a', 'secr", "select $1, "),
        ("select 'a', 12", "select $1, "),
        ("select 'a', $t$ secr", "select $1, "),
        ("select 'a', E", "select $1, "),
        ("select 'a' /* secr", "select $1 "),
        ("select 'a' -- secr", "select $1 "),
        ("select 'a'\n", "select $1"),
    ];
    for (text, expected) in cases {
        let shown = shown(text.as_bytes(), true, Redaction::LiteralsRemoved);
        assert_eq!(shown.text.as_deref(), Some(expected), "{text}");
        assert_eq!(shown.fingerprint, None);
    }
}

#[test]
fn fingerprints_come_without_text() {
    let one = shown(b"select 1", false, Redaction::FingerprintOnly);
    let other = shown(b"SELECT 'secret'", false, Redaction::FingerprintOnly);
    assert_eq!(one, other);
    assert_eq!(one.text, None);
    assert_eq!(one.withheld, Some(Withheld::FingerprintOnly));
    assert!(one.fingerprint.is_some());
}

#[test]
fn a_full_text_cut_inside_a_character_stays_readable() {
    let text = "select 'é".as_bytes();
    let cut = text.get(..text.len() - 1).unwrap();
    let shown = shown(cut, true, Redaction::Full);
    assert_eq!(shown.text.as_deref(), Some("select '"));
    assert_eq!(readable(b"a\xff\xc3", true), "a\\xff\\xc3");
    assert_eq!(readable(b"a\xc3", false), "a\\xc3");
}

/// A literal with SECRET in it, and nothing of the alphabet around it.
fn literal() -> impl Strategy<Value = String> {
    let body = "[ a-z'\"$/*\\\\\n;-]{0,12}";
    prop_oneof![
        body.prop_map(|body: String| format!(
            "'{}'",
            format!("SECRET{body}SECRET").replace('\'', "''")
        )),
        body.prop_map(|body: String| {
            let escaped = body.replace('\\', "\\\\").replace('\'', "\\'");
            format!("E'SECRET{escaped}SECRET'")
        }),
        body.prop_map(|body: String| {
            format!(
                "U&'SECRET{}SECRET'",
                body.replace('\\', "").replace('\'', "''")
            )
        }),
        body.prop_map(|body: String| format!("$q1$SECRET{body}SECRET$q1$")),
        body.prop_map(|body: String| format!(
            "'SECRET'\n -- {}\n 'SECRET'",
            body.replace('\n', " ")
        )),
        Just("$$SECRET$$".to_owned()),
        Just("e'SECRET\\\\\\''\n'SECRET\\'SECRET'".to_owned()),
        "/[*]{1,3} SECRET ('|\"|[$][$])? [*]/",
        "-- SECRET ('|\"|[$][$])?\n",
    ]
}

/// What may stand around literals.
fn between() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(" ".to_owned()),
        Just(", ".to_owned()),
        Just(" \"a'b\" ".to_owned()),
        Just(" u&\"a'\"\"b\" ".to_owned()),
        Just(" @> ".to_owned()),
        Just("::text ".to_owned()),
        Just(" $1 ".to_owned()),
        Just(" 1.5e10 ".to_owned()),
        Just(" word$with$dollars ".to_owned()),
        Just(" - ".to_owned()),
        Just("(".to_owned()),
        Just("]".to_owned()),
        Just("/**/".to_owned()),
        Just(" é ".to_owned()),
    ]
}

proptest! {
    #[test]
    fn nothing_of_a_literal_or_a_comment_survives(
        pieces in proptest::collection::vec((between(), literal()), 1..12),
        cut in proptest::option::of(any::<proptest::sample::Index>()),
    ) {
        let text: String = pieces.iter().map(|(left, right)| format!("{left}{right} , ")).collect();
        let (kept, is_cut) = match cut {
            Some(cut) => (text.as_bytes().get(..=cut.index(text.len())).unwrap_or_default(), true),
            None => (text.as_bytes(), false),
        };
        let shown = shown(kept, is_cut, Redaction::LiteralsRemoved);
        prop_assert!(shown.text.is_some(), "withheld: {:?} {:?}", text, shown);
        let secret = "SECRET";
        let found = shown.text.unwrap_or_default();
        prop_assert!(!found.contains(secret) && !found.contains("SEC"), "{:?} gave {:?}", text, found);
    }

    #[test]
    fn any_bytes_are_shown_withheld_or_redacted_without_a_panic(
        text in proptest::collection::vec(any::<u8>(), 0..300),
        is_cut in any::<bool>(),
    ) {
        for redaction in [Redaction::Full, Redaction::LiteralsRemoved, Redaction::FingerprintOnly] {
            let shown = shown(&text, is_cut, redaction);
            prop_assert!(shown.text.is_some() || shown.withheld.is_some());
        }
    }

    #[test]
    fn literals_that_differ_leave_the_same_fingerprint(left in literal(), right in literal()) {
        prop_assume!(left.contains("'") && right.contains("'") || left.contains("$") && right.contains("$"));
        prop_assume!(!left.contains("/*") && !right.contains("/*") && !left.starts_with("--") && !right.starts_with("--"));
        let of = |literal: &str| {
            let text = format!("select a from t where b = {literal} and c in ({literal}, 1)");
            shown(text.as_bytes(), false, Redaction::FingerprintOnly).fingerprint
        };
        prop_assert_eq!(of(&left), of(&right));
    }
}

#[test]
fn an_error_is_told_unless_it_may_hold_a_password() {
    let sql = |kept| SqlText {
        kept,
        is_cut: false,
        scanning: Scanning::Certain,
    };
    let told: [&[u8]; 6] = [
        b"password authentication failed for user \"app\"",
        b"Non-superusers must provide a password",
        b"unrecognized role option \"password\"",
        b"syntax error at or near \"password\"",
        b"invalid input syntax for type integer: \"secret\"",
        b"could not open https://host/path",
    ];
    for message in told {
        assert!(!error_may_hold_secret(message, None));
        assert!(!error_may_hold_secret(message, Some(sql(b"select 'x'"))));
        let changed = sql(b"alter role a password 'x'");
        assert!(error_may_hold_secret(message, Some(changed)));
    }
    let hidden: [&[u8]; 5] = [
        b"invalid connection option in \"host=h password=x\"",
        b"syntax error at or near \"password 'x'\"",
        b"cannot connect to postgres://u:x@h/d",
        b"cannot connect to postgres://u:x",
        b"unterminated quoted string at or near \"alter role a password '",
    ];
    for message in hidden {
        assert!(error_may_hold_secret(message, None));
        assert!(error_may_hold_secret(message, Some(sql(b"select 'x'"))));
    }
    // Of an encoding that is not scanned the text stays, and so does what quotes it.
    let doubtful = SqlText {
        scanning: Scanning::UnsafeEncoding,
        ..sql("alter röle a password 'x'".as_bytes())
    };
    assert!(!error_may_hold_secret(told[3], Some(doubtful)));
}
