//! Drives `bailiwick_fuzz::passkey`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bailiwick_fuzz::passkey::run(bytes));
