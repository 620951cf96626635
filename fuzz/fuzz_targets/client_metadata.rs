//! Drives `bailiwick_fuzz::client_metadata`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bailiwick_fuzz::client_metadata::run(bytes));
