//! Proofs of possession (RFC 9449, DPoP): a signature made for one request, by the key that the request's token is bound to. Made and checked.
//!
//! The caller does what needs memory, after `verify` said yes: it refuses a proof whose [`Proved::once`] was seen before (and remembers it
//! until [`Proved::remember_until`]), and it compares [`Proved::key`] with the key that the token is bound to.

mod nonce;
mod target;

use std::time::Duration;

use bailiwick_core::{Digest, Timestamp};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::jws::{self, Compact};
use crate::keys::{KeyError, KeyId, PublicKey, SigningKey};
use crate::proof::ProofError;
use crate::strict::{Object, put};

pub use nonce::Nonces;
pub use target::Target;

/// The authorization scheme of a token that is bound to a key (RFC 9449 section 7.1).
pub const SCHEME: &str = "DPoP";
/// The `typ` of a proof.
const TYP: &str = "dpop+jwt";
/// How old a proof without a nonce may be.
pub const AGE_MAX: Duration = Duration::from_secs(60);
/// How far a client's clock may be ahead of ours, where no nonce of ours says when the proof was made.
pub const AHEAD_MAX: Duration = Duration::from_secs(5);
/// How far a client's clock may be off, in both directions, where a nonce of ours says when the proof was made.
pub const OFF_MAX: Duration = Duration::from_secs(300);
/// The longest `jti` that is looked at, in bytes. Only its hash is remembered.
const JTI_MAX: usize = 256;

/// The request that a proof came with.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The method, in upper case.
    pub method: &'a str,
    /// Under which URL it was made: ours from the configuration, never from the request's own `Host`.
    pub target: &'a Target,
    /// The access token that was presented with it. `None` at the token endpoint.
    pub token: Option<&'a str>,
}

/// What is demanded of proofs beside the letter of the standard.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// Our nonces.
    pub nonces: &'a Nonces,
    /// Must every proof have one?
    pub nonce_required: bool,
    /// From when on it is known which proofs were used. One that was made before may have been used before: it needs a nonce, which tells
    /// that it was made since.
    pub remembered_since: Timestamp,
}

/// What a proof proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Proved {
    /// The key, by its thumbprint: `jkt`.
    pub key: KeyId,
    /// Stands for this proof alone: a hash of its key and its `jti`.
    pub once: Digest,
    /// Until when it would be taken if it were not remembered.
    pub remember_until: Timestamp,
}

/// Verifies a proof: checks 2 to 11 of RFC 9449 section 4.3, and of check 12 that it was made for this token. Check 1, that there is one
/// field, is the caller's, and so is the comparison of keys.
///
/// # Errors
/// `Nonce` if the client is to take a nonce of ours and try again; otherwise the first rule that the proof breaks.
pub fn verify(proof: &str, request: Request<'_>, rules: Rules<'_>, now: Timestamp) -> Result<Proved, ProofError> {
    //= rfc9449#section-4.3
    // 2. The DPoP HTTP request header field value is a single and well-formed JWT.
    let jws = Compact::parse_with_key(proof)?;
    //= rfc9449#section-4.3
    // 4. The typ JOSE Header Parameter has the value dpop+jwt.
    if jws.typ()?.as_deref() != Some(TYP) {
        return Err(ProofError::Type);
    }
    let key = key_of(&jws.header)?;
    //= rfc9449#section-4.3
    // 5. The alg JOSE Header Parameter indicates a registered asymmetric digital signature algorithm, is not none, is supported by the
    // application, and is acceptable per local policy.
    //= rfc9449#section-4.3
    // 6. The JWT signature verifies with the public key contained in the jwk JOSE Header Parameter.
    jws.verified_by(&key)?;
    let claims = &jws.claims;
    //= rfc9449#section-4.3
    // 3. All required claims per Section 4.2 are contained in the JWT.
    let (jti, issued) = (jti(claims)?, claims.time("iat")?);
    //= rfc9449#section-4.3
    // 8. The htm claim matches the HTTP method of the current request.
    if claims.text("htm")? != request.method {
        return Err(ProofError::Request);
    }
    //= rfc9449#section-4.3
    // 9. The htu claim matches the HTTP URI value for the HTTP request in which the JWT was received, ignoring any query and fragment
    // parts.
    if !request.target.is(claims.text("htu")?) {
        return Err(ProofError::Request);
    }
    //= rfc9449#section-4.3
    // 12. If presented to a protected resource in conjunction with an access token: ensure that the value of the ath claim equals the hash
    // of that access token.
    if let Some(token) = request.token
        && claims.text("ath")? != hash(token)
    {
        return Err(ProofError::Claim("ath"));
    }
    let remember_until = check_time(claims, issued, rules, now)?;
    let once = Digest::of(format!("{}\n{jti}", key.id()).as_bytes());
    Ok(Proved { key: key.id(), once, remember_until })
}

