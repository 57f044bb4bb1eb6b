//! What a client sends behind its startup packet.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| proxy_userspace::wire::probe::frontend(data));
