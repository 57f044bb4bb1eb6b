use proptest::prelude::*;

use super::*;
use crate::audit::redaction::Scanning;

fn shown_as(text: &str, scanning: Scanning, is_cut: bool) -> String {
    let shown = without_passwords(SqlText {
        kept: text.as_bytes(),
        is_cut,
        scanning,
    });
    String::from_utf8(shown.into_owned()).unwrap()
}

fn check(cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        assert_eq!(
            shown_as(text, Scanning::Certain, false),
            *expected,
            "{text}"
        );
    }
}

#[test]
fn passwords_go_and_everything_else_stays() {
    check(&[
        (
            "alter role a PASSWORD 'x''y' login",
            "alter role a PASSWORD '[redacted]' login",
        ),
        (
            "create user a encrypted password /* c */\nE'x\\'y'; drop table t",
            "create user a encrypted password /* c */\n'[redacted]'; drop table t",
        ),
        (
            "create user mapping for a server s options (user 'u', password 'x')",
            "create user mapping for a server s options (user 'u', password '[redacted]')",
        ),
        (
            "create user mapping for a server s options (\"password\" 'x', sslkey 'k', SSLPassword 'y')",
            "create user mapping for a server s options (\"password\" '[redacted]', sslkey 'k', SSLPassword '[redacted]')",
        ),
        (
            "create subscription s connection 'host=h Password = x' publication p",
            "create subscription s connection '[redacted]' publication p",
        ),
        (
            "select dblink_connect('host=h oauth_client_secret=x')",
            "select dblink_connect('[redacted]')",
        ),
        (
            "select f(password => 'x', b := 'y'), g(password := 'x')",
            "select f(password => '[redacted]', b := 'y'), g(password := '[redacted]')",
        ),
        (
            "select 'host=h password=' || 'x' || 'y'; select 'z'",
            "select 'host=h password=' || '[redacted]' || '[redacted]'; select 'z'",
        ),
        (
            "select format('create role %I password %L', 'a', 'x'), 'y'",
            "select format('create role %I password %L', '[redacted]', '[redacted]'), 'y'",
        ),
        (
            "select f('alter role a password ''' || 'x' || ''''), concat('password=', 'y'), 'z'",
            "select f('alter role a password ''' || '[redacted]' || '[redacted]'), concat('password=', '[redacted]'), 'z'",
        ),
        (
            "update t set password = crypt('x', gen_salt('bf')) where name = 'y'",
            "update t set password = crypt('[redacted]', gen_salt('[redacted]')) where name = 'y'",
        ),
        (
            "update t set password = a.\"crypt\"('x'), b = 'y' where password = ('z') or c = 'y'",
            "update t set password = a.\"crypt\"('[redacted]'), b = 'y' where password = ('[redacted]') or c = 'y'",
        ),
        (
            "select 1 from t where password = 'x' and name = 'y'",
            "select 1 from t where password = '[redacted]' and name = 'y'",
        ),
    ]);
}

#[test]
fn a_text_that_only_speaks_of_passwords_stays() {
    for text in [
        "select password from t where a = 'x'",
        "select 'password', 'x'",
        "select 'forgot your password?', 'x'",
        "select passwords, 'x'",
        "alter role a password null",
        "update t set password = $1 where name = 'x'",
        "do $$ begin perform 'password'; end $$",
        "select 'x",
    ] {
        check(&[(text, text)]);
    }
}