fn key_of(header: &Object) -> Result<PublicKey, ProofError> {
    let jwk = header.member("jwk").and_then(Value::as_object).ok_or(ProofError::Header("jwk"))?;
    //= rfc9449#section-4.3
    // 7. The jwk JOSE Header Parameter does not contain a private key.
    PublicKey::from_object(&Object::from(jwk.clone())).map_err(|_| ProofError::Header("jwk"))
}

fn jti(claims: &Object) -> Result<&str, ProofError> {
    //= rfc9449#section-11.1
    // In order to guard against memory exhaustion attacks, a server that is tracking jti values should reject DPoP proof JWTs with
    // unnecessarily large jti values or store only a hash thereof.
    let jti = claims.text("jti")?;
    if (1..=JTI_MAX).contains(&jti.len()) { Ok(jti) } else { Err(ProofError::Claim("jti")) }
}

/// Until when the proof would be taken, if it is taken now.
fn check_time(claims: &Object, issued: Timestamp, rules: Rules<'_>, now: Timestamp) -> Result<Timestamp, ProofError> {
    if let Some(nonce) = claims.text_if("nonce")? {
        //= rfc9449#section-8
        // If the nonce claim in the DPoP proof does not exactly match a nonce recently supplied by the authorization server to the client,
        // the authorization server MUST reject the request.
        let until = rules.nonces.accepted_until(nonce, now).ok_or(ProofError::Nonce)?;
        // The nonce says when it was made. A clock that is off by more than this is no clock.
        if issued > now.plus(OFF_MAX) || now > issued.plus(OFF_MAX) {
            return Err(ProofError::IssuedAt);
        }
        return Ok(until);
    }
    //= rfc9449#section-4.3
    // 10. If the server provided a nonce value to the client, the nonce claim matches the server-provided nonce value.
    //= rfc9449#section-4.3
    // 11. The creation time of the JWT, as determined by either the iat claim or a server managed timestamp via the nonce claim, is within
    // an acceptable window (see Section 11.1). Whose clock is off is given a nonce, and comes in with that.
    let fresh = issued <= now.plus(AHEAD_MAX) && now < issued.plus(AGE_MAX);
    if rules.nonce_required || !fresh || issued < rules.remembered_since {
        return Err(ProofError::Nonce);
    }
    Ok(issued.plus(AGE_MAX))
}

/// The `ath` of a token.
fn hash(token: &str) -> String {
    //= rfc9449#section-4.2
    // The value MUST be the result of a base64url encoding the SHA-256 hash of the ASCII encoding of the associated access token's value.
    URL_SAFE_NO_PAD.encode(Digest::of(token.as_bytes()).as_bytes())
}

/// What our own clients say in a proof.
#[derive(Clone, Copy, Debug)]
pub struct Statement<'a> {
    /// The method, in upper case.
    pub method: &'a str,
    /// The URL of the request, without query and fragment.
    pub uri: &'a str,
    /// The access token that goes with it.
    pub token: Option<&'a str>,
    /// The nonce that the server gave last.
    pub nonce: Option<&'a str>,
    /// A fresh id, of at least 96 random bits.
    pub jti: &'a str,
}

/// Makes a proof for one request.
///
/// # Errors
/// `Library` if the cryptographic library fails.
pub fn make(key: &SigningKey, what: &Statement<'_>, now: Timestamp) -> Result<String, KeyError> {
    let mut claims = json!({ "jti": what.jti, "htm": what.method, "htu": what.uri, "iat": now.as_seconds() });
    if let Some(token) = what.token {
        put(&mut claims, "ath", json!(hash(token)));
    }
    if let Some(nonce) = what.nonce {
        put(&mut claims, "nonce", json!(nonce));
    }
    jws::sign_with_key(key, TYP, &claims)
}

#[cfg(test)]
mod tests;
