//! Salted digests for the ledger: whoever has salt and key recognises a value; whoever lost the salt cannot guess it back, key or not.

use aws_lc_rs::{hmac, rand};
use zeroize::Zeroizing;

use crate::seal::SealError;

/// A key for digests of what must not stand in the ledger itself: HMAC-SHA256 (RFC 2104).
pub struct RecordKey(hmac::Key);

impl RecordKey {
    pub(crate) fn new(bytes: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// From bytes that were kept sealed: digests outlive root keys.
    #[must_use]
    pub fn of(bytes: &[u8; 32]) -> Self {
        Self::new(bytes)
    }

    /// The digest of `bytes` under this key and a salt that is kept beside the text, and nowhere else. Without the salt, not even
    /// whoever has this key can find the text by trying texts.
    #[must_use]
    pub fn salted(&self, salt: &[u8; 32], bytes: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(salt);
        context.update(bytes);
        array(&context.sign())
    }
}

impl std::fmt::Debug for RecordKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RecordKey(..)")
    }
}

/// The secret of one task, from which the salts of its calls are made, so that a call's way asks for no randomness and stores none.
/// One salt says nothing about another: HMAC-SHA256 is a pseudo-random function (NIST SP 800-108 section 4).
pub struct TaskSalt(hmac::Key);

impl TaskSalt {
    /// Makes one. Gives it with the bytes from which [`TaskSalt::of`] makes it again.
    ///
    /// # Errors
    /// `Library` if there is no randomness.
    pub fn generate() -> Result<(Self, Zeroizing<[u8; 32]>), SealError> {
        let mut bytes = Zeroizing::new([0; 32]);
        rand::fill(bytes.as_mut_slice()).map_err(|_| SealError::Library)?;
        Ok((Self::of(&bytes), bytes))
    }

    /// From bytes that were kept.
    #[must_use]
    pub fn of(bytes: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// The salt of all calls of the task with these arguments (the digest of their canonical form): a held call and the one that is
    /// made with its approval have the same.
    #[must_use]
    pub fn arguments(&self, canonical: &[u8; 32]) -> [u8; 32] {
        self.part(b"arguments", canonical)
    }

    /// The salt of one call's answer, or of another answer of the task that has an id of its own.
    #[must_use]
    pub fn answer(&self, id: &[u8]) -> [u8; 32] {
        self.part(b"answer", id)
    }

    fn part(&self, what: &[u8], id: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(what);
        context.update(&[0]);
        context.update(id);
        array(&context.sign())
    }
}

impl std::fmt::Debug for TaskSalt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TaskSalt(..)")
    }
}

/// The 32 bytes of an HMAC-SHA256.
pub(crate) fn tag(key: &hmac::Key, bytes: &[u8]) -> [u8; 32] {
    array(&hmac::sign(key, bytes))
}

fn array(tag: &hmac::Tag) -> [u8; 32] {
    let mut out = [0; 32];
    for (to, from) in out.iter_mut().zip(tag.as_ref()) {
        *to = *from;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 2104, by hand, over parts.
    fn hmac_by_hand(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
        let sha256 = |parts: &[&[u8]]| aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &parts.concat());
        let pad = |with: u8| (0..64).map(|i| key.get(i).unwrap_or(&0) ^ with).collect::<Vec<u8>>();
        let inner = sha256(&[pad(0x36).as_slice(), &parts.concat()]);
        sha256(&[pad(0x5c).as_slice(), inner.as_ref()]).as_ref().try_into().unwrap()
    }

    #[test]
    fn digests_and_salts_are_hmac_sha256_over_exactly_what_is_documented() {
        assert_eq!(RecordKey::new(&[7; 32]).salted(&[9; 32], b"text"), hmac_by_hand(&[7; 32], &[&[9; 32], b"text"]));
        assert_eq!(TaskSalt::of(&[7; 32]).arguments(&[1; 32]), hmac_by_hand(&[7; 32], &[b"arguments\0", &[1; 32]]));
        assert_eq!(TaskSalt::of(&[7; 32]).answer(&[1; 16]), hmac_by_hand(&[7; 32], &[b"answer\0", &[1; 16]]));
    }

    #[test]
    fn the_published_vector_comes_out() {
        // RFC 4231 section 4.2 has a key of 20 bytes 0x0b; HMAC pads a key with zeros, so 32 bytes of it are the same key.
        let mut key = [0; 32];
        key[..20].fill(0x0b);
        let hex: String = tag(&hmac::Key::new(hmac::HMAC_SHA256, &key), b"Hi There").iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
    }

    #[test]
    fn another_key_or_salt_gives_another_digest_and_neither_is_shown() {
        let digest = |key: u8, salt: u8| RecordKey::new(&[key; 32]).salted(&[salt; 32], b"x");
        assert_ne!(digest(1, 1), digest(2, 1));
        assert_ne!(digest(1, 1), digest(1, 2));
        assert_eq!(format!("{:?} {:?}", RecordKey::new(&[1; 32]), TaskSalt::of(&[1; 32])), "RecordKey(..) TaskSalt(..)");
        let (made, bytes) = TaskSalt::generate().unwrap();
        assert_eq!(made.answer(&[1; 16]), TaskSalt::of(&bytes).answer(&[1; 16]));
        assert_ne!(made.answer(&[1; 16]), TaskSalt::generate().unwrap().0.answer(&[1; 16]));
    }
}
