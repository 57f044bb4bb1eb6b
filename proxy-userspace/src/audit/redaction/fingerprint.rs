//! A short name for what statements have in common that differ in their literals alone.
//!
//! SHA-256 over the tokens: words folded to lower case, no white space, no comments, every literal and every
//! parameter the same, signs of numbers gone where they cannot be operators, and inside brackets a list of literals
//! as one literal. Bracketed lists that are equal by then (the rows of VALUES) count once. A closing semicolon does
//! not count. It is no secret and no proof: statements may be made to collide in the lists they hold.

use sha2::{Digest as _, Sha256};

use super::lexer::{Kind, Token};
use crate::wire::text::hex;

/// How many bytes of the hash are kept: enough that no two statements of a database share one by chance.
const BYTES: usize = 16;
/// Brackets that are nested deeper are tokens like others.
const MAX_DEPTH: usize = 256;

/// A hash of a bracketed list.
type Group = [u8; 32];

/// What stood last in a list.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    Nothing,
    Literal,
    Group(Group),
    Operator,
    Other,
}

/// What is held back until it is known whether it counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    Nothing,
    Comma,
    /// A `+` or `-`, and whether a comma stands before it.
    Sign(u8, bool),
}

/// One level of brackets.
struct Level {
    hash: Sha256,
    last: Last,
    held: Held,
}

impl Level {
    fn new() -> Self {
        Self {
            hash: Sha256::new(),
            last: Last::Nothing,
            held: Held::Nothing,
        }
    }

    fn put(&mut self, kind: u8, text: &[u8]) {
        self.hash.update([kind]);
        self.hash.update(text.to_ascii_lowercase());
        // No token has a NUL in it.
        self.hash.update([0]);
    }

    /// Lets what was held back count.
    fn release(&mut self) {
        let (comma, sign) = match self.held {
            Held::Nothing => return,
            Held::Comma => (true, None),
            Held::Sign(sign, comma) => (comma, Some(sign)),
        };
        self.held = Held::Nothing;
        if comma {
            self.put(b',', b"");
        }
        if let Some(sign) = sign {
            self.put(b'o', &[sign]);
        }
    }

    fn other(&mut self, kind: u8, text: &[u8], last: Last) {
        self.release();
        self.put(kind, text);
        self.last = last;
    }

    fn operator(&mut self, text: &[u8]) {
        let is_leading = match self.held {
            Held::Comma => true,
            Held::Nothing => matches!(self.last, Last::Nothing | Last::Operator),
            Held::Sign(..) => false,
        };
        match text {
            [sign @ (b'+' | b'-')] if is_leading => {
                self.held = Held::Sign(*sign, self.held == Held::Comma);
            }
            _ => self.other(b'o', text, Last::Operator),
        }
    }

    fn comma(&mut self) {
        self.release();
        self.held = Held::Comma;
    }

    fn literal(&mut self, in_brackets: bool) {
        let comma = match self.held {
            Held::Nothing => false,
            Held::Comma => true,
            Held::Sign(_, comma) => comma,
        };
        // A sign that stands before a literal goes with it.
        self.held = if comma { Held::Comma } else { Held::Nothing };
        if comma && in_brackets && self.last == Last::Literal {
            self.held = Held::Nothing;
            return;
        }
        self.other(b'l', b"", Last::Literal);
    }

    fn group(&mut self, group: Group) {
        if self.held == Held::Comma && self.last == Last::Group(group) {
            self.held = Held::Nothing;
            return;
        }
        self.release();
        self.hash.update(b"(");
        self.hash.update(group);
        self.last = Last::Group(group);
    }

    fn finish(mut self, closing: &[u8]) -> Group {
        self.release();
        self.put(b')', closing);
        self.hash.finalize().into()
    }
}

/// Takes the tokens of one text.
pub(super) struct Fingerprint {
    outermost: Level,
    inner: Vec<Level>,
    /// Opening brackets beyond [`MAX_DEPTH`] that are not closed.
    too_deep: usize,
    /// Semicolons that count only if something follows.
    semicolons: usize,
}

impl Fingerprint {
    pub(super) fn new() -> Self {
        Self {
            outermost: Level::new(),
            inner: Vec::new(),
            too_deep: 0,
            semicolons: 0,
        }
    }

