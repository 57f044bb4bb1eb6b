//! Which tests a guest runs.
//!
//! `vm-tests` is about kernels: all of it. Of the tests in `tests/suite`, guests run those whose subject is what a kernel
//! does for pgusher, and one of each kind of what pgusher does for its clients: a test takes ten times as long as on this
//! machine. `--filter` reaches all the others.

use super::kernel::Kernel;

/// Tests of `tests/suite`, by the beginning of their names. None of them needs PostgreSQL 18 or a compiler.
const SUITE: [&str; 22] = [
    "auth::a_client_certificate_authenticates",
    "clients::libpq_pipelines_cancels",
    "down::closed::a_killed_pgusher_is",
    "down::closed::detach_opens_the_way",
    "down::hung::closed_refuses",
    "down::open::it_is_the_default",
    "fences::every_thread",
    "identity::a_process_that_has_exited",
    "identity::a_program_that_replaces",
    "identity::credentials::root_of_a_user_namespace",
    "intercept::a_connect_through_io_uring",
    "intercept::a_deferred_fast_open_connect",
    "intercept::a_multipath_tcp_connect",
    "intercept::a_socket_bound_to_a_device",
    "intercept::its_own_connections",
    "lifecycle::sigterm_detaches_first",
    "namespaces::first_need::the_first_connect",
    "namespaces::the_server_sees",
    "observation::a_socket_is_observed",
    "policy::decisions::a_denied_client",
    "statements::simple::a_query_is_one_record",
    "takeover::a_session_goes_on",
];

/// What a guest runs.
pub(super) struct Plan {
    /// For its first process: a program and its arguments a line.
    pub(super) text: String,
    /// Beginnings of names: each is to be that of a test. What nobody runs any more is not to go unnoticed.
    pub(super) expected: &'static [&'static str],
}

impl Plan {
    /// What a guest with this kernel runs: with a filter all tests whose names have one of its words.
    pub(super) fn of(kernel: &Kernel, filter: Option<&str>) -> Self {
        // Lines of tests that run at the same time are written whole; more at once would only wait for each other.
        const THREADS: &str = "--test-threads=2";
        match (filter, kernel.is_supported) {
            (Some(filter), _) => Self {
                text: format!("kernel {THREADS} {filter}\nsuite {THREADS} {filter}\n"),
                expected: &[],
            },
            (None, false) => Self {
                text: format!("kernel {THREADS} too_old::\n"),
                expected: &["too_old::"],
            },
            (None, true) => Self {
                text: format!(
                    "kernel {THREADS} supported::\nsuite {THREADS} {}\n",
                    SUITE.join(" ")
                ),
                expected: &SUITE,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_is_too_old_is_only_asked_whether_it_is_told_so() {
        let plan = |name, filter| Plan::of(Kernel::named(name).unwrap(), filter).text;
        assert_eq!(plan("5.10", None), "kernel --test-threads=2 too_old::\n");
        assert!(plan("6.1", None).starts_with("kernel --test-threads=2 supported::\nsuite "));
        assert_eq!(
            plan("6.1", Some("cancel")),
            "kernel --test-threads=2 cancel\nsuite --test-threads=2 cancel\n"
        );
    }
}
