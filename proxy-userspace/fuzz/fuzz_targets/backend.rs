//! What a server answers.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| proxy_userspace::wire::probe::backend(data));
