//! Envelope encryption: each secret under a key of its own, that key under the root key, both bound to the secret's name.
//!
//! Format, version 2: `BWS` and `2`; 8 bytes that name the root key; nonce (12), data key (32), tag (16); nonce (12), secret, tag (16).
//! Both parts are AES-256-GCM (NIST SP 800-38D). The first part's associated data is version, root key and name, the second part's is version and
//! name, so that a blob under another name does not open, nor one put together from two, whose data keys differ. Texts of calls have the same
//! format under `BWP` in the place of `BWS`, so that neither is ever taken for the other. In version 1, which is still opened, the second part
//! was bound to the root key too, so that all of it had to be encrypted again under another one.
//!
//! A [`Sealer`] seals under one root key, its current one, and opens under every one that it knows: while a root key is replaced, there are two.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::rand;
use zeroize::Zeroizing;

use crate::root::RootKey;
use crate::secret::Secret;

/// The longest secret, in bytes.
pub const SECRET_MAX: usize = 1 << 20;
/// The longest text of a call, in bytes.
pub const PAYLOAD_MAX: usize = 17 << 20;
const NAME_MAX: usize = 512;
/// The newest version of each sort, then the earlier ones.
const SECRET: [[u8; 4]; 2] = [*b"BWS2", *b"BWS1"];
const PAYLOAD: [[u8; 4]; 2] = [*b"BWP2", *b"BWP1"];
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

/// Which root key something is sealed under: 8 bytes that say nothing about the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootId([u8; ID]);

impl RootId {
    /// Under which root key this was sealed. `None` if it is nothing that we sealed.
    #[must_use]
    pub fn of(sealed: &[u8]) -> Option<Self> {
        let (version, rest) = sealed.split_first_chunk::<4>()?;
        let known = SECRET.contains(version) || PAYLOAD.contains(version);
        rest.first_chunk().filter(|_| known).copied().map(Self)
    }

    /// The bytes, as they stand in what is sealed, from the fifth byte on.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; ID] {
        &self.0
    }
}

impl fmt::Display for RootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::str::FromStr for RootId {
    type Err = SealError;

    fn from_str(text: &str) -> Result<Self, SealError> {
        let mut id = [0; ID];
        if text.len() != 2 * ID || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(SealError::Version);
        }
        for (byte, digits) in id.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = str::from_utf8(digits).ok().and_then(|digits| u8::from_str_radix(digits, 16).ok()).ok_or(SealError::Version)?;
        }
        Ok(Self(id))
    }
}

/// One root key's part in sealing.
struct Generation {
    root: RandomizedNonceKey,
    id: RootId,
}

/// Seals secrets under the current root key and opens what was sealed under any that it knows. Clones share what they know.
#[derive(Clone)]
pub struct Sealer {
    /// The current one first.
    ring: Arc<RwLock<Vec<Arc<Generation>>>>,
}

impl Sealer {
    pub(crate) fn new(key: &[u8; 32], id: &[u8; 32]) -> Result<Self, SealError> {
        Ok(Self { ring: Arc::new(RwLock::new(vec![generation(key, id)?])) })
    }