#[test]
fn statements_within_strings_keep_no_password() {
    check(&[
        (
            "do $$ begin create role a login password 'x'; drop table t; end $$",
            "do $$ begin create role a login password '[redacted]'; drop table t; end $$",
        ),
        (
            "do $$ begin execute 'alter role a password ''x'''; drop table t; end $$",
            "do $$ begin execute '[redacted]'; drop table t; end $$",
        ),
        (
            "do $a$ begin execute $b$ alter role a password 'x' $b$; end $a$",
            "do $a$ begin execute $b$ alter role a password '[redacted]' $b$; end $a$",
        ),
        (
            "do $$ begin execute format('alter role a password %L', 'x'); perform 'y'; end $$",
            "do $$ begin execute format('alter role a password %L', '[redacted]'); perform 'y'; end $$",
        ),
        (
            "do $$ begin execute 'alter role a password ' || quote_literal('x'); perform 'y'; end $$",
            "do $$ begin execute 'alter role a password ' || quote_literal('[redacted]'); perform 'y'; end $$",
        ),
        (
            "do $$ begin execute 'alter role a password E''x'''; execute 'x (\"password\" ''x'')'; end $$",
            "do $$ begin execute '[redacted]'; execute '[redacted]'; end $$",
        ),
        (
            "do $$ declare password text; begin password:=v;execute'drop table t'; end $$",
            "do $$ declare password text; begin password:=v;execute'drop table t'; end $$",
        ),
        (
            "do $$ import x\nx.connect(host=\"h\", password=\"x\") $$",
            "do $$ import x\nx.connect(host=\"h\", password='[redacted]') $$",
        ),
        (
            "do E'begin create role a password \\'x\\'; end'",
            "do '[redacted]'",
        ),
    ]);
}

#[test]
fn a_connection_string_in_dollars_goes_whole() {
    for password in [
        "x-y",
        "!Secret1",
        "2024#Winter",
        "12xy",
        "abc--def",
        "'x y'",
        "Pa(ss",
        "%s1",
    ] {
        let text = format!("select dblink_connect($$host=h password={password} port=1$$), 'y'");
        check(&[(&text, "select dblink_connect('[redacted]'), 'y'")]);
    }
}

#[test]
fn a_uri_hides_nothing_that_stands_beside_it() {
    for text in [
        "select $$://:$$;truncate\"t\";select@1",
        "do $d$ begin perform $$://:$$;truncate\"t\";perform@1; end $d$",
        "select '://:';truncate\"t\";select@1",
        "select \"://:\";drop\u{b}table\u{b}t;select@1",
    ] {
        check(&[(text, text)]);
        let shown = shown_as(&format!("{text} -- é"), Scanning::UnsafeEncoding, false);
        assert_eq!(shown, format!("{text} -- é"));
    }
}

#[test]
fn values_look_like_places_of_format_and_are_none() {
    check(&[
        (
            "create subscription s connection 'host=h password=%Secret1' publication p",
            "create subscription s connection '[redacted]' publication p",
        ),
        (
            "do $$ begin execute 'alter role a password ''%Secret1'''; end $$",
            "do $$ begin execute '[redacted]'; end $$",
        ),
        (
            "select format('alter role a password %1$L valid until %2$L', 'x', 'y')",
            "select format('alter role a password %1$L valid until %2$L', '[redacted]', '[redacted]')",
        ),
    ]);
}

/// Whoever wants to hide a program would begin it so.
#[test]
fn what_no_scanner_understands_hides_a_line_at_most() {
    check(&[
        (
            "do $$ import os\nos.f('it''s')\n# don't\npassword='x'\nos.g() $$",
            "do $$ import os\nos.f('it''s')\n# don't\n[redacted]\nos.g() $$",
        ),
        (
            "select 1a; drop table t --password=",
            "select 1a; drop table t --password=",
        ),
        ("select {fn f('password=x')}", "select {fn f('[redacted]')}"),
    ]);
}

#[test]
fn strings_that_stand_too_deep_in_one_another_go_whole() {
    let mut text = "alter role a password 'x'".to_owned();
    for depth in 0..=MAX_DEPTH {
        text = format!("do ${depth}a${text}${depth}a$").replace("$0a$", "$a$");
    }
    for depth in (0..=MAX_DEPTH).rev() {
        text = text.replace(&format!("${depth}a$"), &format!("$t{depth}$"));
    }
    let shown = shown_as(&text, Scanning::Certain, false);
    assert!(
        shown.starts_with("do $t4$do $t3$") && shown.contains("[redacted]"),
        "{shown}"
    );
    assert!(!shown.contains("'x'"), "{shown}");
}

