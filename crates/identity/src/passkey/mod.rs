//! Passkeys (Web Authentication, Level 2 and 3): what a browser's authenticator made is read and verified. No I/O, no memory.
//!
//! The caller remembers each [`Passkey`] with its counter, makes challenges that nobody can guess, and uses each once. No
//! attestation is asked for and none is believed: which make of authenticator a key is in is not known, only that the same
//! one is there again.

mod assertion;
mod authenticator;
mod cbor;
mod client;
mod key;
mod registration;
#[cfg(test)]
pub(crate) mod tests;
mod verdict;

use bailiwick_core::Digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

pub use assertion::{Assertion, Used, verify};
pub use registration::{Registered, register};
pub use verdict::{Signed, VerdictChallenge};

use crate::keys::PublicKey;

/// The algorithms that are asked for, in order of preference (COSE numbers): EdDSA, ES256, RS256.
pub const ALGORITHMS: [i64; 3] = [-8, -7, -257];
/// The longest id of a credential (WebAuthn section 4).
pub const ID_MAX: usize = 1023;
/// The longest piece that a browser hands over, in bytes.
pub const PIECE_MAX: usize = 16 * 1024;

/// Why what a browser handed over is refused. For the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PasskeyError {
    /// It is longer than any that we take.
    #[error("it is longer than any that is taken")]
    TooLong,
    /// It is not of its form.
    #[error("it is malformed: {0}")]
    Form(&'static str),
    /// It was made for the other ceremony.
    #[error("it was made for another ceremony")]
    Type,
    /// Another challenge.
    #[error("it answers another challenge")]
    Challenge,
    /// It was made on a page of another site.
    #[error("it was made for another origin")]
    Origin,
    /// It was made inside a frame of another site.
    #[error("it was made in a frame of another site")]
    Framed,
    /// The authenticator made it for another site.
    #[error("it was made for another site")]
    RelyingParty,
    /// Nobody was there.
    #[error("nobody touched the authenticator")]
    NotPresent,
    /// The authenticator did not check who is there.
    #[error("the authenticator did not verify its user")]
    NotVerified,
    /// Its flags contradict each other, or what was known.
    #[error("its flags contradict each other, or what is known")]
    Flags,
    /// The key or its algorithm is none that was asked for.
    #[error("its key or algorithm is none that was asked for")]
    Key,
    /// Another credential than the one that it was looked up by.
    #[error("it is another credential")]
    Credential,
    /// It is of another user.
    #[error("it is of another user")]
    User,
    /// The signature is wrong.
    #[error("the signature is wrong")]
    Signature,
    /// Its counter did not rise: there may be a copy of the authenticator.
    #[error("its counter did not rise: there may be a copy of it")]
    Counter,
}

/// The site for which passkeys are made: one broker under its public URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// The host name: the id of the relying party.
    pub id: String,
    /// The origins of our own pages, exactly, such as `https://broker.example.org`.
    pub origins: Vec<String>,
}

/// A registered passkey.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passkey {
    /// The credential's id.
    pub id: Vec<u8>,
    /// Its public key, for one algorithm.
    pub key: PublicKey,
    /// The counter that was seen last; zero if the authenticator has none.
    pub counter: u32,
    /// May it be copied to other devices of its user (`BE`)? Never changes.
    pub can_be_copied: bool,
}

impl Passkey {
    /// Its id in base64url.
    #[must_use]
    pub fn name(&self) -> String {
        URL_SAFE_NO_PAD.encode(&self.id)
    }
}

/// 32 bytes that an authenticator signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Challenge(Digest);

impl Challenge {
    /// The challenge that stands for a text that cannot be guessed.
    #[must_use]
    pub fn of(text: &str) -> Self {
        Self(Digest::bind("bailiwick-passkey-challenge/v1", &[text.as_bytes()]))
    }

    /// In base64url, as it stands in the client data.
    #[must_use]
    pub fn encoded(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0.as_bytes())
    }
}

/// Bytes that a browser hands over in base64url without padding.
///
/// # Errors
/// `TooLong` or `Form`.
pub fn decode(text: &str) -> Result<Vec<u8>, PasskeyError> {
    if text.len() > PIECE_MAX * 4 / 3 {
        return Err(PasskeyError::TooLong);
    }
    URL_SAFE_NO_PAD.decode(text).map_err(|_| PasskeyError::Form("not base64url"))
}