    /// The root key under which is sealed from now on.
    #[must_use]
    pub fn current(&self) -> RootId {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).first().map_or(RootId([0; ID]), |generation| generation.id)
    }

    /// The root keys under which is opened, the current one first.
    #[must_use]
    pub fn known(&self) -> Vec<RootId> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).iter().map(|generation| generation.id).collect()
    }

    /// From here on, this sealer and its clones seal under another root key, and still open under those before.
    ///
    /// # Errors
    /// `Library` if the cryptographic library fails.
    pub fn adopt(&self, key: &RootKey) -> Result<(), SealError> {
        let next = key.generation()?;
        let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        ring.retain(|generation| generation.id != next.id);
        ring.insert(0, next);
        Ok(())
    }

    /// From here on, this sealer and its clones open under another root key too. What it seals under stays.
    ///
    /// # Errors
    /// `Library` if the cryptographic library fails.
    pub fn also_open(&self, key: &RootKey) -> Result<(), SealError> {
        let other = key.generation()?;
        let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        if ring.iter().all(|generation| generation.id != other.id) {
            ring.push(other);
        }
        Ok(())
    }

    /// Forgets every root key but the current one: what is still sealed under another is lost to it.
    pub fn forget_others(&self) {
        self.ring.write().unwrap_or_else(PoisonError::into_inner).truncate(1);
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
        self.envelope(SECRET, SECRET_MAX, name, bytes)
    }

    /// Opens bytes of the house itself.
    ///
    /// # Errors
    /// As [`Sealer::open`].
    pub fn open_bytes(&self, name: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        self.unfold(SECRET, name, sealed)
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

    /// The same secret or text, sealed under the current root key. `None` if it is already. Of the newest version only the data key is opened;
    /// the whole is not, so whoever must know that it opens opens it.
    ///
    /// # Errors
    /// As [`Sealer::open`]: it is to be left as it is then.
    pub fn reseal(&self, name: &str, sealed: &[u8]) -> Result<Option<Vec<u8>>, SealError> {
        let current = self.first()?;
        let id = RootId::of(sealed).ok_or(SealError::Version)?;
        if id == current.id {
            return Ok(None);
        }
        check_name(name)?;
        let versions = if SECRET.iter().any(|version| sealed.starts_with(version)) { SECRET } else { PAYLOAD };
        let [newest, _] = versions;
        if !sealed.starts_with(&newest) {
            let most = if versions == SECRET { SECRET_MAX } else { PAYLOAD_MAX };
            let plain = self.unfold(versions, name, sealed)?;
            return self.envelope(versions, most, name, &plain).map(Some);
        }
        let mut key = self.data_key(newest, name, sealed)?;
        let (_, body) = parts(newest, sealed)?;
        let mut blob = Vec::with_capacity(sealed.len());
        blob.extend_from_slice(&newest);
        blob.extend_from_slice(&current.id.0);
        encrypt(&current.root, &key_aad(newest, current.id, name), &mut key, &mut blob)?;
        blob.extend_from_slice(body);
        Ok(Some(blob))
    }

    fn first(&self) -> Result<Arc<Generation>, SealError> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).first().cloned().ok_or(SealError::Library)
    }

    fn under(&self, id: RootId) -> Result<Arc<Generation>, SealError> {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        ring.iter().find(|generation| generation.id == id).cloned().ok_or(SealError::OtherRoot)
    }

    fn envelope(&self, [version, _]: [[u8; 4]; 2], most: usize, name: &str, bytes: &[u8]) -> Result<Vec<u8>, SealError> {
        check_name(name)?;
        if bytes.len() > most {
            return Err(SealError::TooLong);
        }
        let current = self.first()?;
        let mut data_key = Zeroizing::new([0; KEY]);
        rand::fill(data_key.as_mut_slice()).map_err(|_| SealError::Library)?;
        let data = RandomizedNonceKey::new(&AES_256_GCM, data_key.as_slice()).map_err(|_| SealError::Library)?;
        let mut blob = Vec::with_capacity(version.len() + ID + 2 * (NONCE + TAG) + KEY + bytes.len());
        blob.extend_from_slice(&version);
        blob.extend_from_slice(&current.id.0);
        encrypt(&current.root, &key_aad(version, current.id, name), data_key.as_mut_slice(), &mut blob)?;
        let mut body = Zeroizing::new(bytes.to_vec());
        encrypt(&data, &body_aad(version, current.id, name), &mut body, &mut blob)?;
        Ok(blob)
    }

    fn unfold(&self, versions: [[u8; 4]; 2], name: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        check_name(name)?;
        let version = versions.into_iter().find(|version| sealed.starts_with(version)).ok_or(SealError::Version)?;
        let key = self.data_key(version, name, sealed)?;
        let (id, body) = parts(version, sealed)?;
        let data = RandomizedNonceKey::new(&AES_256_GCM, &key).map_err(|_| SealError::Library)?;
        decrypt(&data, &body_aad(version, id, name), body)
    }

    fn data_key(&self, version: [u8; 4], name: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let rest = sealed.strip_prefix(&version).ok_or(SealError::Version)?;
        let (id, rest) = rest.split_first_chunk::<ID>().ok_or(SealError::Changed)?;
        let generation = self.under(RootId(*id))?;
        let (wrapped, _) = rest.split_at_checked(NONCE + KEY + TAG).ok_or(SealError::Changed)?;
        decrypt(&generation.root, &key_aad(version, generation.id, name), wrapped)
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(..)")
    }
}