#[test]
fn of_a_uri_only_the_password_goes() {
    check(&[
        (
            "create subscription s connection 'postgresql://u:x@h/d' publication p",
            "create subscription s connection 'postgresql://u:[redacted]@h/d' publication p",
        ),
        (
            "select dblink($$postgres://:x@h$$), 'http://a:1/@b', 'a://b@c:1'",
            "select dblink($$postgres://:[redacted]@h$$), 'http://a:1/@b', 'a://b@c:1'",
        ),
        (
            "select dblink($$postgres://u@h/d?password=x$$), 'y'",
            "select dblink('[redacted]'), 'y'",
        ),
        (
            "select 'a://b:c@d a://b:e@f' -- a://b:g@h",
            "select 'a://b:[redacted]@d a://b:[redacted]@f' -- a://b:[redacted]@h",
        ),
        (
            "select 'a://b:c$d\"e@f', $$a://b:c$$, 'd@e'",
            "select 'a://b:[redacted]@f', $$a://b:c$$, 'd@e'",
        ),
    ]);
    let text = "select 'é\\', 'a://b:c@d'";
    let expected = "select 'é\\', 'a://b:[redacted]@d'";
    assert_eq!(shown_as(text, Scanning::UnsafeEncoding, false), expected);
}

#[test]
fn of_a_text_that_ends_too_early_nothing_is_left_of_a_password() {
    let cases = [
        (
            "alter role a password 'secr",
            "alter role a password [redacted]",
        ),
        ("select dblink('password=secr", "select dblink([redacted]"),
        (
            "do $$ begin\nalter role a password 'x",
            "do $$ begin\n[redacted]",
        ),
        ("select password, 'x", "select password, 'x"),
    ];
    for (text, expected) in cases {
        for is_cut in [true, false] {
            assert_eq!(
                shown_as(text, Scanning::Certain, is_cut),
                expected,
                "{text}"
            );
        }
    }
    let uri = "select 'a://b:secr";
    assert_eq!(
        shown_as(uri, Scanning::Certain, true),
        "select 'a://b:[redacted]"
    );
    assert_eq!(shown_as(uri, Scanning::Certain, false), uri);
}

#[test]
fn a_text_that_cannot_be_scanned_stays_as_it_is() {
    for (text, scanning) in [
        ("alter role é password 'x'", Scanning::UnsafeEncoding),
        ("alter role a password 'x\\'", Scanning::EscapeStrings),
    ] {
        assert_eq!(shown_as(text, scanning, false), text);
    }
}

#[test]
fn a_text_that_every_setting_reads_alike_is_scanned() {
    for scanning in [Scanning::UnsafeEncoding, Scanning::EscapeStrings] {
        let shown = shown_as("alter role a password 'x'", scanning, false);
        assert_eq!(shown, "alter role a password '[redacted]'");
    }
}

/// What may stand before a statement, whole tokens all of them.
fn before() -> impl Strategy<Value = String> {
    let pieces = [
        "'a''b'",
        "$$b$$",
        "$x$'$x$",
        "\"c'd\"",
        "-- e'\n",
        "/* f' */",
        "1",
        "=",
        "||",
        ":=",
        "(",
        "password",
        "E'\\''",
        "'password'",
        "'a://b'",
        "é",
    ];
    proptest::collection::vec(proptest::sample::select(pieces.to_vec()), 0..6)
        .prop_map(|pieces| pieces.join(" "))
}

proptest! {
    #[test]
    fn no_password_survives_whatever_stands_around_it(
        before in before(),
        secret in "[a-zA-Z0-9 =|;:@/-]{0,12}",
        form in proptest::sample::select(vec![
            "alter role a password '{}'",
            "alter role a password $_${}$_$",
            "do $q$ begin {before}; alter role a password '{}'; end $q$",
            "do $q$ begin execute 'alter role a password ''{}'''; end $q$",
            "select dblink('user=a password={}')",
            "select dblink($_$sslcert=b user=a password='{}'$_$)",
            "do $q$ begin execute format('alter role %I password %L', 'a', '{}'); end $q$",
            "select dblink('postgres://a:{}@b')",
        ]),
    ) {
        let is_uri = form.contains("://");
        let secret = secret.chars().filter(|next| !is_uri || next.is_ascii_alphanumeric());
        let secret: String = secret.collect();
        let form = form.replace("{before}", &before);
        let form = form.replace("{}", &format!("SECRET{secret}SECRET"));
        let text = format!("select {before}; {form}; drop table t");
        let shown = shown_as(&text, Scanning::Certain, false);
        prop_assert!(!shown.contains("SECRET"), "{text}: {shown}");
        prop_assert!(shown.ends_with("; drop table t"), "{text}: {shown}");
    }
}
