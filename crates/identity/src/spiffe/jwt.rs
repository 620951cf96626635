//! JWT-SVIDs, verified by the keys of their trust domain.
//!
//! One proves its workload to whoever it is presented to, as often as it is presented until it expires: the caller may demand a short life or one
//! audience, and knows that it may have been seen before.

use bailiwick_core::{SpiffeId, Timestamp, TrustDomain};
use serde_json::{Map, Value};

use super::domain_of;
use crate::jws::Compact;
use crate::keys::{KeyId, PublicKey};
use crate::proof::ProofError;
use crate::token::SKEW;

/// Audiences of one JWT-SVID.
const AUDIENCES_MAX: usize = 8;
const AUDIENCE_MAX: usize = 512;
/// The headers that the standard names.
const HEADERS: [&str; 3] = ["alg", "kid", "typ"];

/// What a JWT-SVID proved.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct JwtFacts {
    /// The workload.
    pub id: SpiffeId,
    /// The key of its trust domain that signed it.
    pub key: KeyId,
    /// All audiences for which it is good.
    pub audience: Vec<String>,
    /// When it expires.
    pub expires: Timestamp,
    /// Every claim, as it stands there.
    pub claims: Map<String, Value>,
}

/// Verifies a JWT-SVID for one of our audiences, by the keys of the trust domain that it says it is of.
///
/// # Errors
/// The first rule that it breaks; it proves nothing then.
pub fn verify(svid: &str, audiences: &[String], keys: impl FnOnce(&TrustDomain) -> Vec<PublicKey>, now: Timestamp) -> Result<JwtFacts, ProofError> {
    let jws = Compact::parse(svid)?;
    //= jwt-svid#section-2
    // Any header not described here, registered or private, MUST NOT be included in the JWT-SVID JOSE Header.
    if jws.header.names().any(|name| !HEADERS.contains(&name)) {
        return Err(ProofError::Header("of a JWT-SVID"));
    }
    //= jwt-svid#section-2.3
    // The `typ` header is optional. If set, its value MUST be either `JWT` or `JOSE`.
    if !matches!(jws.typ()?.as_deref(), None | Some("jwt" | "jose")) {
        return Err(ProofError::Type);
    }
    //= jwt-svid#section-2.1
    // Validators receiving a token with the `alg` parameter set to a different value MUST reject the token.
    if !matches!(jws.algorithm()?, "RS256" | "ES256" | "ES384" | "PS256") {
        return Err(ProofError::Algorithm);
    }
    let id: SpiffeId = jws.claims.parsed("sub")?;
    //= spiffe-trust-domain-and-bundle#section-3
    // When validating an SVID, validators must choose the bundle corresponding to the trust domain that the SVID resides in.
    let keys = keys(&domain_of(&id).ok_or(ProofError::Claim("sub"))?);
    let key = signed_by(&jws, &keys)?;
    let audience = audience(jws.claims.member("aud"), audiences)?;
    //= jwt-svid#section-3.3
    // The `exp` claim MUST be set, and validators MUST reject tokens without this claim.
    let expires = jws.claims.time("exp")?;
    if now >= expires.plus(SKEW) {
        return Err(ProofError::Expired);
    }
    if jws.claims.time_if("nbf")?.is_some_and(|nbf| nbf > now.plus(SKEW)) {
        return Err(ProofError::NotYet);
    }
    if jws.claims.time_if("iat")?.is_some_and(|iat| iat > now.plus(SKEW)) {
        return Err(ProofError::IssuedAt);
    }
    let claims = jws.claims.names().filter_map(|name| Some((name.to_owned(), jws.claims.member(name)?.clone()))).collect();
    Ok(JwtFacts { id, key, audience, expires, claims })
}

fn signed_by(jws: &Compact<'_>, keys: &[PublicKey]) -> Result<KeyId, ProofError> {
    let kid = jws.header.text_if("kid").map_err(|_| ProofError::Key)?;
    let mut why = ProofError::Key;
    for key in keys.iter().filter(|key| kid.is_none_or(|kid| key.is_named(kid))) {
        match jws.verified_by(key) {
            Ok(()) => return Ok(key.id()),
            Err(error) => why = error,
        }
    }
    Err(why)
}

fn audience(claim: Option<&Value>, ours: &[String]) -> Result<Vec<String>, ProofError> {
    const WRONG: ProofError = ProofError::Claim("aud");
    let all: Vec<String> = match claim {
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(all)) if all.len() <= AUDIENCES_MAX => {
            all.iter().map(|one| one.as_str().map(str::to_owned).ok_or(WRONG)).collect::<Result<_, _>>()?
        }
        _ => return Err(WRONG),
    };
    //= jwt-svid#section-3.2
    // Validators MUST reject tokens without an `aud` claim set, or if the value that the validator identifies with is not present
    // as an `aud` element.
    if all.iter().any(|one| ours.contains(one)) { Ok(all) } else { Err(ProofError::Audience) }
}

/// May a JWT-SVID be made for these audiences?
pub(super) fn check_asked(audience: &[String]) -> Result<(), &'static str> {
    if audience.is_empty() || audience.len() > AUDIENCES_MAX {
        return Err("one to eight audiences");
    }
    let plain = |one: &String| (1..=AUDIENCE_MAX).contains(&one.len()) && !one.chars().any(char::is_control);
    if audience.iter().all(plain) { Ok(()) } else { Err("audiences of 1 to 512 bytes without control characters") }
}
