//! The public keys of an issuer: a JWK set (RFC 7517 section 5) or a SPIFFE bundle, with the keys that we cannot use left out.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::jws::Compact;
use crate::keys::{Algorithm, KeyError, KeyId, PublicKey};
use crate::proof::ProofError;
use crate::strict::{Object, put};

/// The longest key set that is read, in bytes.
pub const KEY_SET_BYTES_MAX: usize = 256 * 1024;
/// The longest RSA key of a foreign issuer: a longer one costs us more to verify than its issuer gains.
pub const RSA_BITS_MAX: usize = 4096;
/// The most keys of a set that are looked at, and the most members or elements at each place.
const KEYS_MAX: usize = 64;
const WIDTH_MAX: usize = 512;
/// `RSA_BITS_MAX` in base64url.
const MODULUS_TEXT_MAX: usize = (RSA_BITS_MAX / 8 * 4).div_ceil(3);

/// The keys of one issuer.
#[derive(Clone, PartialEq, Eq)]
pub struct KeySet {
    keys: Vec<(Option<String>, PublicKey)>,
    left_out: usize,
    refresh_hint: Option<Duration>,
}

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeySet").field("keys", &self.keys.len()).field("left_out", &self.left_out).finish_non_exhaustive()
    }
}

impl KeySet {
    /// Reads a JWK set.
    ///
    /// # Errors
    /// `Form` if it is none, or if there is no key in it that we take.
    pub fn jwks(bytes: &[u8]) -> Result<Self, KeyError> {
        let set = object(bytes)?;
        Self::of(&set, None, |jwk| Some(jwk.clone()))
    }

    /// Reads a SPIFFE bundle (SPIFFE Trust Domain and Bundle, section 4): its JWT-SVID authorities.
    ///
    /// # Errors
    /// As [`KeySet::jwks`].
    pub fn spiffe_bundle(bytes: &[u8]) -> Result<Self, KeyError> {
        let set = object(bytes)?;
        //= https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Trust_Domain_and_Bundle.md#412-refresh-hint
        // If set, it MUST be a non-negative integer, representing the interval at which the publisher suggests that consumers check
        // back, in seconds.
        let hint = set.member("spiffe_refresh_hint").and_then(Value::as_u64).map(Duration::from_secs);
        Self::of(&set, hint, authority)
    }

    fn of(set: &Object, refresh_hint: Option<Duration>, taken: impl Fn(&Map<String, Value>) -> Option<Map<String, Value>>) -> Result<Self, KeyError> {
        let all = set.member("keys").and_then(Value::as_array).ok_or(KeyError::Form("a key set without `keys`"))?;
        //= rfc7517#section-5
        // Implementations SHOULD ignore JWKs within a JWK Set that use "kty" (key type) values that are not understood by them, that are
        // missing required members, or for which values are out of the supported ranges.
        let keys: Vec<_> = all.iter().filter_map(|jwk| jwk.as_object().and_then(&taken)).filter_map(|jwk| key(jwk).ok()).take(KEYS_MAX).collect();
        if keys.is_empty() {
            return Err(KeyError::Form("no key in the set is one that we take"));
        }
        Ok(Self { left_out: all.len().saturating_sub(keys.len()), keys, refresh_hint })
    }

