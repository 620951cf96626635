//! Drives `bailiwick_fuzz::openapi`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bailiwick_fuzz::openapi::run(bytes));
