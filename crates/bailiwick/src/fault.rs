//! Fault points: named places where a test build stops the process, to show what a crash there leaves behind.

/// Stops the process here if a debug build's environment says `BAILIWICK_FAULT=<name>`. A release build has no such places.
#[inline]
pub fn point(name: &str) {
    #[cfg(debug_assertions)]
    {
        use std::sync::OnceLock;
        static CHOSEN: OnceLock<Option<String>> = OnceLock::new();
        let chosen = CHOSEN.get_or_init(|| std::env::var("BAILIWICK_FAULT").ok());
        if chosen.as_deref() == Some(name) {
            std::process::abort();
        }
    }
    #[cfg(not(debug_assertions))]
    let _ = name;
}
