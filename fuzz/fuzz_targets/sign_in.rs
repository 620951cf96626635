//! Drives `bailiwick_fuzz::sign_in`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bailiwick_fuzz::sign_in::run(bytes));
