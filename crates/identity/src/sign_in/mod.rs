//! How people sign in with an OpenID provider: its metadata, its ID tokens and its logout tokens, read and verified. No I/O.
//!
//! The caller does what needs memory: it keeps `state`, `nonce` and the PKCE verifier for one browser and uses them once, and
//! refuses the `jti` of a logout token that was seen before (remember it until [`LoggedOut::remember_until`]).

mod claims;
mod discovery;
mod id_token;
mod logout;
#[cfg(test)]
mod tests;

pub use claims::{ClaimPlace, ClaimPlaceError, Claims};
pub use discovery::{DiscoveryError, Provider, well_known};
pub use id_token::{Expected, SignedIn, verify};
pub use logout::{LOGOUT_EVENT, LoggedOut, logout};

/// The longest ID token or logout token that is looked at, in bytes: room for 200 groups by id.
pub const TOKEN_MAX: usize = 32 * 1024;
/// The most values that one claim may have.
pub const VALUES_MAX: usize = 512;
/// How far the provider's clock may differ from ours.
pub const SKEW: std::time::Duration = std::time::Duration::from_secs(30);

/// Is this client the only one that a token is for?
fn is_for(claims: &crate::strict::Object, client: &str) -> bool {
    match claims.member("aud") {
        Some(serde_json::Value::String(one)) => one == client,
        Some(serde_json::Value::Array(all)) => matches!(all.as_slice(), [serde_json::Value::String(one)] if one == client),
        _ => false,
    }
}
