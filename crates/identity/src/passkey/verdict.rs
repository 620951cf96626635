//! A decision on a held call, signed with a passkey: the assertion is the signature of this very decision, and stays on record.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::assertion::{self, Assertion};
use super::client::CLIENT_DATA_MAX;
use super::{Challenge, ID_MAX, Passkey, PasskeyError, Site, decode};
use crate::person::Verdict;

/// What an authenticator signs for a decision: this call, these words that were shown, yes or no, at this showing of the page.
#[derive(Clone, Copy, Debug)]
pub struct VerdictChallenge<'a> {
    /// The decision.
    pub verdict: Verdict,
    /// A text of the broker that was never used before and nobody can guess: 1 to 512 characters of base64url. It goes on record.
    pub nonce: &'a str,
}

impl VerdictChallenge<'_> {
    /// The challenge: a hash over the text that a key would sign, and the nonce.
    #[must_use]
    pub fn challenge(&self) -> Challenge {
        Challenge::of(&format!("{}{}\n", self.verdict.message(), self.nonce))
    }
}

/// A decision as it was signed: all that is needed to verify it with the passkey's public key.
///
/// Its text form, which stands in the `signature` of an approval whose `proof` is `passkey`: `v1`, credential id, authenticator data,
/// client data, signature and nonce, with dots in between, all but the first and the last in base64url.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// What the authenticator gave.
    pub assertion: Assertion,
    /// The nonce of the challenge.
    pub nonce: String,
}

impl Signed {
    /// Reads the text form.
    ///
    /// # Errors
    /// `Form` or `TooLong`.
    pub fn parse(text: &str) -> Result<Self, PasskeyError> {
        const FORM: PasskeyError = PasskeyError::Form("not a signed decision");
        let mut parts = text.split('.');
        let mut next = || parts.next().ok_or(FORM);
        if next()? != "v1" {
            return Err(FORM);
        }
        let (id, authenticator_data, client_data, signature) = (decode(next()?)?, decode(next()?)?, decode(next()?)?, decode(next()?)?);
        let nonce = next()?.to_owned();
        let fits = id.len() <= ID_MAX && client_data.len() <= CLIENT_DATA_MAX && (1..=512).contains(&nonce.len());
        if parts.next().is_some() || !fits || !nonce.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
            return Err(FORM);
        }
        Ok(Self { assertion: Assertion { id, authenticator_data, client_data, signature, user_handle: None }, nonce })
    }

    /// Was exactly this decision signed with this passkey, on a page of this site, by a user whom the authenticator verified? It
    /// needs no memory: whoever has the ledger and the public key can ask it.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn verify(&self, verdict: Verdict, passkey: &Passkey, site: &Site) -> Result<(), PasskeyError> {
        if self.assertion.id != passkey.id {
            return Err(PasskeyError::Credential);
        }
        let challenge = VerdictChallenge { verdict, nonce: &self.nonce }.challenge();
        assertion::verify_signature(&self.assertion, passkey, &challenge, site).map(drop)
    }
}

impl std::fmt::Display for Signed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let a = &self.assertion;
        write!(f, "v1.{}.{}.{}.{}.{}", text(&a.id), text(&a.authenticator_data), text(&a.client_data), text(&a.signature), self.nonce)
    }
}
