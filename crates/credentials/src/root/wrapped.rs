//! A root key at rest under another key, which never leaves its token: what is kept of it, and what a token must be able to do.
//!
//! It protects the root key where it rests: whoever has the disk, or a copy of the data directory, has nothing without the token and its PIN. It does
//! not protect it in the memory of the running broker (ADR 0015).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::RootKey;
use crate::seal::RootId;

const VERSION: u32 = 1;
const NONCE: usize = 12;
const WRAPPED: usize = 32 + 16;

/// Why a token does not give a root key, or does not take one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WrapError {
    /// This program was built without PKCS#11.
    #[error("this build cannot use PKCS#11 tokens")]
    Unsupported,
    /// The token's library cannot be loaded or started.
    #[error("the PKCS#11 module `{0}` cannot be used: {1}")]
    Module(String, String),
    /// No token of that label is there.
    #[error("the token `{label}` is not there; the module shows {found}")]
    NoToken {
        /// The label that was looked for.
        label: String,
        /// The labels that are there.
        found: String,
    },
    /// Two tokens or two keys have the label.
    #[error("the label `{0}` is there twice")]
    Twice(String),
    /// The PIN is wrong.
    #[error("the token `{0}` refuses the PIN")]
    Pin(String),
    /// The PIN is locked, or must be changed first.
    #[error("the PIN of the token `{0}` is locked, expired or not set")]
    PinLocked(String),
    /// No secret key of that label is in the token.
    #[error("the token has no secret key `{0}`")]
    NoKey(String),
    /// A key of that label is there already.
    #[error("the token has a key `{0}` already")]
    Taken(String),
    /// The key could leave its token, or is none of AES with 256 bits that encrypts and decrypts.
    #[error("the key `{0}` in the token is {1}")]
    Weak(String, &'static str),
    /// The token said no.
    #[error("the token refused: {0}")]
    Refused(String),
    /// What is kept is no wrapped root key, was changed, or belongs to another key.
    #[error("the wrapped root key was changed, or belongs to another key of the token")]
    Content,
    /// The system's randomness failed.
    #[error("no randomness is available")]
    Random,
}

impl WrapError {
    /// What to do about it.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Unsupported => "build it with the feature `pkcs11`, which is on by default",
            Self::Module(..) => "`sealing.pkcs11.module` is the path of the token's own library, such as libsofthsm2.so, readable by the broker",
            Self::NoToken { .. } => "plug the token in, start its service, or correct `sealing.pkcs11.token`",
            Self::Twice(_) => "give one of them another label",
            Self::Pin(_) => "correct the PIN file before the next start: it was tried once, and many tokens lock after a few wrong PINs",
            Self::PinLocked(_) => "unlock or set the PIN with the token's own tools",
            Self::NoKey(_) => "make it with the token's own tools, or correct `sealing.pkcs11.key`; see docs/guides/sealing.md",
            Self::Taken(_) => "choose another `sealing.pkcs11.key`, or use the one that is there",
            Self::Weak(..) => "make an AES-256 key that is sensitive, not extractable, and encrypts and decrypts; see docs/guides/sealing.md",
            Self::Refused(_) => "see the token's own log",
            Self::Content => "put the file of the root key back from a backup; without it nothing that is sealed opens",
            Self::Random => "",
        }
    }
}

/// A key that never leaves its token, and encrypts and decrypts there: AES-256-GCM, with this nonce and associated data, the tag at the end.
pub trait RootWrap: Send + Sync + std::fmt::Debug {
    /// The labels of the token and of the key, as they are kept beside what is wrapped.
    fn labels(&self) -> (&str, &str);

    /// Encrypts in the token.
    ///
    /// # Errors
    /// What the token said.
    fn encrypt(&self, nonce: &[u8; 12], aad: &[u8], plain: &[u8]) -> Result<Vec<u8>, WrapError>;

    /// Decrypts in the token.
    ///
    /// # Errors
    /// `Content` if it does not open, or what the token said.
    fn decrypt(&self, nonce: &[u8; 12], aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, WrapError>;
}

/// A root key wrapped by a token's key: not secret.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrappedRoot {
    version: u32,
    /// The root key's name, which is also in everything that it sealed.
    id: String,
    /// The token's label.
    pub token: String,
    /// The key's label.
    pub key: String,
    nonce: String,
    wrapped: String,
}

impl WrappedRoot {
    /// Which root key it is.
    ///
    /// # Errors
    /// `Content` if it does not say.
    pub fn id(&self) -> Result<RootId, WrapError> {
        self.id.parse().map_err(|_| WrapError::Content)
    }
}

