use proptest::prelude::*;

use super::*;

/// The tokens but white space, each with a letter for its kind.
fn tokens(text: &str) -> String {
    let mut shown = Vec::new();
    for token in Tokens::of(text.as_bytes()) {
        let token = match token {
            Ok(token) => token,
            Err(doubt) => {
                shown.push(format!("{doubt:?}"));
                continue;
            }
        };
        let letter = match token.kind {
            Kind::Space => continue,
            Kind::Comment => 'c',
            Kind::Literal => 'l',
            Kind::Parameter(_) => 'p',
            Kind::Word => 'w',
            Kind::Quoted => 'q',
            Kind::Operator => 'o',
            Kind::Symbol => 's',
        };
        let text = String::from_utf8(token.text.to_vec()).unwrap();
        shown.push(format!("{letter}:{text}"));
    }
    shown.join(" ")
}

#[test]
fn strings_end_where_postgres_ends_them() {
    let cases = [
        ("'a''b'", "l:'a''b'"),
        (r"'a\' 'b'", r"l:'a\' l:'b'"),
        (r"E'a\'b' x", r"l:E'a\'b' w:x"),
        (r"e'a\\' x", r"l:e'a\\' w:x"),
        (r"e'a\\\'' x", r"l:e'a\\\'' w:x"),
        ("e'a\\\u{e9}' x", "l:e'a\\\u{e9}' w:x"),
        (r"xe'a\' 'b'", r"w:xe l:'a\' l:'b'"),
        (r"U&'d\0061' UESCAPE '!'", r"l:U&'d\0061' w:UESCAPE l:'!'"),
        (r#"u&"a'b""c" 'x'"#, r#"q:u&"a'b""c" l:'x'"#),
        ("u & 'x'", "w:u o:& l:'x'"),
        (
            "B'01''10' x'1f' N'n' X''",
            "l:B'01''10' l:x'1f' l:N'n' l:X''",
        ),
        ("'a'::text", "l:'a' s:: s:: w:text"),
        ("select'x'y", "w:select l:'x' w:y"),
        (r#""a'b" "a\" 'x'"#, r#"q:"a'b" q:"a\" l:'x'"#),
    ];
    for (text, expected) in cases {
        assert_eq!(tokens(text), expected, "{text}");
    }
}

#[test]
fn a_string_goes_on_behind_a_newline_by_the_rules_it_began_with() {
    let cases = [
        ("E'a'\n'b\\'c' x", "l:E'a'\n'b\\'c' w:x"),
        ("'a'\n'b\\' x", "l:'a'\n'b\\' w:x"),
        ("'a' -- c'd\n  'b'", "l:'a' -- c'd\n  'b'"),
        ("'a' \r -- c\n -- d\n 'b'", "l:'a' \r -- c\n -- d\n 'b'"),
        ("'a' 'b'", "l:'a' l:'b'"),
        ("'a' /* c */\n'b'", "l:'a' c:/* c */ l:'b'"),
        ("$$a$$\n'b'", "l:$$a$$ l:'b'"),
        ("'a'\nE'b'", "l:'a' l:E'b'"),
        ("'a'\n-- c", "l:'a' c:-- c"),
    ];
    for (text, expected) in cases {
        assert_eq!(tokens(text), expected, "{text}");
    }
}

#[test]
fn dollars_quote_or_number() {
    let cases = [
        ("$$a'b$$ x", "l:$$a'b$$ w:x"),
        ("$a$ $b$ $$ $a$ x", "l:$a$ $b$ $$ $a$ w:x"),
        ("$a$ $b$a$ x", "l:$a$ $b$a$ w:x"),
        ("$$a$b$$", "l:$$a$b$$"),
        ("$1 $23", "p:$1 p:$23"),
        ("$1$$a$$", "p:$1 l:$$a$$"),
        ("1$1", "l:1 p:$1"),
        ("a$b$c$b$", "w:a$b$c$b$"),
        ("a $\u{e9}$b$\u{e9}$", "w:a l:$\u{e9}$b$\u{e9}$"),
        ("$99999999999", "p:$99999999999"),
        ("$1a ;", "NumberWithoutEnd"),
        ("$a b", "Character"),
        ("$", "Unterminated"),
        ("$a", "Unterminated"),
        ("$1a", "Unterminated"),
        ("1e+", "Unterminated"),
        ("$a$ b $a", "Unterminated"),
    ];
    for (text, expected) in cases {
        assert_eq!(tokens(text), expected, "{text}");
    }
}

#[test]
fn numbers_are_whole_or_in_doubt() {
    let cases = [
        (
            "1 1.5 .5 1. 1.5e10 1e-3 1.E+5 .5e1",
            "l:1 l:1.5 l:.5 l:1. l:1.5e10 l:1e-3 l:1.E+5 l:.5e1",
        ),
        (
            "1_000 0x1F 0b1_0 0O17 0x_f 1_0.2_5e1_0",
            "l:1_000 l:0x1F l:0b1_0 l:0O17 l:0x_f l:1_0.2_5e1_0",
        ),
        ("-1", "o:- l:1"),
        ("1..10", "l:1 s:.. l:10"),
        ("1.5.25", "l:1.5 l:.25"),
        ("a.b.5", "w:a s:. w:b l:.5"),
        ("x[1:2]", "w:x s:[ l:1 s:: l:2 s:]"),
        ("t1", "w:t1"),
        ("12ab ;", "NumberWithoutEnd"),
        ("1e ;", "NumberWithoutEnd"),
        ("1e+ ;", "NumberWithoutEnd"),
        ("1_ ;", "NumberWithoutEnd"),
        ("1__0 ;", "NumberWithoutEnd"),
        ("0x ;", "NumberWithoutEnd"),
        ("0b2 ;", "NumberWithoutEnd"),
        ("1.5from ;", "NumberWithoutEnd"),
        ("1\u{e9} ;", "NumberWithoutEnd"),
    ];
    for (text, expected) in cases {
        assert_eq!(tokens(text), expected, "{text}");
    }
}

#[test]
fn comments_nest_and_cut_operators() {
    let cases = [
        ("/* a /* 'b' */ c */ 'd'", "c:/* a /* 'b' */ c */ l:'d'"),
        ("/**/ /*/**/*/ /***/ 1", "c:/**/ c:/*/**/*/ c:/***/ l:1"),
        ("1 --'x'\n'y'", "l:1 c:--'x' l:'y'"),
        ("1 --'x'\r'y'", "l:1 c:--'x' l:'y'"),
        ("1 @--'x'\n'y'", "l:1 o:@ c:--'x' l:'y'"),
        ("1 @/*'*/'y'", "l:1 o:@ c:/*'*/ l:'y'"),
        ("1+-- c", "l:1 o:+ c:-- c"),
        ("a=-1", "w:a o:= o:- l:1"),
        ("a@-1", "w:a o:@- l:1"),
        (
            "a @> b ? c #>> '{a}' ->> 'x' || `",
            "w:a o:@> w:b o:? w:c o:#>> l:'{a}' o:->> l:'x' o:|| o:`",
        ),
        ("*/ 1", "o:*/ l:1"),
        ("a=+-+1", "w:a o:= o:+ o:- o:+ l:1"),
        ("+-+--c", "o:+ o:- o:+ c:--c"),
        ("*<+@-+ 1", "o:*<+@-+ l:1"),
        ("=/**/=/**/+-/**/", "o:= c:/**/ o:= c:/**/ o:+ o:- c:/**/"),
        ("/* a /* b */ 'c'", "Unterminated"),
    ];
    for (text, expected) in cases {
        assert_eq!(tokens(text), expected, "{text}");
    }
}

#[test]
fn what_does_not_end_or_cannot_begin_is_a_doubt() {
    let cases = [
        ("select 'a", "w:select Unterminated"),
        ("E'a\\'", "Unterminated"),
        ("E'a\\", "Unterminated"),
        ("\"a", "Unterminated"),
        ("$$a", "Unterminated"),
        ("/*", "Unterminated"),
        ("U&'", "Unterminated"),
        ("'a'\n'b", "Unterminated"),
        ("{call f('x')}", "Character"),
        ("\\d t", "Character"),
        ("a \u{1} b", "w:a Character"),
        ("a \0 b", "w:a Character"),
    ];
    for (text, expected) in cases {
        assert_eq!(tokens(text), expected, "{text}");
    }
}

/// A scanner that looked at the rest of such a text for each token would take minutes.
#[test]
fn a_long_run_of_operators_is_passed_once() {
    const LENGTH: usize = 4 << 20;
    for piece in ["+", "+-", "=/**/", "*+", "-+ "] {
        let text = piece.repeat(LENGTH / piece.len());
        let tokens = Tokens::of(text.as_bytes());
        let scanned: usize = tokens
            .map(|token| token.map_or(0, |token| token.text.len()))
            .sum();
        assert_eq!(scanned, text.len(), "{piece}");
    }
}

proptest! {
    #[test]
    fn tokens_are_the_whole_text_in_order(text in proptest::collection::vec(any::<u8>(), 0..200)) {
        let found: Vec<_> = Tokens::of(&text).collect();
        let pieces: Vec<u8> = found.iter().flatten().flat_map(|token| token.text.to_vec()).collect();
        let is_whole = found.iter().all(Result::is_ok);
        prop_assert_eq!(is_whole, pieces == text);
        prop_assert!(text.starts_with(&pieces));
        prop_assert!(found.iter().rev().skip(1).all(Result::is_ok));
    }

    #[test]
    fn sql_like_junk_never_hangs_or_panics(text in "[-+=@/*'\"$aEeUu&x01._\\\\\n(), ]{0,60}") {
        let count = Tokens::of(text.as_bytes()).count();
        prop_assert!(count <= text.len());
    }
}
