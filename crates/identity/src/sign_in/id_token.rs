//! ID tokens (OpenID Connect Core 1.0 section 3.1.3.7): every check that the section asks of a client that uses the code flow.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, SHA384, SHA512, digest};
use bailiwick_core::Timestamp;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{Claims, SKEW, TOKEN_MAX, VALUES_MAX, is_for};
use crate::foreign::KeySet;
use crate::jws::Compact;
use crate::keys::Algorithm;
use crate::proof::ProofError;
use crate::strict::Object;

/// How old a token may be that we got in exchange for a code a moment ago.
pub(super) const AGE_MAX: Duration = Duration::from_secs(600);

/// What a token must be.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The provider.
    pub issuer: &'a str,
    /// Our id there.
    pub client: &'a str,
    /// The nonce of this sign-in.
    pub nonce: &'a str,
    /// The provider's keys.
    pub keys: &'a KeySet,
    /// The algorithms that the configuration takes.
    pub algorithms: &'a [Algorithm],
    /// The access token that came with it.
    pub access_token: &'a str,
    /// How long ago the person may have proved himself or herself to the provider, if that was asked for.
    pub max_age: Option<Duration>,
}

/// Who signed in.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SignedIn {
    /// The person's id at the provider: never reassigned there.
    pub subject: String,
    /// The session at the provider, by which a logout names it.
    pub session: Option<String>,
    /// When the person proved himself or herself there, if it is said.
    pub proved_at: Option<Timestamp>,
    /// How, in the provider's words (`acr`).
    pub class: Option<String>,
    /// All that was said.
    pub claims: Claims,
}

/// Verifies an ID token that came from the token endpoint.
///
/// # Errors
/// The first rule that it breaks; nobody is signed in then.
pub fn verify(token: &str, expected: &Expected<'_>, now: Timestamp) -> Result<SignedIn, ProofError> {
    let jws = Compact::parse_up_to(token, TOKEN_MAX, VALUES_MAX)?;
    //= rfc8725#section-3.11
    // Sometimes, one kind of JWT can be confused for another. [...] Explicit typing. An ID token has none, or says `JWT`.
    if jws.typ()?.is_some_and(|typ| typ != "jwt") {
        return Err(ProofError::Type);
    }
    //= openid-connect-core-1_0#section-3.1.3.7
    // The alg value SHOULD be the default of RS256 or the algorithm sent by the Client in the id_token_signed_response_alg
    // parameter during Registration.
    //= openid-connect-core-1_0#section-10.1
    // If there are multiple keys in the referenced JWK Set document, a kid value MUST be provided in the JOSE Header.
    expected.keys.signer_of(&jws, expected.algorithms)?;
    let claims = &jws.claims;
    //= openid-connect-core-1_0#section-3.1.3.7
    // The Issuer Identifier for the OpenID Provider (which is typically obtained during Discovery) MUST exactly match the value of
    // the iss (issuer) Claim.
    if claims.text("iss")? != expected.issuer {
        return Err(ProofError::Issuer);
    }
    //= openid-connect-core-1_0#section-3.1.3.7
    // The ID Token MUST be rejected if the ID Token does not list the Client as a valid audience, or if it contains additional
    // audiences not trusted by the Client.
    if !is_for(claims, expected.client) {
        return Err(ProofError::Audience);
    }
    //= openid-connect-core-1_0#section-3.1.3.7
    // If the implementation is using extensions [...] that result in the azp (authorized party) Claim being present, it SHOULD
    // validate the azp value as specified by those extensions. [...] its Client ID is the Claim Value.
    if claims.text_if("azp")?.is_some_and(|azp| azp != expected.client) {
        return Err(ProofError::Claim("azp"));
    }
    check_time(claims, now)?;
    //= openid-connect-core-1_0#section-3.1.3.7
    // If a nonce value was sent in the Authentication Request, a nonce Claim MUST be present and its value checked to verify that
    // it is the same value as the one that was sent in the Authentication Request.
    if claims.text("nonce")? != expected.nonce {
        return Err(ProofError::Claim("nonce"));
    }
    check_access_token(&jws, expected.access_token)?;
    let proved_at = claims.time_if("auth_time")?;
    if let Some(max_age) = expected.max_age {
        //= openid-connect-core-1_0#section-3.1.3.7
        // If the auth_time Claim was requested, either through a specific request for this Claim or by using the max_age
        // parameter, the Client SHOULD check the auth_time Claim value and request re-authentication if it determines too much
        // time has elapsed since the last End-User authentication.
        let fresh = proved_at.is_some_and(|at| at <= now.plus(SKEW) && now <= at.plus(max_age).plus(SKEW));
        if !fresh {
            return Err(ProofError::Claim("auth_time"));
        }
    }
    Ok(SignedIn {
        subject: subject(claims)?,
        session: session(claims)?,
        proved_at,
        class: claims.text_if("acr")?.map(|acr| acr.chars().take(200).collect()),
        claims: Claims::of(claims),
    })
}

//= openid-connect-core-1_0#section-2
// sub [...] It MUST NOT exceed 255 ASCII characters in length.
pub(super) fn subject(claims: &Object) -> Result<String, ProofError> {
    let subject = claims.text("sub")?;
    let good = (1..=255).contains(&subject.len()) && subject.bytes().all(|b| (0x20..0x7f).contains(&b));
    if good { Ok(subject.to_owned()) } else { Err(ProofError::Claim("sub")) }
}

pub(super) fn session(claims: &Object) -> Result<Option<String>, ProofError> {
    let session = claims.text_if("sid")?;
    if session.is_some_and(|s| s.is_empty() || s.len() > 256) {
        return Err(ProofError::Claim("sid"));
    }
    Ok(session.map(str::to_owned))
}

pub(super) fn check_time(claims: &Object, now: Timestamp) -> Result<(), ProofError> {
    //= openid-connect-core-1_0#section-3.1.3.7
    // The current time MUST be before the time represented by the exp Claim.
    if now >= claims.time("exp")?.plus(SKEW) {
        return Err(ProofError::Expired);
    }
    if claims.time_if("nbf")?.is_some_and(|nbf| nbf > now.plus(SKEW)) {
        return Err(ProofError::NotYet);
    }
    //= openid-connect-core-1_0#section-3.1.3.7
    // The iat Claim can be used to reject tokens that were issued too far away from the current time.
    let issued = claims.time("iat")?;
    if issued > now.plus(SKEW) || issued < now.minus(AGE_MAX) {
        return Err(ProofError::IssuedAt);
    }
    Ok(())
}

//= openid-connect-core-1_0#section-3.1.3.8
// The value of at_hash in the ID Token MUST match the value produced in the previous step: the base64url encoding of the left-most
// half of the hash of the octets of the ASCII representation of the access_token value, by the hash algorithm of the ID Token's alg.
fn check_access_token(jws: &Compact<'_>, access_token: &str) -> Result<(), ProofError> {
    let Some(said) = jws.claims.text_if("at_hash")? else { return Ok(()) };
    let algorithm = match Algorithm::from_name(jws.algorithm()?).ok_or(ProofError::Algorithm)? {
        Algorithm::Es384 => &SHA384,
        Algorithm::EdDsa => &SHA512,
        Algorithm::Es256 | Algorithm::Rs256 | Algorithm::Ps256 => &SHA256,
    };
    let whole = digest(algorithm, access_token.as_bytes());
    let half = whole.as_ref().get(..whole.as_ref().len() / 2).unwrap_or_default();
    if said == URL_SAFE_NO_PAD.encode(half) { Ok(()) } else { Err(ProofError::Claim("at_hash")) }
}
