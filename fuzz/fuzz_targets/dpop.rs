//! Drives `bailiwick_fuzz::dpop`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bailiwick_fuzz::dpop::run(bytes));
