//! The packets ahead of a session.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| proxy_userspace::wire::probe::startup(data));
