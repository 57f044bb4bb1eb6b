//! What a session costs while it lives.

use super::*;

/// What the task of a session may take, in bytes, for as long as the session lives.
const TASK_BYTES: usize = 6 * 1024;

fn future_bytes<A, B, C, F: Future>(_: impl Fn(A, B, C) -> F) -> usize {
    size_of::<F>()
}

#[test]
fn a_sessions_task_carries_nothing_along_that_only_its_beginning_needed() {
    let bytes = future_bytes(serve);
    assert!(bytes <= TASK_BYTES, "{bytes} bytes for each session");
}
