//! The root key: 32 random bytes, in a file that only we can read, or wrapped by a key in a token. Every other key of this room is derived from it.

#[cfg(feature = "pkcs11")]
pub(crate) mod pkcs11;
pub(crate) mod wrapped;

use std::fs::Metadata;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use aws_lc_rs::{hmac, rand};
use zeroize::Zeroizing;

use crate::record::{RecordKey, tag};
use crate::seal::{SealError, Sealer};

/// Why a key file is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// A directory, a link or a device.
    #[error("the key file is no regular file")]
    NotAFile,
    /// Others may read or write it.
    #[error("the key file has mode {0:04o}: expected 0600, so that only its owner can read it")]
    Mode(u32),
    /// It belongs to another user.
    #[error("the key file belongs to user {owner}, not to user {ours} who runs this")]
    Owner {
        /// Whose it is.
        owner: u32,
        /// Who we are.
        ours: u32,
    },
    /// Not 32 random bytes.
    #[error("the key file does not hold a root key: expected exactly 32 random bytes")]
    Content,
    /// The system's randomness failed.
    #[error("no randomness is available")]
    Random,
}

/// Checks that only we can read a key file. `metadata` is that of the open file, `ours` the id of the user who runs this.
///
/// # Errors
/// `NotAFile`, `Mode` or `Owner`: the file is not to be used then.
pub fn check_key_file(metadata: &Metadata, ours: u32) -> Result<(), KeyFileError> {
    if !metadata.is_file() {
        return Err(KeyFileError::NotAFile);
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o177 != 0 {
        return Err(KeyFileError::Mode(mode));
    }
    if metadata.uid() != ours {
        return Err(KeyFileError::Owner { owner: metadata.uid(), ours });
    }
    Ok(())
}

/// The root key. Wiped when dropped, never shown.
pub struct RootKey(Zeroizing<[u8; 32]>);

impl RootKey {
    /// From the content of a key file, which the caller checked with [`check_key_file`].
    ///
    /// # Errors
    /// `Content` unless it is 32 bytes that can be random.
    pub fn parse(content: &[u8]) -> Result<Self, KeyFileError> {
        let bytes: [u8; 32] = content.try_into().map_err(|_| KeyFileError::Content)?;
        let bytes = Zeroizing::new(bytes);
        // A file of zeros, or of one letter, is a file that was cut off or filled by hand.
        if bytes.iter().all(|b| Some(b) == bytes.first()) {
            return Err(KeyFileError::Content);
        }
        Ok(Self(bytes))
    }

    /// Makes a key. Gives it with the content of its file.
    ///
    /// # Errors
    /// `Random` if the system has none.
    pub fn generate() -> Result<(Self, Zeroizing<Vec<u8>>), KeyFileError> {
        let mut bytes = Zeroizing::new([0; 32]);
        rand::fill(bytes.as_mut_slice()).map_err(|_| KeyFileError::Random)?;
        let content = Zeroizing::new(bytes.to_vec());
        Ok((Self(bytes), content))
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The content of its file.
    #[must_use]
    pub fn content(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.0.to_vec())
    }

    /// Seals and opens under this key.
    ///
    /// # Errors
    /// `Library` if the cryptographic library fails.
    pub fn sealer(&self) -> Result<Sealer, SealError> {
        Sealer::new(&self.derive("seal"), &self.derive("seal-id"))
    }

    /// The key for salted digests in the ledger.
    #[must_use]
    pub fn record_key(&self) -> RecordKey {
        RecordKey::new(&self.derive("record"))
    }

    /// A key for another purpose of the house, such as its state on the wire. Purposes do not reveal each other: HMAC-SHA256 under
    /// a uniformly random key is a pseudo-random function (NIST SP 800-108 section 4).
    #[must_use]
    pub fn derive(&self, purpose: &str) -> Zeroizing<[u8; 32]> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.0.as_slice());
        Zeroizing::new(tag(&key, format!("bailiwick-root/v1/{purpose}").as_bytes()))
    }
}

impl std::fmt::Debug for RootKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RootKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_from_its_file() {
        let (key, content) = RootKey::generate().unwrap();
        let again = RootKey::parse(&content).unwrap();
        assert_eq!(key.record_key().salted(&[1; 32], b"x"), again.record_key().salted(&[1; 32], b"x"));
        assert_ne!(*RootKey::generate().unwrap().1, *content);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for bad in [&[][..], &[0; 32], &[7; 32], &[1; 31], &[1; 33], b"0123456789abcdef0123456789abcdef\n"] {
            assert_eq!(RootKey::parse(bad).err(), Some(KeyFileError::Content), "{bad:?}");
        }
    }

    #[test]
    fn purposes_give_different_keys() {
        let (key, _) = RootKey::generate().unwrap();
        assert_ne!(key.derive("seal"), key.derive("record"));
        assert_ne!(key.derive("seal").as_slice(), key.0.as_slice());
        assert_eq!(format!("{key:?}"), "RootKey(..)");
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let check = |mode: u32, stranger: u32| {
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            let metadata = std::fs::metadata(file.path()).unwrap();
            check_key_file(&metadata, metadata.uid().wrapping_add(stranger))
        };
        assert_eq!((check(0o600, 0), check(0o400, 0)), (Ok(()), Ok(())));
        for mode in [0o644, 0o640, 0o660, 0o602, 0o700, 0o777] {
            assert_eq!(check(mode, 0), Err(KeyFileError::Mode(mode)));
        }
        assert!(matches!(check(0o600, 1), Err(KeyFileError::Owner { .. })));
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(check_key_file(&std::fs::metadata(directory.path()).unwrap(), 0), Err(KeyFileError::NotAFile));
    }
}
