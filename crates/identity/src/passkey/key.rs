//! Public keys in COSE form (RFC 9052, RFC 9053), of the three algorithms that are asked for, and signatures by them.

use bailiwick_core::der::{INTEGER, Reader, SEQUENCE, positive};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::PasskeyError;
use super::cbor::Item;
use crate::keys::{Algorithm, PublicKey};

const KTY: Item<'_> = Item::Int(1);
const ALG: Item<'_> = Item::Int(3);

/// Reads a key. It must name its algorithm, and be of exactly the form that goes with it.
pub(super) fn key(cose: &Item<'_>) -> Result<PublicKey, PasskeyError> {
    let number = |name: &Item<'_>| cose.member(name).and_then(Item::int);
    let text = |name: i64| cose.member(&Item::Int(name)).and_then(Item::bytes).map(|bytes| URL_SAFE_NO_PAD.encode(bytes)).ok_or(PasskeyError::Key);
    //= webauthn-3#section-6.5.1
    // The credentialPublicKey [...] MUST contain the "alg" parameter and MUST NOT contain any other OPTIONAL parameters. Private
    // parameters have names of their own, which no public key has.
    let jwk = match (number(&KTY), number(&ALG), number(&Item::Int(-1))) {
        (Some(1), Some(-8), Some(6)) => json!({ "kty": "OKP", "crv": "Ed25519", "x": text(-2)?, "alg": "EdDSA" }),
        (Some(2), Some(-7), Some(1)) => json!({ "kty": "EC", "crv": "P-256", "x": text(-2)?, "y": text(-3)?, "alg": "ES256" }),
        (Some(3), Some(-257), None) => json!({ "kty": "RSA", "n": text(-1)?, "e": text(-2)?, "alg": "RS256" }),
        _ => return Err(PasskeyError::Key),
    };
    PublicKey::from_jwk(&jwk).map_err(|_| PasskeyError::Key)
}

/// Verifies a signature by a passkey over a message.
pub(super) fn verify(key: &PublicKey, message: &[u8], signature: &[u8]) -> Result<(), PasskeyError> {
    let good = if key.allows(Algorithm::Es256) {
        //= webauthn-3#section-6.5.5
        // For COSEAlgorithmIdentifier -7 (ES256), and other ECDSA-based algorithms, the sig value MUST be encoded as an ASN.1 DER
        // Ecdsa-Sig-Value.
        key.verify("ES256", message, &fixed(signature).ok_or(PasskeyError::Form("a signature that is no DER"))?)
    } else if key.allows(Algorithm::EdDsa) {
        key.verify("EdDSA", message, signature)
    } else {
        key.verify("RS256", message, signature)
    };
    good.map_err(|_| PasskeyError::Signature)
}

/// `Ecdsa-Sig-Value` of P-256 in DER, as the 64 bytes that JOSE has for it. One signature has one form.
fn fixed(der: &[u8]) -> Option<[u8; 64]> {
    let mut outer = Reader::new(der);
    let mut numbers = outer.inside(SEQUENCE)?;
    let mut out = [0; 64];
    let (r, s) = out.split_at_mut(32);
    for half in [r, s] {
        let magnitude = positive(numbers.expect(INTEGER)?.content)?;
        let pad = half.len().checked_sub(magnitude.len())?;
        half.get_mut(pad..)?.copy_from_slice(magnitude);
    }
    (outer.is_at_end() && numbers.is_at_end()).then_some(out)
}
