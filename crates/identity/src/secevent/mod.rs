//! Security event tokens (RFC 8417): what a provider tells us of its people, and what we tell others of ended tasks. No I/O.
//!
//! The caller refuses the `jti` of an issuer that was seen before (remember it until [`Received::remember_until`]).

mod event;
mod subject;
#[cfg(test)]
mod tests;
mod told;

use std::time::Duration;

use bailiwick_core::Timestamp;
use serde_json::Value;

pub use event::{Event, event_type};
pub use subject::{Subject, SubjectError};
pub use told::{Initiator, TaskEnd, Verification};

use crate::foreign::KeySet;
use crate::jws::Compact;
use crate::keys::Algorithm;
use crate::proof::ProofError;

/// The longest token that is looked at, in bytes.
pub const TOKEN_MAX: usize = 16 * 1024;
/// How long ago an event may have been told at first. A `jti` is remembered for longer than that.
pub const AGE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// How far the transmitter's clock may differ from ours.
pub const SKEW: Duration = Duration::from_secs(60);
/// The most events in one token, and the most audiences.
const SEVERAL_MAX: usize = 8;

const TYP: &str = "secevent+jwt";

/// Whose tokens are taken.
#[derive(Clone, Copy, Debug)]
pub struct From<'a> {
    /// The transmitter.
    pub issuer: &'a str,
    /// We, as the transmitter knows us.
    pub audience: &'a str,
    /// The transmitter's keys.
    pub keys: &'a KeySet,
    /// The algorithms that the configuration takes.
    pub algorithms: &'a [Algorithm],
}

/// What a token says, verified.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Received {
    /// The transmitter.
    pub issuer: String,
    /// The token's own id.
    pub jti: String,
    /// When it was made.
    pub issued: Timestamp,
    /// Of whom. A verification has none.
    pub subject: Option<Subject>,
    /// What happened.
    pub events: Vec<Event>,
}

impl Received {
    /// Until when the `jti` must be remembered.
    #[must_use]
    pub fn remember_until(&self) -> Timestamp {
        self.issued.plus(AGE_MAX).plus(SKEW).plus(SKEW)
    }
}

/// Why a token is not taken: the code of RFC 8935 section 2.4, and the reason for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Refused {
    code: &'static str,
    why: String,
}

impl Refused {
    fn new(code: &'static str, why: impl std::fmt::Display) -> Self {
        Self { code, why: why.to_string() }
    }

    /// `invalid_request`, `invalid_key`, `invalid_issuer` or `invalid_audience`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        self.code
    }
}

impl std::convert::From<ProofError> for Refused {
    fn from(error: ProofError) -> Self {
        //= rfc8935#section-2.4
        // invalid_request: The request body cannot be parsed as a SET, or the Event Payload within the SET does not conform to the
        // event's definition. invalid_key: One or more keys used to encrypt or sign the SET is invalid or otherwise unacceptable to
        // the SET Recipient. invalid_issuer: The SET Issuer is invalid for the SET Recipient. invalid_audience: The SET Audience
        // does not correspond to the SET Recipient.
        let code = match error {
            ProofError::Key | ProofError::Signature | ProofError::Algorithm => "invalid_key",
            ProofError::Issuer => "invalid_issuer",
            ProofError::Audience => "invalid_audience",
            _ => "invalid_request",
        };
        Self::new(code, error)
    }
}

/// The issuer that a token names, before anything is verified: to choose whose keys verify it, never to believe.
///
/// # Errors
/// If it is no token of this form.
pub fn named_issuer(token: &str) -> Result<String, Refused> {
    let jws = Compact::parse_up_to(token, TOKEN_MAX, 64)?;
    Ok(jws.claims.text("iss")?.to_owned())
}

/// Verifies a token.
///
/// # Errors
/// The first rule that it breaks; nothing happened then.
pub fn verify(token: &str, from: &From<'_>, now: Timestamp) -> Result<Received, Refused> {
    let jws = Compact::parse_up_to(token, TOKEN_MAX, 64)?;
    //= rfc8417#section-2.3
    // This is performed by the "typ" JOSE Header parameter with the value "secevent+jwt". [...]
    //= openid-sharedsignals-framework-1_0#section-4.1.1
    // SSF SETs MUST use explicit typing.
    if jws.typ()?.as_deref() != Some(TYP) {
        return Err(ProofError::Type.into());
    }
    from.keys.signer_of(&jws, from.algorithms)?;
    let claims = &jws.claims;
    if claims.text("iss")? != from.issuer {
        return Err(ProofError::Issuer.into());
    }
    //= rfc8417#section-3.2
    // The "aud" claim [...] recipient [...] MUST be validated: a token for somebody else is not acted upon.
    let audience = match claims.member("aud") {
        Some(Value::String(one)) => one == from.audience,
        Some(Value::Array(all)) if all.len() <= SEVERAL_MAX => all.iter().any(|one| one == from.audience),
        _ => false,
    };
    if !audience {
        return Err(ProofError::Audience.into());
    }
    //= openid-sharedsignals-framework-1_0#section-4.1.7
    // The "exp" claim MUST NOT be used in SSF SETs. [...] prevents confusion with other JWTs.
    //= openid-sharedsignals-framework-1_0#section-4.1.2
    // The JWT "sub" claim MUST NOT be present in any SET containing an SSF event.
    for forbidden in ["exp", "sub"] {
        if claims.member(forbidden).is_some() {
            return Err(ProofError::Claim(forbidden).into());
        }
    }
    let issued = claims.time("iat")?;
    if issued > now.plus(SKEW) || issued < now.minus(AGE_MAX) {
        return Err(ProofError::IssuedAt.into());
    }
    let jti = claims.text("jti")?;
    if !(1..=256).contains(&jti.len()) {
        return Err(ProofError::Claim("jti").into());
    }
    let subject = claims.member("sub_id").map(Subject::read).transpose().map_err(|error| Refused::new("invalid_request", error))?;
    Ok(Received { issuer: from.issuer.to_owned(), jti: jti.to_owned(), issued, subject, events: events(claims.member("events"))? })
}

//= rfc8417#section-2.2
// "events" [...] The value of the "events" claim is a JSON object [...] whose members are name/value pairs whose names are URIs
// identifying the event statements being expressed. [...] Event Statements MUST NOT be empty: there is at least one.
fn events(events: Option<&Value>) -> Result<Vec<Event>, Refused> {
    let all = events.and_then(Value::as_object).ok_or(ProofError::Claim("events"))?;
    if all.is_empty() || all.len() > SEVERAL_MAX {
        return Err(ProofError::Claim("events").into());
    }
    all.iter().map(|(name, payload)| payload.as_object().map(|p| Event::read(name, p)).ok_or_else(|| ProofError::Claim("events").into())).collect()
}
