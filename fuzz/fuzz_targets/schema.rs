//! Drives `bailiwick_fuzz::schema`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bailiwick_fuzz::schema::run(bytes));
