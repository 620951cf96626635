//! JWTs that others signed: JWT-SVIDs, OpenID Connect workload tokens, ID-JAGs. Verified by the key set of one configured issuer.
//!
//! The issuer is chosen by the caller from its own configuration: what a token says of its issuer ([`Claimed`]) is only the word by
//! which it is looked up there, and the keys, the audiences and the rules are then that issuer's. Nothing that a token names is fetched.

mod key_set;
mod mapping;

pub mod id_jag;
pub mod jwt_svid;
pub mod oidc;

use std::time::Duration;

use bailiwick_core::{Digest, InstanceId, Timestamp};
use serde_json::Value;

use crate::assertion::SKEW;
use crate::confirmation::Confirmation;
use crate::jws::Compact;
use crate::keys::{Algorithm, KeyId};
use crate::proof::ProofError;
use crate::strict::Object;

pub use key_set::{KEY_SET_BYTES_MAX, KeySet, RSA_BITS_MAX};
pub use mapping::{ClaimPath, Mapping, MappingError, Pattern, Wanted};

/// The longest issuer, subject or identifier that is read from a token, in bytes.
const NAME_MAX: usize = 2048;
/// The most audiences that are looked at.
const AUDIENCES_MAX: usize = 8;

/// What a configured issuer demands of its tokens.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// The issuer's identifier: the exact value of `iss`. For a SPIFFE issuer, its trust domain as `spiffe://<name>`.
    pub issuer: &'a str,
    /// Under which names we are known to it. Empty refuses everything.
    pub audiences: &'a [String],
    /// How old a token may be, and how long it may still live where its profile bounds that.
    pub age_max: Duration,
}

/// What a token says of itself, not proved: to look its issuer up, and for nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The type in its header, in lower case and without `application/`.
    pub typ: Option<String>,
    /// `iss`.
    pub issuer: Option<String>,
    /// `sub`.
    pub subject: Option<String>,
}

impl Claimed {
    /// Reads what a token says of itself.
    ///
    /// # Errors
    /// If it is no JWT, too long, or has what we refuse in any JWT.
    pub fn read(token: &str) -> Result<Self, ProofError> {
        let jws = Compact::parse(token)?;
        let text = |name: &'static str| jws.claims.text_if(name).map(|t| t.map(str::to_owned));
        Ok(Self { typ: jws.typ()?, issuer: text("iss")?, subject: text("sub")? })
    }
}

/// The claims of a token whose signature was verified.
pub struct Claims(Object);

impl Claims {
    /// Does the token have each claim as the mapping wants it?
    #[must_use]
    pub fn fit(&self, mapping: &Mapping) -> bool {
        mapping.fits(|path| self.at(path))
    }

    /// The text at a path, if there is one of at most 2,048 bytes.
    #[must_use]
    pub fn text(&self, path: &ClaimPath) -> Option<&str> {
        self.at(path)?.as_str().filter(|text| (1..=NAME_MAX).contains(&text.len()))
    }

    /// The text or the whole number at a path, as text: what tells one running copy from another.
    #[must_use]
    pub fn word(&self, path: &ClaimPath) -> Option<String> {
        match self.at(path)? {
            Value::String(text) => Some(text.clone()).filter(|text| (1..=NAME_MAX).contains(&text.len())),
            Value::Number(number) if number.is_u64() => Some(number.to_string()),
            _ => None,
        }
    }

    /// All of them, as they stand there.
    #[must_use]
    pub fn into_json(self) -> serde_json::Map<String, Value> {
        self.0.into()
    }

    fn at(&self, path: &ClaimPath) -> Option<&Value> {
        let (first, rest) = path.steps().split_first()?;
        rest.iter().try_fold(self.0.member(first)?, |value, step| value.as_object()?.get(step))
    }
}

/// Shows no value: a token's claims can name people.
impl std::fmt::Debug for Claims {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.names()).finish()
    }
}

/// The running copy of a workload, told by a claim that is its own (a pod's uid, a job's id). The same claim of the same subject of the
/// same issuer is always the same copy.
#[must_use]
pub fn instance(issuer: &str, subject: &str, copy: &str) -> InstanceId {
    let digest = Digest::bind("bailiwick/foreign-instance/v1", &[issuer.as_bytes(), subject.as_bytes(), copy.as_bytes()]);
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(digest.as_bytes()).for_each(|(to, from)| *to = *from);
    InstanceId::from_bytes(bytes)
}

