//! Client data (WebAuthn section 5.8.1): what the browser says of the page that asked.

use bailiwick_core::Digest;
use serde_json::Value;

use super::{Challenge, PasskeyError, Site};
use crate::strict::Object;

/// The longest client data that is looked at, in bytes.
pub(super) const CLIENT_DATA_MAX: usize = 4096;

/// Which ceremony the browser performed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ceremony {
    Create,
    Get,
}

impl Ceremony {
    const fn word(self) -> &'static str {
        match self {
            Self::Create => "webauthn.create",
            Self::Get => "webauthn.get",
        }
    }
}

/// Checks the client data, and gives the digest that the authenticator signs.
pub(super) fn check(bytes: &[u8], ceremony: Ceremony, challenge: &Challenge, site: &Site) -> Result<Digest, PasskeyError> {
    if bytes.len() > CLIENT_DATA_MAX {
        return Err(PasskeyError::TooLong);
    }
    let data = Object::parse(bytes).map_err(|_| PasskeyError::Form("the client data"))?;
    let text = |name: &'static str| data.text(name).map_err(|_| PasskeyError::Form("the client data"));
    //= webauthn-3#section-7.2
    // Verify that the value of C.type is the string webauthn.get.
    if text("type")? != ceremony.word() {
        return Err(PasskeyError::Type);
    }
    //= webauthn-3#section-7.2
    // Verify that the value of C.challenge equals the base64url encoding of pkOptions.challenge.
    if text("challenge")? != challenge.encoded() {
        return Err(PasskeyError::Challenge);
    }
    //= webauthn-3#section-7.2
    // Verify that the value of C.origin is an origin expected by the Relying Party.
    let origin = text("origin")?;
    if !site.origins.iter().any(|ours| ours == origin) {
        return Err(PasskeyError::Origin);
    }
    //= webauthn-3#section-7.2
    // If C.crossOrigin is present and set to true, verify that the Relying Party expects this credential to be used within an
    // iframe that is not same-origin with its ancestors. If C.topOrigin is present: [the same]. We expect neither.
    let framed = data.member("crossOrigin").is_some_and(|c| *c != Value::Bool(false)) || data.member("topOrigin").is_some();
    if framed {
        return Err(PasskeyError::Framed);
    }
    Ok(Digest::of(bytes))
}
