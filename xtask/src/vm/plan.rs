//! Which tests a guest runs.
//!
//! `vm-tests` is about kernels: all of it. Of the tests in `tests/suite`, guests run those whose subject is what a kernel
//! does for pgusher, and one of each kind of what pgusher does for its clients; the rest would say the same on every
//! kernel, ten times slower.

use super::kernel::Kernel;

/// Tests of `tests/suite`, by the beginning of their names. None of them needs PostgreSQL 18 or a compiler.
const SUITE: [&str; 1] = ["intercept::"];

/// Returns what the guest's first process runs: a program and its arguments a line.
pub(super) fn text(kernel: &Kernel, filter: Option<&str>) -> String {
    // Lines of tests that run at the same time are written whole; one after the other is what one processor does anyway.
    const THREADS: &str = "--test-threads=2";
    match (filter, kernel.is_supported) {
        (Some(filter), _) => format!("kernel {THREADS} {filter}\nsuite {THREADS} {filter}\n"),
        (None, false) => format!("kernel {THREADS} too_old::\n"),
        (None, true) => format!(
            "kernel {THREADS} supported::\nsuite {THREADS} {}\n",
            SUITE.join(" ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_is_too_old_is_only_asked_whether_it_is_told_so() {
        let plan = |name, filter| text(Kernel::named(name).unwrap(), filter);
        assert_eq!(plan("5.10", None), "kernel --test-threads=2 too_old::\n");
        assert!(plan("6.1", None).starts_with("kernel --test-threads=2 supported::\nsuite "));
        assert_eq!(
            plan("6.1", Some("cancel")),
            "kernel --test-threads=2 cancel\nsuite --test-threads=2 cancel\n"
        );
    }
}
