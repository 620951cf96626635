//! One-time enrolment: a machine that has nothing gets a token by hand, and exchanges it once for the registration of a key that it made.
//!
//! The token is a secret until it is used. Who gives it out remembers its digest only, and until when it holds, and that it was used.

use std::time::Duration;

use bailiwick_core::{Digest, Timestamp};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use zeroize::Zeroizing;

use crate::jws::{self, Compact};
use crate::keys::{KeyError, PublicKey, SigningKey};
use crate::proof::ProofError;

/// The longest life of a proof of possession.
pub const LIFE_MAX: Duration = Duration::from_secs(120);
/// How far the machine's clock may differ from ours: one that has nothing yet may not have the time either.
pub const SKEW: Duration = Duration::from_secs(30);

const TYP: &str = "bailiwick-enrolment+jwt";
const PREFIX: &str = "bwe_";
const LIFE: i64 = 60;

/// A one-time token: `bwe_` and 43 characters of base64url. Never shows itself.
#[derive(Clone)]
pub struct EnrolmentToken(Zeroizing<String>);

impl EnrolmentToken {
    /// From 32 random bytes.
    #[must_use]
    pub fn new(random: &[u8; 32]) -> Self {
        let mut text = Zeroizing::new(String::with_capacity(64));
        text.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(random, &mut text);
        Self(text)
    }

    /// Reads one.
    ///
    /// # Errors
    /// `Form` if it is none.
    pub fn parse(text: &str) -> Result<Self, ProofError> {
        const NONE: ProofError = ProofError::Form("not an enrolment token");
        let body = text.strip_prefix(PREFIX).filter(|body| body.len() == 43).ok_or(NONE)?;
        let bytes: Zeroizing<Vec<u8>> = URL_SAFE_NO_PAD.decode(body).map(Zeroizing::new).map_err(|_| NONE)?;
        if bytes.len() == 32 { Ok(Self(Zeroizing::new(text.to_owned()))) } else { Err(NONE) }
    }

    /// The text, for the one who is to use it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What is remembered of it: its SHA-256. Nobody guesses 32 random bytes.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(self.0.as_bytes())
    }
}

impl std::fmt::Debug for EnrolmentToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EnrolmentToken(..)")
    }
}

/// Proves to hold the private half of `key`: for this token, at this broker.
///
/// # Errors
/// `Library` if the cryptographic library fails.
pub fn make(key: &SigningKey, token: &EnrolmentToken, audience: &str, now: Timestamp) -> Result<String, KeyError> {
    let issued = now.as_seconds();
    let claims = json!({ "aud": audience, "enrolment": token.digest(), "iat": issued, "exp": issued.saturating_add(LIFE) });
    jws::sign(key, TYP, &claims)
}

/// Verifies that whoever has the token holds the private half of `key`. `audience` is the issuer's URL.
///
/// # Errors
/// The first rule that the proof breaks; the key is not registered then.
pub fn verify(proof: &str, key: &PublicKey, token: &EnrolmentToken, audience: &str, now: Timestamp) -> Result<(), ProofError> {
    let jws = Compact::parse(proof)?;
    if jws.typ()?.as_deref() != Some(TYP) {
        return Err(ProofError::Type);
    }
    jws.verified_by(key)?;
    let claims = &jws.claims;
    if claims.text("aud")? != audience {
        return Err(ProofError::Audience);
    }
    //= rfc9449#section-11.2
    // A proof is bound to one use: this one to one enrolment, by the digest of its token.
    if claims.parsed::<Digest>("enrolment")? != token.digest() {
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
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
    const US: &str = "https://broker.example";

    fn token() -> EnrolmentToken {
        EnrolmentToken::new(&[7; 32])
    }

    fn judged(typ: &str, more: Value) -> Result<(), ProofError> {
        let (key, _) = SigningKey::generate().unwrap();
        let now = NOW.as_seconds();
        let mut claims = json!({ "aud": US, "enrolment": token().digest(), "iat": now, "exp": now + 60 });
        for (name, value) in more.as_object().unwrap() {
            if value.is_null() {
                claims.as_object_mut().unwrap().remove(name);
            } else {
                claims[name] = value.clone();
            }
        }
        verify(&jws::sign(&key, typ, &claims).unwrap(), key.public(), &token(), US, NOW)
    }

    #[test]
    fn a_token_is_read_as_it_was_made_and_does_not_show_itself() {
        let token = token();
        assert_eq!(EnrolmentToken::parse(token.as_str()).unwrap().digest(), token.digest());
        assert_eq!(format!("{token:?}"), "EnrolmentToken(..)");
        let other = token.as_str().replace("bwe_", "bwx_");
        for bad in
            ["", "bwe_", other.as_str(), &format!("{}A", token.as_str()), &format!("bwe_{}", "=".repeat(43)), &format!("bwe_{}", "B".repeat(43))]
        {
            assert!(EnrolmentToken::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_key_is_proved_for_one_token_at_one_broker() {
        let (key, _) = SigningKey::generate().unwrap();
        let (other, _) = SigningKey::generate().unwrap();
        let proof = make(&key, &token(), US, NOW).unwrap();
        assert_eq!(verify(&proof, key.public(), &token(), US, NOW), Ok(()));
        assert_eq!(verify(&proof, other.public(), &token(), US, NOW), Err(ProofError::Signature));
        assert_eq!(verify(&proof, key.public(), &EnrolmentToken::new(&[8; 32]), US, NOW), Err(ProofError::Request));
        assert_eq!(verify(&proof, key.public(), &token(), "https://other.example", NOW), Err(ProofError::Audience));
    }

    #[test]
    fn every_rule_of_the_proof_has_its_refusal() {
        let now = NOW.as_seconds();
        assert_eq!(judged(TYP, json!({})), Ok(()));
        assert_eq!(judged("jwt", json!({})), Err(ProofError::Type));
        assert_eq!(judged(TYP, json!({ "enrolment": "x" })), Err(ProofError::Claim("enrolment")));
        for missing in ["aud", "enrolment", "iat", "exp"] {
            assert_eq!(
                judged(TYP, json!({ missing: null })),
                Err(ProofError::Claim(match missing {
                    "aud" => "aud",
                    "enrolment" => "enrolment",
                    "iat" => "iat",
                    _ => "exp",
                }))
            );
        }
        assert_eq!(judged(TYP, json!({ "exp": now - 29 })), Ok(()));
        assert_eq!(judged(TYP, json!({ "exp": now - 30 })), Err(ProofError::Expired));
        assert_eq!(judged(TYP, json!({ "iat": now + 30 })), Ok(()));
        assert_eq!(judged(TYP, json!({ "iat": now + 31 })), Err(ProofError::IssuedAt));
        assert_eq!(judged(TYP, json!({ "exp": now + 121 })), Err(ProofError::Lifetime));
    }

    proptest! {
        #[test]
        fn no_text_makes_a_token_or_a_proof_panic(text in "\\PC{0,120}") {
            let (key, _) = SigningKey::generate().unwrap();
            let _ = EnrolmentToken::parse(&text).is_ok();
            prop_assert!(verify(&text, key.public(), &token(), US, NOW).is_err());
        }
    }
}
