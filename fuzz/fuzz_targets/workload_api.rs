//! Drives `bailiwick_fuzz::workload_api`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bailiwick_fuzz::workload_api::run(bytes));
