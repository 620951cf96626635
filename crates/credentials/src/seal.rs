//! Envelope encryption: each secret under a key of its own, that key under the root key, both bound to the secret's name.
//!
//! Format, version 1: `BWS` and `1`; 8 bytes that name the root key; nonce (12), data key (32), tag (16); nonce (12), secret, tag (16).
//! Both parts are AES-256-GCM (NIST SP 800-38D). Their associated data is what they are, the bytes before them that are not
//! encrypted, and the name, so that a blob under another name, or put together from two, does not open. Texts of calls have the same
//! format under `BWP` in the place of `BWS`, so that neither is ever taken for the other.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::rand;
use zeroize::Zeroizing;

use crate::secret::Secret;

/// The longest secret, in bytes.
pub const SECRET_MAX: usize = 1 << 20;
/// The longest text of a call, in bytes.
pub const PAYLOAD_MAX: usize = 17 << 20;
const NAME_MAX: usize = 512;
const VERSION: [u8; 4] = *b"BWS1";
const PAYLOAD: [u8; 4] = *b"BWP1";
const ID: usize = 8;
const NONCE: usize = 12;
const KEY: usize = 32;
const TAG: usize = 16;

/// Why something cannot be sealed or opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The name is empty or longer than 512 bytes.
    #[error("the secret's name is empty or too long")]
    Name,
    /// Longer than [`SECRET_MAX`], or, for the text of a call, than [`PAYLOAD_MAX`].
    #[error("too long to be sealed")]
    TooLong,
    /// Not a sealed secret of a version that we know.
    #[error("not a sealed secret of a known version")]
    Version,
    /// It was sealed under another root key.
    #[error("sealed under another root key")]
    OtherRoot,
    /// It was changed, or sealed under another name.
    #[error("the sealed secret was changed, or belongs to another name")]
    Changed,
    /// The cryptographic library failed.
    #[error("the cryptographic library failed")]
    Library,
}

/// Seals secrets under the root key and opens them again.
pub struct Sealer {
    root: RandomizedNonceKey,
    id: [u8; ID],
}

impl Sealer {
    pub(crate) fn new(key: &[u8; 32], id: &[u8; 32]) -> Result<Self, SealError> {
        let root = RandomizedNonceKey::new(&AES_256_GCM, key).map_err(|_| SealError::Library)?;
        let id = id.first_chunk().copied().ok_or(SealError::Library)?;
        Ok(Self { root, id })
    }

    /// Seals a secret under its name.
    ///
    /// # Errors
    /// `Name`, `TooLong` or `Library`.
    pub fn seal(&self, name: &str, secret: &Secret) -> Result<Vec<u8>, SealError> {
        self.seal_bytes(name, secret.expose())
    }

    /// Opens a secret that was sealed under this name.
    ///
    /// # Errors
    /// `Version`, `OtherRoot` or `Changed`: there is no secret then.
    pub fn open(&self, name: &str, sealed: &[u8]) -> Result<Secret, SealError> {
        self.open_bytes(name, sealed).map(Secret::from)
    }

    /// Seals bytes of the house itself, such as its signing key.
    ///
    /// # Errors
    /// As [`Sealer::seal`].
    pub fn seal_bytes(&self, name: &str, bytes: &[u8]) -> Result<Vec<u8>, SealError> {
        self.envelope(VERSION, SECRET_MAX, name, bytes)
    }

    /// Seals the text of a call. The name says whose it is and what, so that it opens as nothing else.
    ///
    /// # Errors
    /// As [`Sealer::seal`], with [`PAYLOAD_MAX`].
    pub fn seal_payload(&self, name: &str, bytes: &[u8]) -> Result<Vec<u8>, SealError> {
        self.envelope(PAYLOAD, PAYLOAD_MAX, name, bytes)
    }

    /// Opens the text of a call.
    ///
    /// # Errors
    /// As [`Sealer::open`].
    pub fn open_payload(&self, name: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        self.unfold(PAYLOAD, name, sealed)
    }

    fn envelope(&self, version: [u8; 4], most: usize, name: &str, bytes: &[u8]) -> Result<Vec<u8>, SealError> {
        check_name(name)?;
        if bytes.len() > most {
            return Err(SealError::TooLong);
        }
        let mut data_key = Zeroizing::new([0; KEY]);
        rand::fill(data_key.as_mut_slice()).map_err(|_| SealError::Library)?;
        let data = RandomizedNonceKey::new(&AES_256_GCM, data_key.as_slice()).map_err(|_| SealError::Library)?;
        let mut blob = Vec::with_capacity(version.len() + ID + 2 * (NONCE + TAG) + KEY + bytes.len());
        blob.extend_from_slice(&version);
        blob.extend_from_slice(&self.id);
        encrypt(&self.root, &self.aad(version, "key", name), data_key.as_mut_slice(), &mut blob)?;
        let mut body = Zeroizing::new(bytes.to_vec());
        encrypt(&data, &self.aad(version, "body", name), &mut body, &mut blob)?;
        Ok(blob)
    }

