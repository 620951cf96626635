//! JWT-SVIDs (SPIFFE JWT-SVID), as a client assertion of type `jwt-spiffe` and as an RFC 7523 grant.
//!
//! They may be used again until they expire: SPIFFE's agents keep them and hand them out again, so that nothing is remembered of one.

use bailiwick_core::{SpiffeId, Timestamp, TrustDomain};

use super::{Claims, KeySet, Rules, begun, check_audience, confirmation, expires, id, signed, subject};
use crate::assertion::SKEW;
use crate::confirmation::Confirmation;
use crate::keys::KeyId;
use crate::proof::ProofError;

/// The `client_assertion_type` (draft-ietf-oauth-spiffe-client-auth-02 section 3.1).
pub const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe";

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

/// The trust domain of a SPIFFE ID.
#[must_use]
pub fn trust_domain(id: &SpiffeId) -> Option<TrustDomain> {
    id.as_str().strip_prefix("spiffe://")?.split('/').next()?.parse().ok()
}

/// Verifies a JWT-SVID of one trust domain, whose name as `spiffe://<name>` is `rules.issuer`.
///
/// # Errors
/// The first rule that it breaks; the workload is not authenticated then.
pub fn verify(token: &str, keys: &KeySet, rules: &Rules<'_>, now: Timestamp) -> Result<Svid, ProofError> {
    let token = signed(token, keys)?;
    //= https://github.com/spiffe/spiffe/blob/main/standards/JWT-SVID.md#23-type
    // The `typ` header is optional. If set, its value MUST be either `JWT` or `JOSE`.
    if !matches!(token.typ.as_deref(), None | Some("jwt" | "jose")) {
        return Err(ProofError::Type);
    }
    //= https://github.com/spiffe/spiffe/blob/main/standards/JWT-SVID.md#31-subject
    // The `sub` claim MUST be set to the SPIFFE ID of the workload to which it is issued.
    let id_of: SpiffeId = subject(&token.claims)?.parse().map_err(|_| ProofError::Claim("sub"))?;
    //= draft-ietf-oauth-spiffe-client-auth-02#section-5
    // Trust bundles in general MUST be keyed by the trust domain identifier to prevent mix up between trust domain and their
    // corresponding bundles.
    let ours = trust_domain(&id_of).is_some_and(|domain| rules.issuer.strip_prefix("spiffe://") == Some(domain.as_str()));
    if !ours {
        return Err(ProofError::Issuer);
    }
    //= draft-ietf-oauth-spiffe-client-auth-02#section-3.1
    // Verify that the "aud" claim contains only the issuer identifier of the authorization server as its sole value.
    check_audience(&token.claims, rules.audiences)?;
    //= https://github.com/spiffe/spiffe/blob/main/standards/JWT-SVID.md#33-expiration-time
    // The `exp` claim MUST be set, and validators MUST reject tokens without this claim.
    let expires = expires(&token.claims, now)?;
    if expires > now.plus(rules.age_max).plus(SKEW) {
        return Err(ProofError::Lifetime);
    }
    begun(&token.claims, rules.age_max, now)?;
    Ok(Svid {
        id: id_of,
        expires,
        jti: id(&token.claims)?.map(str::to_owned),
        key: token.key,
        confirmation: confirmation(&token.claims)?,
        claims: Claims(token.claims),
    })
}
