//! Stand-ins for clouds: real HTTP servers on this machine that check what the real ones check, and that can be told to fail.
//!
//! They are written from the clouds' documentation, not measured: what they show is that we send what is documented and survive what can go wrong on the way.

#[expect(clippy::indexing_slicing, reason = "a value of JSON gives null for what is not there")]
pub mod github;
pub mod jwt;
#[expect(clippy::indexing_slicing, reason = "a value of JSON gives null for what is not there")]
pub mod kubernetes;
#[expect(clippy::indexing_slicing, reason = "a value of JSON gives null for what is not there")]
pub mod oauth;
pub mod orders;
mod server;
#[expect(clippy::indexing_slicing, reason = "a value of JSON gives null for what is not there")]
pub mod sts;

pub use server::{Asked, Cloud, Fault, Service, Told};

/// Seconds since the epoch, by the machine.
#[must_use]
pub fn now() -> i64 {
    i64::try_from(now_millis() / 1000).unwrap_or(i64::MAX)
}

/// Milliseconds since the epoch, by the machine.
#[expect(clippy::disallowed_methods, reason = "a cloud has a clock of its own")]
#[must_use]
pub fn now_millis() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_millis())
}

/// Letters and digits that nobody can guess.
#[must_use]
pub fn random(length: usize) -> String {
    const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut bytes = vec![0; length];
    // Without randomness every token would be the same, and the first test would fail.
    aws_lc_rs::rand::fill(&mut bytes).ok();
    bytes.iter().map(|byte| char::from(LETTERS.get(usize::from(*byte) % LETTERS.len()).copied().unwrap_or(b'A'))).collect()
}
