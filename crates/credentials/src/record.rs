//! Salted digests for the ledger: the same value is recognised, and cannot be guessed back without the key.

use aws_lc_rs::hmac;

/// A key for digests of what must not stand in the ledger itself: HMAC-SHA256 (RFC 2104).
pub struct RecordKey(hmac::Key);

impl RecordKey {
    pub(crate) fn new(bytes: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// The digest of `bytes` under this key.
    #[must_use]
    pub fn digest(&self, bytes: &[u8]) -> [u8; 32] {
        tag(&self.0, bytes)
    }
}

impl std::fmt::Debug for RecordKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RecordKey(..)")
    }
}

/// The 32 bytes of an HMAC-SHA256.
pub(crate) fn tag(key: &hmac::Key, bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    for (to, from) in out.iter_mut().zip(hmac::sign(key, bytes).as_ref()) {
        *to = *from;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_hmac_sha256_as_published() {
        // RFC 4231 section 4.2 has a key of 20 bytes 0x0b; HMAC pads a key with zeros, so 32 bytes of it are the same key.
        let mut key = [0; 32];
        key[..20].fill(0x0b);
        let hex: String = RecordKey::new(&key).digest(b"Hi There").iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
    }

    #[test]
    fn another_key_gives_another_digest_and_the_key_is_not_shown() {
        assert_ne!(RecordKey::new(&[1; 32]).digest(b"x"), RecordKey::new(&[2; 32]).digest(b"x"));
        assert_eq!(format!("{:?}", RecordKey::new(&[1; 32])), "RecordKey(..)");
    }
}
