//! SPIFFE bundles (SPIFFE Trust Domain and Bundle, section 4): the keys of a trust domain, written for others, and the certificates among them read
//! from others. The keys for JWT-SVIDs are read by [`crate::foreign::KeySet`].

use std::time::Duration;

use bailiwick_core::TrustDomain;
use bailiwick_core::der::{Reader, SEQUENCE};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::x509;
use crate::keys::PublicKey;
use crate::strict::{Object, put};

/// The longest bundle that is read, in bytes.
pub const BUNDLE_MAX: usize = 256 * 1024;
/// The most certificates of a bundle that are looked at, and the most members or elements at each place.
const KEYS_MAX: usize = 64;
const WIDTH_MAX: usize = 512;

/// Why a bundle is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// Longer than any that we read.
    #[error("the bundle is longer than {BUNDLE_MAX} bytes")]
    TooLong,
    /// Not a JWK set.
    #[error("the bundle is no JWK set: {0}")]
    Form(&'static str),
    /// It has no certificate of an authority.
    #[error("the bundle has no certificate of one that signs X.509-SVIDs")]
    Empty,
}

/// The keys of one trust domain, as they were read.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Bundle {
    /// Whose they are: what the reader was told, not what the bundle says.
    pub domain: TrustDomain,
    /// The certificates of those who sign X.509-SVIDs, DER.
    pub x509: Vec<Vec<u8>>,
    /// `spiffe_sequence`, if it is there.
    pub sequence: Option<u64>,
    /// `spiffe_refresh_hint`, if it is there.
    pub refresh: Option<Duration>,
}

impl Bundle {
    /// Reads a bundle from a file or a bundle endpoint. `domain` is configured beside the place that it came from.
    ///
    /// # Errors
    /// If it is no JWK set, or has no certificate of an authority.
    pub fn parse(domain: TrustDomain, bytes: &[u8]) -> Result<Self, BundleError> {
        if bytes.len() > BUNDLE_MAX {
            return Err(BundleError::TooLong);
        }
        let object = Object::parse_wide(bytes, WIDTH_MAX).map_err(|_| BundleError::Form("not one JSON object with each name once"))?;
        //= spiffe-trust-domain-and-bundle#section-4.1.3
        // The parameter `keys` MUST be present. Its value is an array of JWKs.
        let keys = object.member("keys").and_then(Value::as_array).ok_or(BundleError::Form("`keys` is missing or no array"))?;
        let number = |name: &str| object.member(name).and_then(Value::as_u64);
        let refresh = number("spiffe_refresh_hint").map(Duration::from_secs);
        let mut bundle = Self { domain, x509: Vec::new(), sequence: number("spiffe_sequence"), refresh };
        //= spiffe-trust-domain-and-bundle#section-4.2.2
        // The `use` parameter MUST be set. Clients encountering unknown `use` values MUST ignore the entire JWK element.
        let for_x509 = |key: &&Value| key.get("use").and_then(Value::as_str) == Some("x509-svid");
        bundle.x509.extend(keys.iter().filter(for_x509).take(KEYS_MAX).filter_map(root_of));
        if bundle.x509.is_empty() { Err(BundleError::Empty) } else { Ok(bundle) }
    }
}

fn root_of(key: &Value) -> Option<Vec<u8>> {
    //= x509-svid#section-6.2
    // If `x5c` is not set, or is empty, then the entry MUST be ignored. If the `x5c` parameter contains multiple values, then all
    // but the first MUST be ignored.
    let certificate = STANDARD.decode(key.get("x5c")?.as_array()?.first()?.as_str()?).ok()?;
    x509::is_authority(&certificate).then_some(certificate)
}

/// The certificates of authorities that stand one after the other, as the Workload API has them (DER). None if anything else stands there.
#[must_use]
pub fn certificates(der: &[u8]) -> Option<Vec<Vec<u8>>> {
    if der.len() > BUNDLE_MAX {
        return None;
    }
    let mut reader = Reader::new(der);
    let mut all = Vec::new();
    while !reader.is_at_end() {
        let one = reader.expect(SEQUENCE)?.whole;
        if all.len() >= KEYS_MAX || !x509::is_authority(one) {
            return None;
        }
        all.push(one.to_vec());
    }
    Some(all)
}

/// The members of a JWK that say which point on P-256 it is.
pub(super) fn ec(point: &[u8]) -> Option<Value> {
    let (x, y) = point.strip_prefix(&[4])?.split_at_checked(32)?;
    Some(json!({ "kty": "EC", "crv": "P-256", "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y) }))
}

/// The entry of one that signs X.509-SVIDs.
pub(super) fn x509_entry(point: &[u8], certificate: &[u8]) -> Option<Value> {
    let mut entry = ec(point)?;
    //= x509-svid#section-6.1
    // The `use` parameter of each JWK entry MUST be set to `x509-svid`. Additionally, the `kid` parameter of each JWK entry MUST
    // NOT be set. Each entry MUST contain the `x5c` parameter with a value equal to the base64 encoded DER CA certificate.
    put(&mut entry, "use", json!("x509-svid"));
    put(&mut entry, "x5c", json!([STANDARD.encode(certificate)]));
    Some(entry)
}

/// The entry of a key that signs JWT-SVIDs, with its thumbprint as `kid`.
pub(super) fn jwt_entry(key: &PublicKey) -> Value {
    let mut entry = key.jwk();
    if let Some(members) = entry.as_object_mut() {
        members.remove("alg");
    }
    put(&mut entry, "use", json!("jwt-svid"));
    entry
}
