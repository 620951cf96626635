//! Identity Assertion JWT Authorization Grants (draft-ietf-oauth-identity-assertion-authz-grant): an identity provider lets a client act
//! here for a person. An RFC 7523 grant beside the client's own authentication.
//!
//! The caller refuses one whose `client_id` is not the authenticated client's, and one whose `jti` it has seen of this issuer before
//! (remember it until [`Jag::remember_until`]), and maps the person from its own configuration.

use bailiwick_core::Timestamp;
use serde_json::Value;

use super::{Claims, KeySet, Rules, begun, check_issuer, confirmation, expires, id, signed, subject};
use crate::assertion::SKEW;
use crate::confirmation::Confirmation;
use crate::jws::Compact;
use crate::keys::{Algorithm, KeyId};
use crate::oauth::Scope;
use crate::proof::ProofError;
use crate::strict::Object;

/// The type that its header must have.
pub const TYP: &str = "oauth-id-jag+jwt";
/// The grant profile's name in the metadata of an authorization server (section 7.2).
pub const PROFILE: &str = "urn:ietf:params:oauth:grant-profile:id-jag";
/// The most resources that it may name.
const RESOURCES_MAX: usize = 8;

/// What an ID-JAG proved.
#[derive(Debug)]
#[non_exhaustive]
pub struct Jag {
    /// The person, as the identity provider knows him or her.
    pub subject: String,
    /// The client that may act: its client id with us.
    pub client_id: String,
    /// Its id: to be refused when seen again of this issuer.
    pub jti: String,
    /// When it expires.
    pub expires: Timestamp,
    /// The resources that it is for; empty if it names none.
    pub resources: Vec<String>,
    /// The scope that it grants, if it bounds that.
    pub scope: Option<Scope>,
    /// The identity provider's key that signed it.
    pub key: KeyId,
    /// The key that it is bound to, if it is.
    pub confirmation: Option<Confirmation>,
    /// All that it says.
    pub claims: Claims,
}

impl Jag {
    /// Until when the `jti` must be remembered: after that the grant is refused by its expiry.
    #[must_use]
    pub fn remember_until(&self) -> Timestamp {
        self.expires.plus(crate::token::SKEW)
    }
}

/// Verifies an ID-JAG. `rules.audiences` is our issuer identifier and nothing else.
///
/// # Errors
/// The first rule that it breaks; it grants nothing then.
pub fn verify(token: &str, keys: &KeySet, rules: &Rules<'_>, now: Timestamp) -> Result<Jag, ProofError> {
    let token = signed(Compact::parse(token)?, keys, &Algorithm::ALL)?;
    //= draft-ietf-oauth-identity-assertion-authz-grant-03#section-4.4.1
    // Validate the JWT "typ" is "oauth-id-jag+jwt" (per Section 3.11 of [RFC8725]).
    if token.typ.as_deref() != Some(TYP) {
        return Err(ProofError::Type);
    }
    let claims = token.claims;
    check_issuer(&claims, rules.issuer)?;
    check_audience(&claims, rules.audiences)?;
    let expires = expires(&claims, now)?;
    if expires > now.plus(rules.age_max).plus(SKEW) {
        return Err(ProofError::Lifetime);
    }
    begun(&claims, rules.age_max, now)?.ok_or(ProofError::Claim("iat"))?;
    let client_id = claims.text("client_id")?.to_owned();
    refuse_unknown_bounds(&claims, &client_id)?;
    Ok(Jag {
        subject: subject(&claims)?.to_owned(),
        client_id,
        jti: id(&claims)?.filter(|jti| jti.len() >= 8).ok_or(ProofError::Claim("jti"))?.to_owned(),
        expires,
        resources: resources(&claims)?,
        scope: claims.parsed_if("scope")?,
        key: token.key,
        confirmation: confirmation(&claims)?,
        claims: Claims(claims),
    })
}

/// The `aud` is our issuer identifier, alone.
fn check_audience(claims: &Object, ours: &[String]) -> Result<(), ProofError> {
    let is_ours = |aud: &Value| aud.as_str().is_some_and(|aud| ours.iter().any(|our| our == aud));
    //= draft-ietf-oauth-identity-assertion-authz-grant-03#section-4.4.1
    // The "aud" claim MAY be a string containing a single issuer identifier, or an array containing a single issuer identifier. If the
    // "aud" claim is an array, it MUST contain exactly one element, and that element MUST be the issuer identifier of the Resource
    // Authorization Server.
    match claims.member("aud") {
        Some(one @ Value::String(_)) if is_ours(one) => Ok(()),
        Some(Value::Array(all)) if matches!(all.as_slice(), [one] if is_ours(one)) => Ok(()),
        Some(Value::String(_) | Value::Array(_)) => Err(ProofError::Audience),
        _ => Err(ProofError::Claim("aud")),
    }
}

/// What bounds the grant in a way that we do not know is no grant of ours: to leave it out would be to widen it.
fn refuse_unknown_bounds(claims: &Object, client_id: &str) -> Result<(), ProofError> {
    //= draft-ietf-oauth-identity-assertion-authz-grant-03#section-4.4.1
    // If the "authorization_details" claim is present, the Resource Authorization Server MUST parse it as a JSON array and process each
    // authorization detail object according to [RFC9396]. We know no type of them.
    if claims.member("authorization_details").is_some() {
        return Err(ProofError::Claim("authorization_details"));
    }
    //= draft-ietf-oauth-identity-assertion-authz-grant-03#section-3.1
    // When present, this claim identifies the actor that is acting on behalf of the subject ("sub"). The client is that actor: another,
    // or a chain that we could not carry on, is refused.
    match claims.member("act") {
        None => Ok(()),
        Some(Value::Object(act)) if act.len() == 1 && act.get("sub").and_then(Value::as_str) == Some(client_id) => Ok(()),
        Some(_) => Err(ProofError::Claim("act")),
    }
}

fn resources(claims: &Object) -> Result<Vec<String>, ProofError> {
    const RESOURCE: ProofError = ProofError::Claim("resource");
    match claims.member("resource") {
        None => Ok(Vec::new()),
        Some(Value::String(one)) => Ok(vec![one.clone()]),
        Some(Value::Array(all)) if (1..=RESOURCES_MAX).contains(&all.len()) => {
            all.iter().map(|one| one.as_str().map(str::to_owned).ok_or(RESOURCE)).collect()
        }
        Some(_) => Err(RESOURCE),
    }
}
