//! What an ID token says of a person, beyond what is checked: read by the names that the configuration gives.

use std::fmt;
use std::str::FromStr;

use serde_json::Value;

use crate::strict::Object;

/// Where a claim stands: its name, or a path of names that begins with `/` (RFC 6901), such as `/realm_access/roles`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimPlace(String);

/// Why a text names no claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected the name of a claim, or a path such as `/realm_access/roles`: 1 to 200 characters")]
pub struct ClaimPlaceError;

impl FromStr for ClaimPlace {
    type Err = ClaimPlaceError;
    fn from_str(text: &str) -> Result<Self, ClaimPlaceError> {
        let good = (1..=200).contains(&text.len()) && text != "/" && !text.chars().any(char::is_control);
        if good { Ok(Self(text.to_owned())) } else { Err(ClaimPlaceError) }
    }
}

impl fmt::Display for ClaimPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The claims of a token that was verified.
#[derive(Clone)]
pub struct Claims(Value);

impl Claims {
    pub(super) fn of(object: &Object) -> Self {
        Self(Value::Object(object.names().filter_map(|name| Some((name.to_owned(), object.member(name)?.clone()))).collect()))
    }

    fn at(&self, place: &ClaimPlace) -> Option<&Value> {
        if place.0.starts_with('/') { self.0.pointer(&place.0) } else { self.0.get(&place.0) }
    }

    /// The text that stands there. Nothing else is a text: not a number, and not a list of one.
    #[must_use]
    pub fn text(&self, place: &ClaimPlace) -> Option<&str> {
        self.at(place)?.as_str().filter(|t| !t.is_empty())
    }

    /// The texts that stand there: of a list its texts, of one text that one. An unknown form is none.
    #[must_use]
    pub fn texts(&self, place: &ClaimPlace) -> Vec<&str> {
        match self.at(place) {
            Some(Value::String(one)) => vec![one.as_str()],
            Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }

    /// The address, if the provider says that it is the person's.
    //= openid-connect-core-1_0#section-5.7
    // All other Claims carry no such guarantees across different issuers in terms of stability over time or uniqueness across
    // users [...] the Issuer might re-use an email Claim Value across different End-Users at different points in time.
    #[must_use]
    pub fn verified_email(&self) -> Option<&str> {
        let verified = self.0.get("email_verified").and_then(Value::as_bool) == Some(true);
        self.0.get("email").and_then(Value::as_str).filter(|_| verified)
    }
}

impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&String> = self.0.as_object().map(|o| o.keys().collect()).unwrap_or_default();
        write!(f, "Claims({names:?})")
    }
}