    /// Opens bytes of the house itself.
    ///
    /// # Errors
    /// As [`Sealer::open`].
    pub fn open_bytes(&self, name: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        self.unfold(VERSION, name, sealed)
    }

    fn unfold(&self, version: [u8; 4], name: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        check_name(name)?;
        let rest = sealed.strip_prefix(&version).ok_or(SealError::Version)?;
        let (id, rest) = rest.split_first_chunk::<ID>().ok_or(SealError::Changed)?;
        if *id != self.id {
            return Err(SealError::OtherRoot);
        }
        let (wrapped, body) = rest.split_at_checked(NONCE + KEY + TAG).ok_or(SealError::Changed)?;
        let key = decrypt(&self.root, &self.aad(version, "key", name), wrapped)?;
        let data = RandomizedNonceKey::new(&AES_256_GCM, &key).map_err(|_| SealError::Library)?;
        decrypt(&data, &self.aad(version, "body", name), body)
    }

    fn aad(&self, version: [u8; 4], part: &str, name: &str) -> Vec<u8> {
        let mut aad = version.to_vec();
        aad.extend_from_slice(&self.id);
        aad.extend_from_slice(part.as_bytes());
        aad.push(0);
        aad.extend_from_slice(name.as_bytes());
        aad
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(..)")
    }
}

fn check_name(name: &str) -> Result<(), SealError> {
    if (1..=NAME_MAX).contains(&name.len()) { Ok(()) } else { Err(SealError::Name) }
}

/// Encrypts in place and appends nonce, ciphertext and tag.
fn encrypt(key: &RandomizedNonceKey, aad: &[u8], plain: &mut [u8], out: &mut Vec<u8>) -> Result<(), SealError> {
    let (nonce, tag) = key.seal_in_place_separate_tag(Aad::from(aad), plain).map_err(|_| SealError::Library)?;
    out.extend_from_slice(nonce.as_ref());
    out.extend_from_slice(plain);
    out.extend_from_slice(tag.as_ref());
    Ok(())
}

