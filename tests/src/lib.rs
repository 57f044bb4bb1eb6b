//! The stage on which the integration tests play: real servers, a cgroup of their own, a running pgusher.
//!
//! Nothing in here asserts about PostgreSQL or about pgusher beyond what every test has in common
//! ([`stage::Stage::play`] states it); the tests themselves are in `tests/suite/`, one module a subject.
//!
//! | module | owns |
//! |---|---|
//! | [`condition`] | waiting until something is true, with a deadline and the last state seen |
//! | [`process`] | running a program to its end, or keeping it while a test plays |
//! | [`cgroup`] | the cgroup that is intercepted, and starting programs inside it |
//! | [`authority`] | the certificate authority of pgusher under test |
//! | [`certificates`] | the certificate authority of the test servers |
//! | [`netns`] | network namespaces and what joins them |
//! | [`cluster`] | PostgreSQL 15 and 18, one cluster each for the whole run |
//! | [`programs`] | the client programs under `clients/`, compiled once |
//! | [`tours`] | what each driver does in its tour, and how it is told where to connect |
//! | [`statement_log`] | what the server itself logged of a session's statements |
//! | [`dialer`] | sockets connected inside the cgroup and handed to the test |
//! | [`wire`] | the few protocol messages the raw clients and fake servers speak |
//! | [`data_path`] | the ways bytes may take through pgusher, for tests that prove each of them |
//! | [`tracee`] | a thread of the process under test that makes system calls for a test |
//! | [`kernel`] | what is loaded and attached, read from the kernel |
//! | [`pgusher`] | the process under test, its status and its audit trail |
//! | [`transcript`] | conversations as text, compared with and without pgusher |
//! | [`stage`] | all of the above set up for one test, and what must hold when it ends |

pub mod authority;
pub mod bpf_fs;
pub mod certificates;
pub mod cgroup;
pub mod cluster;
pub mod condition;
pub mod data_path;
pub mod dialer;
pub mod kernel;
pub mod netns;
pub mod nonblocking;
pub mod pgusher;
pub mod process;
pub mod programs;
pub mod psql;
pub mod reader;
pub mod stage;
pub mod statement_log;
pub mod tours;
#[cfg(target_arch = "x86_64")]
pub mod tracee;
pub mod transcript;
pub mod wire;
