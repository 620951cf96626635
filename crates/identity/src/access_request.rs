//! The binding token of a denial that people may turn into a yes (AuthZEN Access Request and Approval Profile 1.0, draft 1): ours, signed and read.

use std::time::Duration;

use bailiwick_core::{AssertionId, Digest, SpiffeId, Timestamp};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::jws::{self, Compact};
use crate::keys::KeyError;
use crate::proof::ProofError;
use crate::token::{Issuer, Verifier};

/// The type in the header: no other token of ours is taken for one, and the reverse.
const TYP: &str = "bailiwick-access-denial+jwt";

/// Most members of the context that one denial binds.
pub const MEMBERS_MAX: usize = 32;

/// What a denial binds.
#[derive(Clone, Copy, Debug)]
pub struct Denial<'a> {
    /// Where the request for access goes: nobody else takes the token.
    pub audience: &'a str,
    /// The agent that asked, and that alone may submit it.
    pub agent: &'a SpiffeId,
    /// The evaluation, and the token's own id.
    pub evaluation: AssertionId,
    /// The members of the context that count.
    pub members: &'a [&'a str],
    /// SHA-256 of the canonical JSON (RFC 8785) of subject, resource, action and these members.
    pub hash: Digest,
}

impl Denial<'_> {
    /// The signed token, and when it expires: a whole second.
    ///
    /// # Errors
    /// `Library` if the cryptographic library fails.
    pub fn sign(&self, issuer: &Issuer, now: Timestamp, life: Duration) -> Result<(String, Timestamp), KeyError> {
        let expires = Timestamp::from_seconds(now.plus(life).as_seconds());
        //= authzen-access-request-approval-profile-1_0#binding-token-integrity
        // Implementations that issue binding_token as a JWT SHOULD include the following claims [...]: iss, aud, iat, exp, jti,
        // denial_expires_at, binding_context_members, binding_hash, evaluation_id.
        let claims = json!({
            "iss": issuer.url(), "aud": self.audience, "client_id": self.agent, "iat": now.as_seconds(), "exp": expires.as_seconds(),
            "jti": self.evaluation, "evaluation_id": self.evaluation, "denial_expires_at": expires.to_string(),
            "binding_context_members": self.members, "binding_hash": URL_SAFE_NO_PAD.encode(self.hash.as_bytes()),
        });
        Ok((jws::sign(issuer.key(), TYP, &claims)?, expires))
    }
}

/// What a token of ours proves of the denial that it came with. Only [`Verifier::verify_denial`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bound {
    /// The agent that asked.
    pub agent: SpiffeId,
    /// The evaluation.
    pub evaluation: AssertionId,
    /// The members of the context that count.
    pub members: Vec<String>,
    /// SHA-256 of what was asked, as its base64url.
    hash: String,
    /// Until when it may be submitted.
    pub expires: Timestamp,
}

impl Bound {
    /// Is it about exactly this?
    #[must_use]
    pub fn is_about(&self, asked: &Digest) -> bool {
        self.hash == URL_SAFE_NO_PAD.encode(asked.as_bytes())
    }

    /// Has its time come?
    #[must_use]
    pub fn is_over(&self, now: Timestamp) -> bool {
        now >= self.expires
    }
}

