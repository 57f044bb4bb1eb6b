//! Integration tests of pgusher: a real kernel, real PostgreSQL servers, real clients.
//!
//! One program, so that the servers are started once. Run by `cargo xtask test`, as root; what is
//! missing on the machine makes a test fail and say what to install. Every test plays on a
//! [`pgusher_tests::stage::Stage`], whose end proves that connections were intercepted and that nothing remains.

mod expect;

mod auth;
mod bulk;
mod busy_poll;
mod channel_binding;
mod clients;
mod command_line;
mod deploy;
mod disconnect;
mod documents;
mod down;
mod exhaustion;
mod existing;
mod fast_path;
mod fences;
mod identity;
mod intercept;
mod lifecycle;
mod log_comparison;
mod namespaces;
mod observation;
mod policy;
mod scale;
mod sinks;
mod startup;
mod statements;
mod takeover;
mod tls;
mod tools;
mod torture;
mod tours;
mod transcripts;
mod unix_sockets;
mod upstream;
