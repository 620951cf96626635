//! Drives `bailiwick_fuzz::assertion`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bailiwick_fuzz::assertion::run(bytes));