/// A token whose signature is right: by which key, and what it says.
struct Signed {
    typ: Option<String>,
    claims: Object,
    key: KeyId,
}

/// Verifies a token's signature with a key of the set.
fn signed(jws: Compact<'_>, keys: &KeySet, algorithms: &[Algorithm]) -> Result<Signed, ProofError> {
    //= rfc7523#section-3
    // The JWT MUST be digitally signed or have a Message Authentication Code (MAC) applied by the issuer. The authorization server MUST
    // reject JWTs with an invalid signature or MAC. We take signatures by the issuer's own keys only.
    let key = keys.signer_of(&jws, algorithms)?.id();
    Ok(Signed { typ: jws.typ()?, claims: jws.claims, key })
}

//= rfc7523#section-3
// The JWT MUST contain an "iss" (issuer) claim that contains a unique identifier for the entity that issued the JWT. [...] compliant
// applications MUST compare issuer values using the Simple String Comparison method.
fn check_issuer(claims: &Object, expected: &str) -> Result<(), ProofError> {
    if claims.text("iss")? == expected { Ok(()) } else { Err(ProofError::Issuer) }
}

/// The `aud` is one of our names, or several of them and nobody else's.
fn check_audience(claims: &Object, ours: &[String]) -> Result<(), ProofError> {
    crate::assertion::check_audience(claims, ours, AUDIENCES_MAX)
}

/// The `exp`, which has not passed.
fn expires(claims: &Object, now: Timestamp) -> Result<Timestamp, ProofError> {
    //= rfc7523#section-3
    // The JWT MUST contain an "exp" (expiration time) claim that limits the time window during which the JWT can be used. The
    // authorization server MUST reject any JWT with an expiration time that has passed, subject to allowable clock skew.
    let expires = claims.time("exp")?;
    if now >= expires.plus(crate::token::SKEW) { Err(ProofError::Expired) } else { Ok(expires) }
}

/// `nbf` and `iat`, where they are given. Gives `iat`.
fn begun(claims: &Object, age_max: Duration, now: Timestamp) -> Result<Option<Timestamp>, ProofError> {
    //= rfc7523#section-3
    // The JWT MAY contain an "nbf" (not before) claim that identifies the time before which the token MUST NOT be accepted for
    // processing.
    if claims.time_if("nbf")?.is_some_and(|nbf| nbf > now.plus(SKEW)) {
        return Err(ProofError::NotYet);
    }
    //= rfc7523#section-3
    // The JWT MAY contain an "iat" (issued at) claim [...] may reject JWTs with an "iat" claim value that is unreasonably far in the
    // past.
    let issued = claims.time_if("iat")?;
    let plausible = |iat: Timestamp| iat <= now.plus(SKEW) && iat >= now.minus(age_max).minus(SKEW);
    if issued.is_some_and(|iat| !plausible(iat)) {
        return Err(ProofError::IssuedAt);
    }
    Ok(issued)
}

//= rfc7523#section-3
// The JWT MUST contain a "sub" (subject) claim identifying the principal that is the subject of the JWT.
fn subject(claims: &Object) -> Result<&str, ProofError> {
    let subject = claims.text("sub")?;
    let plain = !subject.is_empty() && subject.len() <= NAME_MAX && !subject.chars().any(char::is_control);
    if plain { Ok(subject) } else { Err(ProofError::Claim("sub")) }
}

/// The key that the token is bound to, if it is: whoever presents it has to prove that one too.
fn confirmation(claims: &Object) -> Result<Option<Confirmation>, ProofError> {
    //= rfc7800#section-3.1
    // A recipient might not understand the confirmation method. We take those of RFC 9449 and RFC 8705 and refuse a token with another:
    // it was not meant to be used by whoever has it.
    claims.member("cnf").map(Confirmation::of_claim).transpose()
}

/// The token's id, if it has one of at most 2,048 bytes.
fn id(claims: &Object) -> Result<Option<&str>, ProofError> {
    let jti = claims.text_if("jti")?;
    if jti.is_some_and(|jti| jti.is_empty() || jti.len() > NAME_MAX) { Err(ProofError::Claim("jti")) } else { Ok(jti) }
}

#[cfg(test)]
mod tests;
