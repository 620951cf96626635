//! A secret: a value that cannot be shown, copied or written down by accident, and is wiped when it is dropped.

use std::fmt;

use zeroize::Zeroizing;

/// A secret. It has no way to text: injecting and sealing are the only things that can be done with it.
///
/// It cannot be printed, cloned, compared or serialised:
///
/// ```compile_fail
/// let secret = bailiwick_credentials::Secret::from("hunter2".to_owned());
/// println!("{secret}");
/// ```
/// ```compile_fail
/// let secret = bailiwick_credentials::Secret::from("hunter2".to_owned());
/// let copy = secret.clone();
/// ```
/// ```compile_fail
/// let secret = bailiwick_credentials::Secret::from("hunter2".to_owned());
/// let bytes = secret.expose();
/// ```
/// Its debug form says nothing:
///
/// ```
/// let secret = bailiwick_credentials::Secret::from("hunter2".to_owned());
/// assert_eq!(format!("{secret:?}"), "Secret(..)");
/// ```
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    pub(crate) fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Is there nothing in it?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Vec<u8>> for Secret {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self::from(text.into_bytes())
    }
}

impl From<Zeroizing<Vec<u8>>> for Secret {
    fn from(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}
