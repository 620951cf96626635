//! SHA-256 as RFC 6962 section 2.1 uses it: leaves, nodes and the root of the empty tree.

use std::fmt;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A SHA-256 value: a leaf hash, a node hash or a root. Text forms are lower-case hex (`Display`, `FromStr`) and standard
/// base64 (the form of the C2SP texts).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash([u8; 32]);

/// Why a text or a byte string is not a [`Hash`](struct@Hash).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// Not exactly 32 bytes, or not exactly the text of 32 bytes.
    #[error("a hash has 32 bytes")]
    Length,
    /// A character that the encoding does not have, or an encoding that is not the canonical one.
    #[error("not the canonical text of a hash")]
    Encoding,
}

impl Hash {
    /// The length in bytes.
    pub const LEN: usize = 32;

    /// Takes the bytes as they are.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Standard base64 with padding, 44 characters.
    #[must_use]
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.0)
    }

    /// Reads standard base64 with padding; only the canonical text is accepted.
    pub fn from_base64(text: &str) -> Result<Self, HashError> {
        if text.len() != 44 {
            return Err(HashError::Length);
        }
        let mut bytes = [0; 33];
        match STANDARD.decode_slice(text, &mut bytes) {
            Ok(32) => {}
            Ok(_) => return Err(HashError::Length),
            Err(_) => return Err(HashError::Encoding),
        }
        bytes.first_chunk().map(|chunk| Self(*chunk)).ok_or(HashError::Length)
    }
}

impl TryFrom<&[u8]> for Hash {
    type Error = HashError;

    fn try_from(bytes: &[u8]) -> Result<Self, HashError> {
        bytes.try_into().map(Self).map_err(|_| HashError::Length)
    }
}

impl AsRef<[u8]> for Hash {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({self})")
    }
}

impl std::str::FromStr for Hash {
    type Err = HashError;

    fn from_str(text: &str) -> Result<Self, HashError> {
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != Self::LEN || !rest.is_empty() {
            return Err(HashError::Length);
        }
        let mut bytes = [0; 32];
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            *byte = nibble(*high)? << 4 | nibble(*low)?;
        }
        Ok(Self(bytes))
    }
}

fn nibble(character: u8) -> Result<u8, HashError> {
    match character {
        b'0'..=b'9' => Ok(character - b'0'),
        b'a'..=b'f' => Ok(character - b'a' + 10),
        _ => Err(HashError::Encoding),
    }
}

pub(crate) fn sha256(data: &[u8]) -> Hash {
    finish(digest::digest(&digest::SHA256, data))
}

fn finish(value: digest::Digest) -> Hash {
    let mut bytes = [0; 32];
    // The algorithm is fixed to SHA-256 by every caller here, so both sides have 32 bytes.
    bytes.copy_from_slice(value.as_ref());
    Hash(bytes)
}

/// `SHA-256("")`, the root of the tree without leaves.
#[must_use]
pub fn empty_root() -> Hash {
    sha256(&[])
}

/// `SHA-256(0x00 || entry)`.
#[must_use]
pub fn leaf_hash(entry: &[u8]) -> Hash {
    //= rfc6962#section-2.1 : MTH({d(0)}) = SHA-256(0x00 || d(0)).
    const ON_STACK: usize = 2048;
    let mut buffer = [0; ON_STACK];
    // One call over one buffer spares the allocation inside a streaming context, which matters for entries of usual size.
    if let Some(to) = buffer.get_mut(1..=entry.len()) {
        to.copy_from_slice(entry);
        return buffer.get(..=entry.len()).map_or_else(empty_root, sha256);
    }
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&[0]);
    context.update(entry);
    finish(context.finish())
}

/// `SHA-256(0x01 || left || right)`.
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut buffer = [1; 65];
    let (_, children) = buffer.split_at_mut(1);
    let (to_left, to_right) = children.split_at_mut(Hash::LEN);
    to_left.copy_from_slice(&left.0);
    to_right.copy_from_slice(&right.0);
    sha256(&buffer)
}

/// The root of a run of perfect subtrees of one height; `hashes.len()` is a power of two. `scratch` is reused by callers that
/// fold many runs.
pub(crate) fn fold_perfect(hashes: &[Hash], scratch: &mut Vec<Hash>) -> Option<Hash> {
    scratch.clear();
    scratch.extend_from_slice(hashes);
    while scratch.len() > 1 {
        let half = scratch.len() / 2;
        for at in 0..half {
            let parent = node_hash(scratch.get(2 * at)?, scratch.get(2 * at + 1)?);
            *scratch.get_mut(at)? = parent;
        }
        scratch.truncate(half);
    }
    scratch.first().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_tree_has_the_known_root() {
        assert_eq!(empty_root().to_base64(), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
    }

    #[test]
    fn leaves_have_the_published_hashes() {
        // From the certificate-transparency reference tests: the leaf of the empty entry and of one zero byte.
        assert_eq!(leaf_hash(b"").to_string(), "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d");
        assert_eq!(leaf_hash(&[0]).to_string(), "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7");
    }

    #[test]
    fn long_and_short_entries_are_hashed_alike() {
        for length in [0, 1, 2046, 2047, 2048, 2049, 65_535] {
            let entry = vec![7; length];
            let mut prefixed = vec![0];
            prefixed.extend_from_slice(&entry);
            assert_eq!(leaf_hash(&entry), sha256(&prefixed), "length {length}");
        }
    }

    #[test]
    fn texts_go_round() {
        let hash = leaf_hash(b"entry");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert_eq!(Hash::from_base64(&hash.to_base64()), Ok(hash));
    }

    #[test]
    fn texts_that_are_not_canonical_are_refused() {
        let hash = leaf_hash(b"entry");
        assert_eq!(hash.to_string().to_uppercase().parse::<Hash>(), Err(HashError::Encoding));
        assert_eq!(format!("{hash}0").parse::<Hash>(), Err(HashError::Length));
        assert_eq!(Hash::from_base64(hash.to_base64().trim_end_matches('=')), Err(HashError::Length));
        // 44 characters whose last one carries bits beyond the 256.
        let zero = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        assert_eq!(Hash::from_base64(zero), Ok(Hash::from_bytes([0; 32])));
        assert_eq!(Hash::from_base64(&zero.replace("A=", "B=")), Err(HashError::Encoding));
    }
}
