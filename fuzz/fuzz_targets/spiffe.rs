//! Drives `bailiwick_fuzz::spiffe`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bailiwick_fuzz::spiffe::run(bytes));