impl Verifier {
    /// Reads the binding token of a denial. Whether its time is over is for the caller to say ([`Bound::is_over`]): the profile answers
    /// that in another way than a token that is not ours.
    ///
    /// # Errors
    /// The first rule that the token breaks.
    pub fn verify_denial(&self, token: &str, audience: &str) -> Result<Bound, ProofError> {
        let jws = Compact::parse(token)?;
        let key = self.key_of(&jws, TYP)?;
        jws.verified_by(key)?;
        let claims = &jws.claims;
        if claims.text("iss")? != self.issuer() {
            return Err(ProofError::Issuer);
        }
        //= authzen-access-request-approval-profile-1_0#binding-token-integrity
        // The Access Request Service MUST reject a binding_token JWT that lacks aud or whose aud does not include the Access Request
        // Service's identifier.
        if claims.text("aud")? != audience {
            return Err(ProofError::Audience);
        }
        let evaluation: AssertionId = claims.parsed("evaluation_id")?;
        if claims.text("jti")? != claims.text("evaluation_id")? {
            return Err(ProofError::Claim("jti"));
        }
        let expires = claims.time("exp")?;
        if claims.text("denial_expires_at")? != expires.to_string() {
            return Err(ProofError::Claim("denial_expires_at"));
        }
        let members = claims.member("binding_context_members").and_then(Value::as_array).ok_or(ProofError::Claim("binding_context_members"))?;
        let members: Option<Vec<String>> = members.iter().map(|m| m.as_str().map(str::to_owned)).collect();
        let members = members.filter(|m| m.len() <= MEMBERS_MAX).ok_or(ProofError::Claim("binding_context_members"))?;
        Ok(Bound { agent: claims.parsed("client_id")?, evaluation, members, hash: claims.text("binding_hash")?.to_owned(), expires })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::SigningKey;
    use proptest::prelude::*;

    const URL: &str = "https://gw.example";
    const ENDPOINT: &str = "https://gw.example/access/v1/requests";

    fn issuer(key: SigningKey) -> Issuer {
        Issuer::new(URL.to_owned(), "example.org".parse().unwrap(), key)
    }

    fn parts() -> (Issuer, Verifier) {
        let (key, _) = SigningKey::generate().unwrap();
        let verifier = Verifier::new(URL.to_owned(), "example.org".parse().unwrap(), vec![key.public().clone()]);
        (issuer(key), verifier)
    }

    fn agent() -> SpiffeId {
        "spiffe://example.org/agent/scout".parse().unwrap()
    }

    fn token(issuer: &Issuer, now: Timestamp) -> (String, Timestamp) {
        let agent = agent();
        let denial =
            Denial { audience: ENDPOINT, agent: &agent, evaluation: AssertionId::new(now, [7; 10]), members: &["ip"], hash: Digest::of(b"asked") };
        denial.sign(issuer, now, Duration::from_secs(600)).unwrap()
    }

    #[test]
    fn a_denial_comes_back_as_it_was_signed() {
        let (issuer, verifier) = parts();
        let now = Timestamp::from_millis(1_700_000_000_123);
        let (text, expires) = token(&issuer, now);
        let read = verifier.verify_denial(&text, ENDPOINT).unwrap();
        assert_eq!((&read.agent, read.members.as_slice(), read.expires), (&agent(), ["ip".to_owned()].as_slice(), expires));
        assert!(read.is_about(&Digest::of(b"asked")) && !read.is_about(&Digest::of(b"other")));
        assert!(!read.is_over(now) && read.is_over(expires) && !read.is_over(expires.minus(Duration::from_millis(1))));
    }

    #[test]
    fn no_other_token_of_ours_is_one_and_one_is_no_other() {
        let (issuer, verifier) = parts();
        let now = Timestamp::from_seconds(1_700_000_000);
        let (text, _) = token(&issuer, now);
        assert_eq!(verifier.verify(&text, ENDPOINT, now).unwrap_err(), ProofError::Type);
        assert_eq!(verifier.verify_denial(&text, "https://other.example/requests").unwrap_err(), ProofError::Audience);
        let access = jws::sign(issuer.key(), "at+jwt", &json!({ "iss": URL, "aud": ENDPOINT })).unwrap();
        assert_eq!(verifier.verify_denial(&access, ENDPOINT).unwrap_err(), ProofError::Type);
        let (stranger, _) = SigningKey::generate().unwrap();
        let (forged, _) = token(&Issuer::new(URL.to_owned(), "example.org".parse().unwrap(), stranger), now);
        assert_eq!(verifier.verify_denial(&forged, ENDPOINT).unwrap_err(), ProofError::Key);
        let elsewhere = Verifier::new("https://x.example".to_owned(), "example.org".parse().unwrap(), vec![issuer.public().clone()]);
        assert_eq!(elsewhere.verify_denial(&text, ENDPOINT).unwrap_err(), ProofError::Issuer);
    }

    #[test]
    fn whoever_changes_one_byte_of_it_has_nothing() {
        let (issuer, verifier) = parts();
        let (text, _) = token(&issuer, Timestamp::from_seconds(1_700_000_000));
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            assert!(changed == text || verifier.verify_denial(&changed, ENDPOINT).is_err(), "{at}");
        }
    }

    #[test]
    fn a_token_that_says_its_end_in_two_ways_is_refused() {
        let (issuer, verifier) = parts();
        let whole = json!({
            "iss": URL, "aud": ENDPOINT, "client_id": agent(), "iat": 1, "exp": 100, "jti": AssertionId::new(Timestamp::from_seconds(1), [7; 10]),
            "evaluation_id": AssertionId::new(Timestamp::from_seconds(1), [7; 10]), "denial_expires_at": Timestamp::from_seconds(100).to_string(),
            "binding_context_members": [], "binding_hash": "x",
        });
        let read = |claims: &Value| verifier.verify_denial(&jws::sign(issuer.key(), TYP, claims).unwrap(), ENDPOINT);
        assert!(read(&whole).is_ok());
        for (name, value) in [
            ("denial_expires_at", json!(Timestamp::from_seconds(101).to_string())),
            ("exp", json!(99)),
            ("jti", json!("jti_other")),
            ("binding_context_members", json!("ip")),
            ("binding_context_members", json!([1])),
            ("binding_context_members", json!(vec!["x"; MEMBERS_MAX + 1])),
            ("binding_hash", Value::Null),
            ("aud", Value::Null),
            ("client_id", json!("scout")),
        ] {
            let mut claims = whole.clone();
            claims[name] = value;
            assert!(read(&claims).is_err(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,200}") {
            let (_, verifier) = parts();
            prop_assert!(verifier.verify_denial(&text, ENDPOINT).is_err());
        }
    }
}
