//! Drives `bailiwick_fuzz::der`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bailiwick_fuzz::der::run(bytes));
