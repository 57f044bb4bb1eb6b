//! Leave cannot be forged: each of these programs must be refused by the compiler.

#[test]
fn nothing_dials_without_leave() {
    trybuild::TestCases::new().compile_fail("tests/forbidden/*.rs");
}