impl RootKey {
    fn generation(&self) -> Result<Arc<Generation>, SealError> {
        generation(&self.derive("seal"), &self.derive("seal-id"))
    }

    /// What stands in everything that is sealed under this key.
    #[must_use]
    pub fn id(&self) -> RootId {
        root_id(&self.derive("seal-id"))
    }
}

fn generation(key: &[u8; 32], id: &[u8; 32]) -> Result<Arc<Generation>, SealError> {
    let root = RandomizedNonceKey::new(&AES_256_GCM, key).map_err(|_| SealError::Library)?;
    Ok(Arc::new(Generation { root, id: root_id(id) }))
}

fn root_id(id: &[u8; 32]) -> RootId {
    let mut first = [0; ID];
    for (to, from) in first.iter_mut().zip(id) {
        *to = *from;
    }
    RootId(first)
}

/// The root key's id and the encrypted body.
fn parts(version: [u8; 4], sealed: &[u8]) -> Result<(RootId, &[u8]), SealError> {
    let rest = sealed.strip_prefix(&version).ok_or(SealError::Version)?;
    let (id, rest) = rest.split_first_chunk::<ID>().ok_or(SealError::Changed)?;
    let (_, body) = rest.split_at_checked(NONCE + KEY + TAG).ok_or(SealError::Changed)?;
    Ok((RootId(*id), body))
}

fn key_aad(version: [u8; 4], id: RootId, name: &str) -> Vec<u8> {
    aad(&[&version, &id.0, b"key\0", name.as_bytes()])
}

fn body_aad(version: [u8; 4], id: RootId, name: &str) -> Vec<u8> {
    let bound = version.last() == Some(&b'1');
    aad(&[&version, if bound { &id.0 } else { &[] }, b"body\0", name.as_bytes()])
}

