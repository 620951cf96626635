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
pub use discovery::{DiscoveryError, Provider, key_set, well_known};
pub use id_token::{Expected, SignedIn, verify};
pub use logout::{LOGOUT_EVENT, LoggedOut, logout};

use crate::jws::Compact;
use crate::keys::{Algorithm, PublicKey};
use crate::proof::ProofError;

/// The longest ID token or logout token that is looked at, in bytes: room for 200 groups by id.
pub const TOKEN_MAX: usize = 32 * 1024;
/// The most values that one claim may have.
pub const VALUES_MAX: usize = 512;
/// How far the provider's clock may differ from ours.
pub const SKEW: std::time::Duration = std::time::Duration::from_secs(30);

/// The key that signed, among those of the provider. Those of nobody else are looked at, and the algorithm is one of the key's own.
fn signed_by<'k>(jws: &Compact<'_>, keys: &'k [PublicKey], algorithms: &[Algorithm]) -> Result<&'k PublicKey, ProofError> {
    let named = jws.algorithm()?;
    //= openid-connect-core-1_0#section-3.1.3.7
    // The alg value SHOULD be the default of RS256 or the algorithm sent by the Client in the id_token_signed_response_alg
    // parameter during Registration.
    let algorithm = Algorithm::from_name(named).filter(|a| algorithms.contains(a)).ok_or(ProofError::Algorithm)?;
    let fitting = |key: &&PublicKey| key.allows(algorithm);
    let key = match jws.header.text_if("kid").map_err(|_| ProofError::Key)? {
        Some(kid) => keys.iter().filter(fitting).find(|key| key.is_named(kid)),
        //= openid-connect-core-1_0#section-10.1
        // If there are multiple keys in the referenced JWK Set document, a kid value MUST be provided in the JOSE Header.
        None => {
            let mut all = keys.iter().filter(fitting);
            all.next().filter(|_| all.next().is_none())
        }
    };
    let key = key.ok_or(ProofError::Key)?;
    jws.verified_by(key)?;
    Ok(key)
}

/// Is this client the only one that a token is for?
fn is_for(claims: &crate::strict::Object, client: &str) -> bool {
    match claims.member("aud") {
        Some(serde_json::Value::String(one)) => one == client,
        Some(serde_json::Value::Array(all)) => matches!(all.as_slice(), [serde_json::Value::String(one)] if one == client),
        _ => false,
    }
}