    pub(super) fn take(&mut self, token: Token<'_>) {
        match (token.kind, token.text) {
            (Kind::Space | Kind::Comment, _) => return,
            (Kind::Symbol, b";") => {
                self.semicolons += 1;
                return;
            }
            _ => {}
        }
        for _ in 0..std::mem::take(&mut self.semicolons) {
            self.level().other(b's', b";", Last::Nothing);
        }
        let in_brackets = !self.inner.is_empty();
        match (token.kind, token.text) {
            (Kind::Symbol, b"(" | b"[") => self.open(token.text),
            (Kind::Symbol, b")" | b"]") => self.close(token.text),
            (Kind::Symbol, b",") => self.level().comma(),
            (Kind::Literal | Kind::Parameter(_), _) => self.level().literal(in_brackets),
            (Kind::Operator, text) => self.level().operator(text),
            (Kind::Quoted, text) => {
                let level = self.level();
                level.release();
                level.hash.update(b"q");
                level.hash.update(text);
                level.hash.update([0]);
                level.last = Last::Other;
            }
            (_, text) => self.level().other(b'w', text, Last::Other),
        }
    }

    fn level(&mut self) -> &mut Level {
        self.inner.last_mut().unwrap_or(&mut self.outermost)
    }

    fn open(&mut self, bracket: &[u8]) {
        if self.inner.len() >= MAX_DEPTH {
            self.too_deep += 1;
            self.level().other(b's', bracket, Last::Nothing);
            return;
        }
        self.inner.push(Level::new());
    }

    fn close(&mut self, bracket: &[u8]) {
        if self.too_deep > 0 {
            self.too_deep -= 1;
            return self.level().other(b's', bracket, Last::Other);
        }
        match self.inner.pop() {
            Some(level) => {
                let group = level.finish(bracket);
                self.level().group(group);
            }
            None => self.level().other(b's', bracket, Last::Other),
        }
    }

    /// The fingerprint in hexadecimal digits.
    pub(super) fn finish(mut self) -> String {
        while let Some(level) = self.inner.pop() {
            let group = level.finish(b"");
            self.level().group(group);
        }
        let hash = self.outermost.finish(b"");
        hex(hash.get(..BYTES).unwrap_or(&hash))
    }
}

#[cfg(test)]
mod tests {
    use super::super::lexer::Tokens;
    use super::*;

    fn fingerprint(text: &str) -> String {
        let mut fingerprint = Fingerprint::new();
        for token in Tokens::of(text.as_bytes()) {
            fingerprint.take(token.unwrap());
        }
        fingerprint.finish()
    }

    #[test]
    fn statements_that_differ_in_literals_alone_share_it() {
        let groups: [&[&str]; 6] = [
            &[
                "select * from t where a = 1 and b='x'",
                "SELECT  *\nFROM t WHERE a=-2.5e3 AND b = E'y\\'' -- c",
                "select * /* c */ from t where a = $1 and b = $$z$$;",
            ],
            &[
                "select * from t where a in (1, 2, 3)",
                "select * from t where a in (4)",
                "select * from t where a in (-4, +5, $1)",
            ],
            &[
                "insert into t values (1, now(), 'a')",
                "insert into t values (1, now(), 'a'), (2, now(), 'b'), (3, now(), 'c')",
            ],
            &["select array[1,2,3]", "select array[1]"],
            &["select 1; select 2", "select 1; select 2 ;;"],
            &["", " ", ";", "-- nothing"],
        ];
        let mut all = Vec::new();
        for group in groups {
            let first = fingerprint(group[0]);
            assert_eq!(first.len(), 32);
            for text in group {
                assert_eq!(fingerprint(text), first, "{text}");
            }
            all.push(first);
        }
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count, "two groups share a fingerprint");
    }

    #[test]
    fn statements_that_differ_otherwise_do_not() {
        let pairs = [
            ("select a", "select b"),
            ("select a, 1", "select a, 1, 1"),
            ("select a - 1", "select a + 1"),
            ("select 1", "select -x"),
            ("select \"A\"", "select \"a\""),
            ("select a", "select \"a\""),
            ("select f(a)", "select f[a]"),
            ("select f(a, b)", "select f(b, a)"),
            ("select f(a, a)", "select f(a)"),
            ("values (1, a), (2, b)", "values (1, a)"),
            ("select (1)", "select ((1))"),
            ("select ab", "select a b"),
            ("select 1; drop table t", "select 1 drop table t"),
            ("select null", "select 1"),
        ];
        for (left, right) in pairs {
            assert_ne!(fingerprint(left), fingerprint(right), "{left} / {right}");
        }
    }

    #[test]
    fn brackets_nested_too_deep_or_not_matching_are_taken_as_they_are() {
        let deep = |depth: usize| format!("{}1{}", "(".repeat(depth), ")".repeat(depth));
        assert_ne!(
            fingerprint(&deep(MAX_DEPTH)),
            fingerprint(&deep(MAX_DEPTH + 1))
        );
        assert_ne!(
            fingerprint(&deep(MAX_DEPTH + 1)),
            fingerprint(&deep(MAX_DEPTH + 2))
        );
        assert_ne!(fingerprint("))("), fingerprint("("));
    }
}
