//! Any bytes: a client's certificate is read or refused, without panic, and its thumbprint is that of the bytes.

use bailiwick_core::{Digest, Timestamp};
use bailiwick_identity::certificate::{CERTIFICATE_MAX, Certificate};

/// See the file.
pub fn run(der: &[u8]) {
    let Ok(read) = Certificate::read(der) else { return };
    assert!(der.len() <= CERTIFICATE_MAX && read.thumbprint() == Digest::of(der));
    let _ = (read.spiffe_id().is_ok(), read.key().map(|key| key.id()), read.check_time(Timestamp::from_seconds(1_800_000_000)).is_ok());
}
