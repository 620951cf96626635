//! Drives `bailiwick_fuzz::oauth_form`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bailiwick_fuzz::oauth_form::run(bytes));
