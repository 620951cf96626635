//! JWT-SVIDs (SPIFFE JWT-SVID): as a client assertion of type `jwt-spiffe` or an RFC 7523 grant at our own doors, and for whoever asks whether one
//! was meant for it.
//!
//! They may be used again until they expire: SPIFFE's agents keep them and hand them out again, so that nothing is remembered of one.

use bailiwick_core::{SpiffeId, Timestamp, TrustDomain};
use serde_json::Value;

use super::{AUDIENCES_MAX, Claims, KeySet, Rules, begun, check_audience, confirmation, expires, id, signed, subject};
use crate::assertion::SKEW;
use crate::confirmation::Confirmation;
use crate::jws::Compact;
use crate::keys::{Algorithm, KeyId};
use crate::proof::ProofError;
use crate::spiffe::{domain_of, id_of_domain};
use crate::strict::Object;

/// The `client_assertion_type` (draft-ietf-oauth-spiffe-client-auth-02 section 3.1).
pub const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe";
/// The headers that the standard names.
const HEADERS: [&str; 3] = ["alg", "kid", "typ"];
/// The algorithms of the standard that we know. `EdDSA` is none of it.
const ALGORITHMS: [Algorithm; 4] = [Algorithm::Rs256, Algorithm::Ps256, Algorithm::Es256, Algorithm::Es384];

/// What a JWT-SVID proved.
#[derive(Debug)]
#[non_exhaustive]
pub struct Svid {
    /// The workload.
    pub id: SpiffeId,
    /// When the SVID expires.
    pub expires: Timestamp,
    /// Its id, if it has one.
    pub jti: Option<String>,
    /// The authority that signed it.
    pub key: KeyId,
    /// The key that it is bound to, if it is.
    pub confirmation: Option<Confirmation>,
    /// All that it says.
    pub claims: Claims,
}

/// Verifies a JWT-SVID of one trust domain, whose name as `spiffe://<name>` is `rules.issuer`, that a client presents to us: it must be for us alone,
/// and young.
///
/// # Errors
/// The first rule that it breaks; the workload is not authenticated then.
pub fn verify(token: &str, keys: &KeySet, rules: &Rules<'_>, now: Timestamp) -> Result<Svid, ProofError> {
    let svid = verified(token, keys, rules.issuer, now)?;
    let claims = &svid.claims.0;
    //= draft-ietf-oauth-spiffe-client-auth-02#section-3.1
    // Verify that the "aud" claim contains only the issuer identifier of the authorization server as its sole value.
    check_audience(claims, rules.audiences)?;
    if svid.expires > now.plus(rules.age_max).plus(SKEW) {
        return Err(ProofError::Lifetime);
    }
    begun(claims, rules.age_max, now)?;
    Ok(svid)
}

/// Verifies a JWT-SVID of a trust domain for somebody who is known as `audience`, perhaps among others, and who asks us (the Workload API's
/// `ValidateJWTSVID`).
///
/// # Errors
/// The first rule of the standard that it breaks; it proves nothing then.
pub fn verify_for(token: &str, keys: &KeySet, domain: &TrustDomain, audience: &str, now: Timestamp) -> Result<Svid, ProofError> {
    let svid = verified(token, keys, &id_of_domain(domain), now)?;
    //= https://github.com/spiffe/spiffe/blob/main/standards/JWT-SVID.md#32-audience
    // Validators MUST reject tokens without an `aud` claim set, or if the value that the validator identifies with is not present as an
    // `aud` element.
    match svid.claims.0.member("aud") {
        Some(Value::String(one)) if one == audience => Ok(svid),
        Some(Value::Array(all)) if all.len() <= AUDIENCES_MAX && all.iter().any(|one| one == audience) => Ok(svid),
        Some(Value::String(_) | Value::Array(_)) => Err(ProofError::Audience),
        _ => Err(ProofError::Claim("aud")),
    }
}

/// What the standard says of every JWT-SVID, whoever it is for.
fn verified(token: &str, keys: &KeySet, issuer: &str, now: Timestamp) -> Result<Svid, ProofError> {
    let jws = Compact::parse(token)?;
    check_header(&jws)?;
    let id_of = workload(&jws.claims)?;
    //= draft-ietf-oauth-spiffe-client-auth-02#section-5
    // Trust bundles in general MUST be keyed by the trust domain identifier to prevent mix up between trust domain and their
    // corresponding bundles.
    if domain_of(&id_of).is_none_or(|domain| id_of_domain(&domain) != issuer) {
        return Err(ProofError::Issuer);
    }
    let token = signed(jws, keys, &ALGORITHMS)?;
    //= https://github.com/spiffe/spiffe/blob/main/standards/JWT-SVID.md#33-expiration-time
    // The `exp` claim MUST be set, and validators MUST reject tokens without this claim.
    let expires = expires(&token.claims, now)?;
    // However old it is: nothing but its end is demanded of it.
    begun(&token.claims, std::time::Duration::MAX, now)?;
    Ok(Svid {
        id: id_of,
        expires,
        jti: id(&token.claims)?.map(str::to_owned),
        key: token.key,
        confirmation: confirmation(&token.claims)?,
        claims: Claims(token.claims),
    })
}

fn check_header(jws: &Compact<'_>) -> Result<(), ProofError> {
    //= https://github.com/spiffe/spiffe/blob/main/standards/JWT-SVID.md#2-jose-header
    // Any header not described here, registered or private, MUST NOT be included in the JWT-SVID JOSE Header.
    if jws.header.names().any(|name| !HEADERS.contains(&name)) {
        return Err(ProofError::Header("of a JWT-SVID"));
    }
    //= https://github.com/spiffe/spiffe/blob/main/standards/JWT-SVID.md#21-algorithm
    // Validators receiving a token with the `alg` parameter set to a different value MUST reject the token.
    if Algorithm::from_name(jws.algorithm()?).is_none_or(|algorithm| !ALGORITHMS.contains(&algorithm)) {
        return Err(ProofError::Algorithm);
    }
    //= https://github.com/spiffe/spiffe/blob/main/standards/JWT-SVID.md#23-type
    // The `typ` header is optional. If set, its value MUST be either `JWT` or `JOSE`.
    if matches!(jws.typ()?.as_deref(), None | Some("jwt" | "jose")) { Ok(()) } else { Err(ProofError::Type) }
}

fn workload(claims: &Object) -> Result<SpiffeId, ProofError> {
    //= https://github.com/spiffe/spiffe/blob/main/standards/JWT-SVID.md#31-subject
    // The `sub` claim MUST be set to the SPIFFE ID of the workload to which it is issued.
    subject(claims)?.parse().map_err(|_| ProofError::Claim("sub"))
}
