//! How a person proves who asks, request by request, and signs a decision on a held call, with an Ed25519 key of his or her own.
//!
//! The caller refuses a `jti` that was seen before (remember it until [`Asked::remember_until`]).

use std::time::Duration;

use bailiwick_core::{AssertionId, Digest, HoldId, PersonName, Timestamp};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use crate::jws::{self, Compact};
use crate::keys::{KeyError, KeyId, PublicKey, SigningKey};
use crate::proof::ProofError;

/// The authorization scheme: `Authorization: Bailiwick-Person <proof>`.
pub const SCHEME: &str = "Bailiwick-Person";
/// The longest life of a proof.
pub const LIFE_MAX: Duration = Duration::from_secs(120);
/// How far the person's clock may differ from ours.
pub const SKEW: Duration = Duration::from_secs(5);

const TYP: &str = "bailiwick-person+jwt";
const LIFE: i64 = 60;

/// The request that a proof is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// The method, in upper case.
    pub method: &'a str,
    /// Path and query exactly as they are sent, beginning with `/`.
    pub target: &'a str,
}

/// What a proof proved.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Asked {
    /// Who asks.
    pub person: PersonName,
    /// With which key.
    pub key: KeyId,
    /// The proof's own id: to be refused when seen again from this key.
    pub jti: String,
    /// When it expires.
    pub expires: Timestamp,
}

impl Asked {
    /// Until when the `jti` must be remembered.
    #[must_use]
    pub fn remember_until(&self) -> Timestamp {
        self.expires.plus(SKEW)
    }
}

/// Makes a proof for one request to `api`, the URL of the operator API. It lives for a minute.
///
/// # Errors
/// `Library` if the cryptographic library fails.
pub fn make(key: &SigningKey, person: &PersonName, api: &str, request: Request<'_>, jti: AssertionId, now: Timestamp) -> Result<String, KeyError> {
    let issued = now.as_seconds();
    let claims = json!({
        "sub": person, "aud": api, "iat": issued, "exp": issued.saturating_add(LIFE), "jti": jti,
        "htm": request.method, "htu": request.target,
    });
    jws::sign(key, TYP, &claims)
}

/// Verifies a proof. `lookup` finds the person who holds a key.
///
/// # Errors
/// The first rule that the proof breaks; nobody is authenticated then.
pub fn verify(
    proof: &str,
    lookup: impl FnOnce(&KeyId) -> Option<(PersonName, PublicKey)>,
    api: &str,
    request: Request<'_>,
    now: Timestamp,
) -> Result<Asked, ProofError> {
    let jws = Compact::parse(proof)?;
    if jws.algorithm()? != "EdDSA" {
        return Err(ProofError::Algorithm);
    }
    if jws.typ()?.as_deref() != Some(TYP) {
        return Err(ProofError::Type);
    }
    let kid: KeyId = jws.header.parsed("kid").map_err(|_| ProofError::Key)?;
    let (person, key) = lookup(&kid).filter(|(_, key)| key.id() == kid).ok_or(ProofError::Key)?;
    jws.verified_by(&key)?;
    let claims = &jws.claims;
    if claims.text("sub")? != person.as_str() {
        return Err(ProofError::Claim("sub"));
    }
    if claims.text("aud")? != api {
        return Err(ProofError::Audience);
    }
    //= rfc9449#section-4.3
    // The names of `htm` and `htu` are DPoP's. Here `htu` is the path with its query, so that a proof for one query is none for
    // another.
    if claims.text("htm")? != request.method || claims.text("htu")? != request.target {
        return Err(ProofError::Request);
    }
    let (issued, expires) = (claims.time("iat")?, claims.time("exp")?);
    if now >= expires.plus(SKEW) {
        return Err(ProofError::Expired);
    }
    if issued > now.plus(SKEW) {
        return Err(ProofError::IssuedAt);
    }
    if issued.until(expires) > LIFE_MAX {
        return Err(ProofError::Lifetime);
    }
    Ok(Asked { person, key: kid, jti: crate::assertion::jti(claims)?.to_owned(), expires })
}

/// A person's decision on a held call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Yes.
    Approve,
    /// No.
    Refuse,
}

/// What a person signs to decide a held call: this call, these words that were shown, yes or no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The held call.
    pub hold: HoldId,
    /// The digest that an approval is bound to.
    pub digest: Digest,
    /// SHA-256 of the words that the person saw.
    pub seen: Digest,
    /// Yes or no.
    pub word: Word,
}

impl Verdict {
    /// The exact text that is signed. Every part has a fixed form without line breaks, so that no two verdicts share a text.
    #[must_use]
    pub fn message(&self) -> String {
        let word = match self.word {
            Word::Approve => "approve",
            Word::Refuse => "refuse",
        };
        format!("bailiwick-approval/v1\n{}\n{}\n{}\n{word}\n", self.hold, self.digest, self.seen)
    }

    /// Signs. Gives the signature in base64url.
    ///
    /// # Errors
    /// `Library` if the cryptographic library fails.
    pub fn sign(&self, key: &SigningKey) -> Result<String, KeyError> {
        Ok(URL_SAFE_NO_PAD.encode(key.sign(self.message().as_bytes())?))
    }

    /// Verifies a signature of this very verdict.
    ///
    /// # Errors
    /// `Form`, `Algorithm` if the key is no Ed25519 key, or `Signature`.
    pub fn verify(&self, key: &PublicKey, signature: &str) -> Result<(), ProofError> {
        let bytes: [u8; 64] = match URL_SAFE_NO_PAD.decode(signature).map(TryInto::try_into) {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(_)) | Err(_) => return Err(ProofError::Form("not a signature in base64url")),
        };
        key.verify("EdDSA", self.message().as_bytes(), &bytes)
    }
}

#[cfg(test)]
mod tests;