fn aad(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
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
        let cut = 4 + ID + NONCE + KEY + TAG;
        let mixed = [&one[..cut], &two[cut..]].concat();
        assert_eq!(sealer.open("a", &mixed).err(), Some(SealError::Changed));
        // The wrapped key is itself no body, nor the reverse.
        let mut moved = one[..cut].to_vec();
        moved.extend_from_slice(&one[4 + ID..cut]);
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
        let id = sealer.current();
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
        let disguised = [b"BWS2".as_slice(), &payload[4..]].concat();
        assert_eq!(sealer.open_bytes("a", &disguised).err(), Some(SealError::Changed));
        assert_eq!(sealer.open_payload("b", &payload).err(), Some(SealError::Changed));
    }

    #[test]
    fn what_is_too_long_or_no_blob_is_refused() {
        let sealer = sealer();
        assert_eq!(sealer.seal("a", &Secret::from(vec![0; SECRET_MAX + 1])).err(), Some(SealError::TooLong));
        assert_eq!(sealer.seal(&"n".repeat(513), &secret("x")).err(), Some(SealError::Name));
        assert_eq!(sealer.open("a", b"").err(), Some(SealError::Version));
        assert_eq!(sealer.open("a", b"BWS3........").err(), Some(SealError::Version));
        assert_eq!(sealer.open("a", b"BWS1").err(), Some(SealError::Changed));
    }

    #[test]
    fn while_a_root_key_is_replaced_both_open_and_only_the_new_one_seals() {
        let (old, new) = (RootKey::generate().unwrap().0, RootKey::generate().unwrap().0);
        let sealer = old.sealer().unwrap();
        let clone = sealer.clone();
        let (before, text) = (sealer.seal("a", &secret("hunter2")).unwrap(), sealer.seal_payload("a", b"a text").unwrap());
        clone.adopt(&new).unwrap();
        assert_eq!((sealer.current(), sealer.known()), (new.id(), vec![new.id(), old.id()]));
        assert_eq!(sealer.open("a", &before).unwrap().expose(), b"hunter2");
        let after = sealer.seal("a", &secret("hunter3")).unwrap();
        assert_eq!((RootId::of(&before), RootId::of(&after)), (Some(old.id()), Some(new.id())));
        assert_eq!(old.sealer().unwrap().open("a", &after).err(), Some(SealError::OtherRoot));

        assert_eq!(sealer.reseal("a", &after).unwrap(), None);
        let (moved, moved_text) = (sealer.reseal("a", &before).unwrap().unwrap(), sealer.reseal("a", &text).unwrap().unwrap());
        let alone = new.sealer().unwrap();
        assert_eq!(alone.open("a", &moved).unwrap().expose(), b"hunter2");
        assert_eq!(alone.open_payload("a", &moved_text).unwrap().as_slice(), b"a text");
        assert_eq!(alone.open_bytes("a", &moved_text).err(), Some(SealError::Version), "a text stays a text");
        assert_eq!(sealer.reseal("b", &before).err(), Some(SealError::Changed), "under another name it is not resealed either");
        assert_ne!(moved, before);

        sealer.forget_others();
        assert_eq!(clone.open("a", &before).err(), Some(SealError::OtherRoot));
        assert_eq!(clone.reseal("a", &before).err(), Some(SealError::OtherRoot));
        assert_eq!(clone.open("a", &moved).unwrap().expose(), b"hunter2");
        sealer.also_open(&old).unwrap();
        assert_eq!((sealer.current(), clone.open("a", &before).unwrap().expose()), (new.id(), b"hunter2".as_slice()));
    }

    #[test]
    fn version_1_is_resealed_as_version_2() {
        let old = RootKey::parse(&(0..32).collect::<Vec<u8>>()).unwrap();
        let hex = include_str!("seal/version_1.hex").trim();
        let blob: Vec<u8> = hex.as_bytes().chunks(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect();
        let new = RootKey::generate().unwrap().0;
        let sealer = old.sealer().unwrap();
        sealer.adopt(&new).unwrap();
        let moved = sealer.reseal("github/env/TOKEN", &blob).unwrap().unwrap();
        assert!(moved.starts_with(b"BWS2"));
        assert_eq!(new.sealer().unwrap().open("github/env/TOKEN", &moved).unwrap().expose(), b"hunter2 of version 1");
        assert_eq!(sealer.reseal("gitlab/env/TOKEN", &blob).err(), Some(SealError::Changed));
    }

    #[test]
    fn the_name_of_a_root_key_reads_back_and_nothing_else_does() {
        let id = RootKey::generate().unwrap().0.id();
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "00", "0123456789ABCDEF", "0123456789abcdeg", "0123456789abcdef0"] {
            assert_eq!(bad.parse::<RootId>(), Err(SealError::Version), "{bad}");
        }
        assert_eq!((RootId::of(b""), RootId::of(b"BWS2"), RootId::of(b"XXXX12345678")), (None, None, None));
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
            for version in SECRET {
                let ours = [version.as_slice(), sealer.current().as_bytes(), &bytes].concat();
                prop_assert!(sealer.open("a", &ours).is_err());
                let _ = sealer.reseal("a", &ours).is_ok();
            }
            let _ = sealer.reseal("a", &bytes).is_ok();
        }
    }
}
