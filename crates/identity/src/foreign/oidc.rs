//! OpenID Connect tokens of workloads (Kubernetes, GitHub Actions, GitLab, any issuer with a key set), as an RFC 7523 grant.
//!
//! They may be used again while they are young: their issuers make one for a job or an hour, and what makes one may not have another.

use bailiwick_core::Timestamp;

use super::{Claims, KeySet, Rules, begun, check_audience, check_issuer, confirmation, expires, id, signed, subject};
use crate::confirmation::Confirmation;
use crate::jws::Compact;
use crate::keys::{Algorithm, KeyId};
use crate::proof::ProofError;

/// What a workload's token proved.
#[derive(Debug)]
#[non_exhaustive]
pub struct Workload {
    /// Its subject, as its issuer knows it.
    pub subject: String,
    /// When it was issued.
    pub issued: Timestamp,
    /// When it expires.
    pub expires: Timestamp,
    /// Its id, if it has one.
    pub jti: Option<String>,
    /// The issuer's key that signed it.
    pub key: KeyId,
    /// The key that it is bound to, if it is.
    pub confirmation: Option<Confirmation>,
    /// All that it says.
    pub claims: Claims,
}

/// Verifies a workload's token.
///
/// # Errors
/// The first rule that it breaks; the workload is not authenticated then.
pub fn verify(token: &str, keys: &KeySet, rules: &Rules<'_>, now: Timestamp) -> Result<Workload, ProofError> {
    let token = signed(Compact::parse(token)?, keys, &Algorithm::ALL)?;
    //= rfc8725#section-3.11
    // Explicit typing: an access token, a security event, a logout token or an ID-JAG of the same issuer is no workload's token. OpenID
    // Connect gives an ID Token no type of its own.
    if !matches!(token.typ.as_deref(), None | Some("jwt")) {
        return Err(ProofError::Type);
    }
    check_issuer(&token.claims, rules.issuer)?;
    let subject = subject(&token.claims)?.to_owned();
    //= rfc7523#section-3
    // The authorization server MUST reject any JWT that does not contain its own identity as the intended audience. One that others
    // were meant to get as well is refused too: any of them could use it here.
    check_audience(&token.claims, rules.audiences)?;
    let expires = expires(&token.claims, now)?;
    //= https://openid.net/specs/openid-connect-core-1_0.html#IDToken
    // iat REQUIRED. Time at which the JWT was issued.
    let issued = begun(&token.claims, rules.age_max, now)?.ok_or(ProofError::Claim("iat"))?;
    Ok(Workload {
        subject,
        issued,
        expires,
        jti: id(&token.claims)?.map(str::to_owned),
        key: token.key,
        confirmation: confirmation(&token.claims)?,
        claims: Claims(token.claims),
    })
}
