//! Logout tokens (OpenID Connect Back-Channel Logout 1.0 section 2.6): a provider says that somebody's session is over.

use bailiwick_core::Timestamp;
use serde_json::Value;

use super::id_token::{AGE_MAX, check_time, session, subject};
use super::{SKEW, TOKEN_MAX, VALUES_MAX, is_for};
use crate::foreign::KeySet;
use crate::jws::Compact;
use crate::keys::Algorithm;
use crate::proof::ProofError;

/// The one event of a logout token.
pub const LOGOUT_EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// Whose session is over.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoggedOut {
    /// The person's id at the provider. Without it, only the session is named.
    pub subject: Option<String>,
    /// The session. Without it, all sessions of the person are meant.
    pub session: Option<String>,
    /// The token's own id: to be refused when seen again from this issuer.
    pub jti: String,
    /// When it is refused from: at its expiry, or when it is too old, whichever comes first.
    pub expires: Timestamp,
}

impl LoggedOut {
    /// Until when the `jti` must be remembered.
    #[must_use]
    pub fn remember_until(&self) -> Timestamp {
        self.expires.plus(SKEW)
    }
}

/// Verifies a logout token.
///
/// # Errors
/// The first rule that it breaks; nothing is ended then.
pub fn logout(token: &str, issuer: &str, client: &str, keys: &KeySet, algorithms: &[Algorithm], now: Timestamp) -> Result<LoggedOut, ProofError> {
    let jws = Compact::parse_up_to(token, TOKEN_MAX, VALUES_MAX)?;
    //= openid-connect-backchannel-1_0#section-2.4
    // It is RECOMMENDED that the Logout Token be explicitly typed. This is accomplished by including a typ (type) Header Parameter
    // with a value of logout+jwt in the Logout Token.
    if jws.typ()?.is_some_and(|typ| typ != "logout+jwt" && typ != "jwt") {
        return Err(ProofError::Type);
    }
    //= openid-connect-backchannel-1_0#section-2.6
    // Validate the Logout Token signature in the same way that an ID Token signature is validated [...] Validate the iss, aud, iat,
    // and exp Claims in the same way they are validated in ID Tokens.
    keys.signer_of(&jws, algorithms)?;
    let claims = &jws.claims;
    if claims.text("iss")? != issuer {
        return Err(ProofError::Issuer);
    }
    if !is_for(claims, client) {
        return Err(ProofError::Audience);
    }
    check_time(claims, now)?;
    //= openid-connect-backchannel-1_0#section-2.6
    // Verify that the Logout Token contains a sub Claim, a sid Claim, or both.
    let (subject, session) = (claims.member("sub").map(|_| subject(claims)).transpose()?, session(claims)?);
    if subject.is_none() && session.is_none() {
        return Err(ProofError::Claim("sub"));
    }
    //= openid-connect-backchannel-1_0#section-2.6
    // Verify that the Logout Token contains an events Claim whose value is JSON object containing the member name
    // http://schemas.openid.net/event/backchannel-logout.
    let event = claims.member("events").and_then(|events| events.get(LOGOUT_EVENT));
    if !event.is_some_and(Value::is_object) {
        return Err(ProofError::Claim("events"));
    }
    //= openid-connect-backchannel-1_0#section-2.6
    // Verify that the Logout Token does not contain a nonce Claim.
    if claims.member("nonce").is_some() {
        return Err(ProofError::Claim("nonce"));
    }
    let jti = claims.text("jti")?;
    if !(1..=256).contains(&jti.len()) {
        return Err(ProofError::Claim("jti"));
    }
    Ok(LoggedOut { subject, session, jti: jti.to_owned(), expires: claims.time("exp")?.min(claims.time("iat")?.plus(AGE_MAX)) })
}