    /// Exactly these, each named by its thumbprint.
    #[cfg(test)]
    pub(crate) fn of_keys(keys: &[PublicKey]) -> Self {
        Self::jwks(crate::keys::jwks(keys).to_string().as_bytes()).unwrap()
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Is there none? Never true: such a set is not made.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// As the JWK set of those who sign JWT-SVIDs, by the names that their trust domain gave them.
    #[must_use]
    pub fn to_bundle(&self) -> Value {
        let entry = |(name, key): &(Option<String>, PublicKey)| {
            let mut jwk = key.jwk();
            put(&mut jwk, "use", json!("jwt-svid"));
            put(&mut jwk, "kid", name.as_ref().map_or_else(|| json!(key.id().to_string()), |name| json!(name)));
            jwk
        };
        json!({ "keys": self.keys.iter().map(entry).collect::<Vec<_>>() })
    }

    /// How many keys stood in the set and are not used: other kinds, other uses, out of range.
    #[must_use]
    pub const fn left_out(&self) -> usize {
        self.left_out
    }

    /// How often its publisher suggests to look again (`spiffe_refresh_hint`).
    #[must_use]
    pub const fn refresh_hint(&self) -> Option<Duration> {
        self.refresh_hint
    }

    /// Is there a key of this thumbprint?
    #[must_use]
    pub fn has(&self, id: KeyId) -> bool {
        self.keys.iter().any(|(_, key)| key.id() == id)
    }

    /// The key that signed a token: one that its header names, by one of these algorithms that is the key's own.
    ///
    /// # Errors
    /// `Key` if there is none of this name, or if the token names none and there are several; `Algorithm` or `Signature`.
    pub(crate) fn signer_of(&self, jws: &Compact<'_>, algorithms: &[Algorithm]) -> Result<&PublicKey, ProofError> {
        let algorithm = Algorithm::from_name(jws.algorithm()?).filter(|a| algorithms.contains(a)).ok_or(ProofError::Algorithm)?;
        let kid = jws.header.text_if("kid").map_err(|_| ProofError::Key)?;
        let mut why = ProofError::Algorithm;
        for key in self.named(kid)?.into_iter().filter(|key| key.allows(algorithm)) {
            match jws.verified_by(key) {
                Ok(()) => return Ok(key),
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    /// The keys by which a token of this `kid` may be signed.
    fn named(&self, kid: Option<&str>) -> Result<Vec<&PublicKey>, ProofError> {
        //= rfc7517#section-4.5
        // The "kid" (key ID) parameter is used to match a specific key. This is used, for instance, to choose among a set of keys within
        // a JWK Set during key rollover. It is compared, and nothing is looked up elsewhere by it.
        let found: Vec<&PublicKey> = match (kid, self.keys.as_slice()) {
            (None, [(_, only)]) => vec![only],
            (None, _) => Vec::new(),
            (Some(kid), all) => all.iter().filter(|(name, _)| name.as_deref() == Some(kid)).map(|(_, key)| key).collect(),
        };
        if found.is_empty() { Err(ProofError::Key) } else { Ok(found) }
    }
}

fn object(bytes: &[u8]) -> Result<Object, KeyError> {
    if bytes.len() > KEY_SET_BYTES_MAX {
        return Err(KeyError::Form("the key set is too long"));
    }
    Object::parse_wide(bytes, WIDTH_MAX).map_err(|_| KeyError::Form("not a key set"))
}

/// A JWT-SVID authority of a bundle, as a plain JWK.
fn authority(jwk: &Map<String, Value>) -> Option<Map<String, Value>> {
    //= https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Trust_Domain_and_Bundle.md#422-public-key-use
    // The `use` parameter MUST be set. [...] clients encountering an unknown `use` value MUST ignore the JWK element.
    if jwk.get("use").and_then(Value::as_str) != Some("jwt-svid") {
        return None;
    }
    //= https://github.com/spiffe/spiffe/blob/main/standards/JWT-SVID.md#61-representing-jwt-svid-authorities
    // The `kid` parameter MUST be set.
    jwk.get("kid").and_then(Value::as_str)?;
    //= https://github.com/spiffe/spiffe/blob/main/standards/JWT-SVID.md#21-algorithm
    // RS256 ... PS512: there are none but keys of RSA and on curves.
    if !matches!(jwk.get("kty").and_then(Value::as_str), Some("EC" | "RSA")) {
        return None;
    }
    let mut plain = jwk.clone();
    plain.remove("use");
    Some(plain)
}

fn key(jwk: Map<String, Value>) -> Result<(Option<String>, PublicKey), KeyError> {
    if jwk.get("n").and_then(Value::as_str).is_some_and(|n| n.len() > MODULUS_TEXT_MAX) {
        return Err(KeyError::Kind);
    }
    let name = jwk.get("kid").and_then(Value::as_str).map(str::to_owned);
    Ok((name, PublicKey::from_jwk(&Value::Object(jwk))?))
}