fn decrypt(key: &RandomizedNonceKey, aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let (nonce, rest) = sealed.split_first_chunk::<NONCE>().ok_or(SealError::Changed)?;
    let mut buffer = Zeroizing::new(rest.to_vec());
    let length = key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(aad), &mut buffer).map_err(|_| SealError::Changed)?.len();
    buffer.truncate(length);
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RootKey;
    use proptest::prelude::*;

    fn sealer() -> Sealer {
        RootKey::generate().unwrap().0.sealer().unwrap()
    }

    fn secret(text: &str) -> Secret {
        Secret::from(text.to_owned())
    }

    #[test]
    fn a_secret_opens_under_its_name_and_under_no_other() {
        let sealer = sealer();
        let blob = sealer.seal("github/env/TOKEN", &secret("hunter2")).unwrap();
        assert_eq!(sealer.open("github/env/TOKEN", &blob).unwrap().expose(), b"hunter2");
        for other in ["github/env/TOKEN2", "github/env/TOKE", "Github/env/TOKEN", "gitlab/env/TOKEN"] {
            assert_eq!(sealer.open(other, &blob).err(), Some(SealError::Changed), "{other}");
        }
        assert_eq!(sealer.open("", &blob).err(), Some(SealError::Name));
    }

    #[test]
    fn another_root_key_does_not_open_it_and_says_so() {
        let blob = sealer().seal("a", &secret("hunter2")).unwrap();
        assert_eq!(sealer().open("a", &blob).err(), Some(SealError::OtherRoot));
    }

    #[test]
    fn a_blob_put_together_from_two_does_not_open() {
        let sealer = sealer();
        let (one, two) = (sealer.seal("a", &secret("hunter2")).unwrap(), sealer.seal("a", &secret("hunter3")).unwrap());
        let cut = VERSION.len() + ID + NONCE + KEY + TAG;
        let mixed = [&one[..cut], &two[cut..]].concat();
        assert_eq!(sealer.open("a", &mixed).err(), Some(SealError::Changed));
        // The wrapped key is itself no body, nor the reverse.
        let mut moved = one[..VERSION.len() + ID].to_vec();
        moved.extend_from_slice(&one[VERSION.len() + ID..cut]);
        moved.extend_from_slice(&one[VERSION.len() + ID..cut]);
        assert_eq!(sealer.open("a", &moved).err(), Some(SealError::Changed));
    }

    #[test]
    fn the_same_secret_is_sealed_differently_each_time_and_never_stands_in_the_blob() {
        let sealer = sealer();
        let (one, two) = (sealer.seal("a", &secret("hunter2hunter2")).unwrap(), sealer.seal("a", &secret("hunter2hunter2")).unwrap());
        assert_ne!(one, two);
        assert!(!one.windows(7).any(|w| w == b"hunter2"));
        assert_eq!(format!("{sealer:?}"), "Sealer(..)");
    }

    #[test]
    fn a_blob_of_version_1_written_by_another_implementation_opens() {
        // Written once with the format in this file's first lines; a new version must still open it.
        let sealer = RootKey::parse(&(0..32).collect::<Vec<u8>>()).unwrap().sealer().unwrap();
        let id: String = sealer.id.iter().map(|b| format!("{b:02x}")).collect();
        let hex = include_str!("seal/version_1.hex").trim();
        let blob: Vec<u8> = hex.as_bytes().chunks(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect();
        assert!(hex.starts_with(&format!("42575331{id}")), "{id}");
        assert_eq!(sealer.open("github/env/TOKEN", &blob).unwrap().expose(), b"hunter2 of version 1");
    }

    #[test]
    fn the_text_of_a_call_is_no_secret_and_no_secret_is_the_text_of_a_call() {
        let sealer = sealer();
        let (secret, payload) = (sealer.seal_bytes("a", b"hunter2").unwrap(), sealer.seal_payload("a", b"hunter2").unwrap());
        assert_eq!(sealer.open_payload("a", &payload).unwrap().as_slice(), b"hunter2");
        assert_eq!(sealer.open_bytes("a", &payload).err(), Some(SealError::Version));
        assert_eq!(sealer.open_payload("a", &secret).err(), Some(SealError::Version));
        let disguised = [VERSION.as_slice(), &payload[4..]].concat();
        assert_eq!(sealer.open_bytes("a", &disguised).err(), Some(SealError::Changed));
        assert_eq!(sealer.open_payload("b", &payload).err(), Some(SealError::Changed));
    }

    #[test]
    fn what_is_too_long_or_no_blob_is_refused() {
        let sealer = sealer();
        assert_eq!(sealer.seal("a", &Secret::from(vec![0; SECRET_MAX + 1])).err(), Some(SealError::TooLong));
        assert_eq!(sealer.seal(&"n".repeat(513), &secret("x")).err(), Some(SealError::Name));
        assert_eq!(sealer.open("a", b"").err(), Some(SealError::Version));
        assert_eq!(sealer.open("a", b"BWS2........").err(), Some(SealError::Version));
        assert_eq!(sealer.open("a", b"BWS1").err(), Some(SealError::Changed));
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens_to_the_same_bytes(name in "\\PC{1,40}", bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let sealer = sealer();
            let blob = sealer.seal_bytes(&name, &bytes).unwrap();
            let opened = sealer.open_bytes(&name, &blob).unwrap();
            prop_assert_eq!(opened.as_slice(), bytes.as_slice());
        }

        #[test]
        fn a_blob_with_any_bit_changed_does_not_open(at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let sealer = sealer();
            let mut blob = sealer.seal("a", &secret("hunter2")).unwrap();
            *at.get_mut(&mut blob) ^= 1 << bit;
            prop_assert!(sealer.open("a", &blob).is_err());
        }

        #[test]
        fn a_blob_cut_or_lengthened_does_not_open(keep in any::<prop::sample::Index>(), more in proptest::collection::vec(any::<u8>(), 1..20)) {
            let sealer = sealer();
            let blob = sealer.seal("a", &secret("hunter2")).unwrap();
            prop_assert!(sealer.open("a", &blob[..keep.index(blob.len())]).is_err());
            prop_assert!(sealer.open("a", &[blob.as_slice(), &more].concat()).is_err());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let sealer = sealer();
            let _ = sealer.open("a", &bytes).is_ok();
            let mut ours = VERSION.to_vec();
            ours.extend_from_slice(&sealer.id);
            ours.extend_from_slice(&bytes);
            prop_assert!(sealer.open("a", &ours).is_err());
        }
    }
}
