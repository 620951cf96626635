//! Drives `bailiwick_fuzz::foreign`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bailiwick_fuzz::foreign::run(bytes));