impl RootKey {
    /// Wraps this key.
    ///
    /// # Errors
    /// What the token said.
    pub fn wrap(&self, with: &dyn RootWrap) -> Result<WrappedRoot, WrapError> {
        let mut nonce = [0; NONCE];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| WrapError::Random)?;
        let (token, key) = with.labels();
        let wrapped = with.encrypt(&nonce, &aad(self.id(), token, key), self.bytes())?;
        if wrapped.len() != WRAPPED {
            return Err(WrapError::Refused("what it encrypted has not the length of AES-GCM".to_owned()));
        }
        let root = WrappedRoot {
            version: VERSION,
            id: self.id().to_string(),
            token: token.to_owned(),
            key: key.to_owned(),
            nonce: STANDARD.encode(nonce),
            wrapped: STANDARD.encode(wrapped),
        };
        // A token that cannot open what it wrapped is found out now, and not at the next start.
        let again = Self::unwrap(&root, with)?;
        if again.id() == self.id() { Ok(root) } else { Err(WrapError::Content) }
    }

    /// Opens a wrapped root key.
    ///
    /// # Errors
    /// `Content`, or what the token said.
    pub fn unwrap(root: &WrappedRoot, with: &dyn RootWrap) -> Result<Self, WrapError> {
        let nonce: [u8; NONCE] = decoded(&root.nonce)?.try_into().map_err(|_| WrapError::Content)?;
        let wrapped = decoded(&root.wrapped)?;
        if root.version != VERSION || wrapped.len() != WRAPPED || with.labels() != (root.token.as_str(), root.key.as_str()) {
            return Err(WrapError::Content);
        }
        let id = root.id()?;
        let plain = with.decrypt(&nonce, &aad(id, &root.token, &root.key), &wrapped)?;
        let key = Self::parse(&plain).map_err(|_| WrapError::Content)?;
        if key.id() == id { Ok(key) } else { Err(WrapError::Content) }
    }
}

fn decoded(text: &str) -> Result<Vec<u8>, WrapError> {
    if text.len() > 200 {
        return Err(WrapError::Content);
    }
    STANDARD.decode(text).map_err(|_| WrapError::Content)
}

fn aad(id: RootId, token: &str, key: &str) -> Vec<u8> {
    [b"bailiwick-root/wrapped/v1\0".as_slice(), id.as_bytes(), token.as_bytes(), b"\0", key.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

    #[derive(Debug)]
    struct Software {
        key: [u8; 32],
        token: &'static str,
    }

    impl Software {
        fn cipher(&self) -> LessSafeKey {
            LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &self.key).unwrap())
        }
    }

    impl RootWrap for Software {
        fn labels(&self) -> (&str, &str) {
            (self.token, "root")
        }

        fn encrypt(&self, nonce: &[u8; 12], aad: &[u8], plain: &[u8]) -> Result<Vec<u8>, WrapError> {
            let mut out = plain.to_vec();
            self.cipher().seal_in_place_append_tag(Nonce::assume_unique_for_key(*nonce), Aad::from(aad), &mut out).unwrap();
            Ok(out)
        }

        fn decrypt(&self, nonce: &[u8; 12], aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, WrapError> {
            let mut buffer = sealed.to_vec();
            let opened = self.cipher().open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(aad), &mut buffer);
            Ok(Zeroizing::new(opened.map_err(|_| WrapError::Content)?.to_vec()))
        }
    }

    #[test]
    fn a_wrapped_root_key_opens_with_its_own_key_and_with_no_other() {
        let token = Software { key: [7; 32], token: "one" };
        let (root, bytes) = RootKey::generate().unwrap();
        let wrapped = root.wrap(&token).unwrap();
        assert_eq!(RootKey::unwrap(&wrapped, &token).unwrap().id(), root.id());
        assert_eq!(wrapped.id(), Ok(root.id()));
        let text = serde_json::to_string(&wrapped).unwrap();
        assert!(!text.contains(&STANDARD.encode(&bytes)));
        assert_eq!(serde_json::from_str::<WrappedRoot>(&text).unwrap(), wrapped);

        let content = Some(WrapError::Content);
        assert_eq!(RootKey::unwrap(&wrapped, &Software { key: [8; 32], token: "one" }).err(), content);
        assert_eq!(RootKey::unwrap(&wrapped, &Software { key: [7; 32], token: "two" }).err(), content);
        let another = RootKey::generate().unwrap().0.wrap(&token).unwrap();
        for changed in [
            WrappedRoot { id: another.id.clone(), ..wrapped.clone() },
            WrappedRoot { nonce: another.nonce.clone(), ..wrapped.clone() },
            WrappedRoot { wrapped: another.wrapped.clone(), ..wrapped.clone() },
            WrappedRoot { wrapped: "AAAA".to_owned(), ..wrapped.clone() },
            WrappedRoot { nonce: "A".repeat(1000), ..wrapped.clone() },
            WrappedRoot { version: 2, ..wrapped.clone() },
            WrappedRoot { key: "other".to_owned(), ..wrapped.clone() },
        ] {
            assert_eq!(RootKey::unwrap(&changed, &token).err(), content, "{changed:?}");
        }
    }
}
