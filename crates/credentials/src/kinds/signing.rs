//! Keys that sign JWTs about us: a client's assertion, an app's, a web identity's. A key is never shown, and signs nothing that a stranger wrote.

use std::fmt;

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::Secret;
use crate::lease::{Step, TargetCode, TargetError};

/// Shorter moduli are broken, or will be.
const MODULUS_MIN: usize = 256;

const BEGIN_KEY: &[u8] = b"-----BEGIN PRIVATE KEY-----\n";
pub(super) const END_KEY: &[u8] = b"-----END PRIVATE KEY-----\n";

/// Why a key cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a private key in PEM without a passphrase: RSA of at least 2048 bits, EC P-256, or Ed25519")]
pub struct KeyError;

/// A private key that signs.
pub struct Key(Inner);

enum Inner {
    Rsa(Box<RsaKeyPair>),
    P256(Box<EcdsaKeyPair>),
    Ed25519(Box<Ed25519KeyPair>),
}

impl Key {
    /// From a private key in PEM: PKCS #1, SEC 1 or PKCS #8.
    ///
    /// # Errors
    /// [`KeyError`] if it is none, or too short.
    pub fn from_pem(pem: &Secret) -> Result<Self, KeyError> {
        let der = PrivateKeyDer::from_pem_slice(pem.expose()).map_err(|_| KeyError)?;
        let bytes = der.secret_der();
        if let Ok(key) = RsaKeyPair::from_pkcs8(bytes).or_else(|_| RsaKeyPair::from_der(bytes)) {
            return if key.public_modulus_len() >= MODULUS_MIN { Ok(Self(Inner::Rsa(Box::new(key)))) } else { Err(KeyError) };
        }
        if let Ok(key) = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, bytes) {
            return Ok(Self(Inner::P256(Box::new(key))));
        }
        let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes).map_err(|_| KeyError)?;
        Ok(Self(Inner::Ed25519(Box::new(key))))
    }

    /// `RS256`, `ES256` or `EdDSA`, as in a JWT's header.
    #[must_use]
    pub const fn algorithm(&self) -> &'static str {
        match self.0 {
            Inner::Rsa(_) => "RS256",
            Inner::P256(_) => "ES256",
            Inner::Ed25519(_) => "EdDSA",
        }
    }

    /// The public half as a JWK (RFC 7517) for a key set, of an EC P-256 key; `None` for others.
    #[must_use]
    pub fn public_jwk(&self, kid: &str) -> Option<Value> {
        let Inner::P256(key) = &self.0 else { return None };
        let point = key.public_key().as_ref();
        let (x, y) = (point.get(1..33)?, point.get(33..65)?);
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        Some(json!({ "kty": "EC", "crv": "P-256", "x": text(x), "y": text(y), "alg": "ES256", "use": "sig", "kid": kid }))
    }

    /// The name of an EC P-256 key by its public half (RFC 7638), for a `kid`; `None` for others.
    #[must_use]
    pub fn thumbprint(&self) -> Option<String> {
        let jwk = self.public_jwk("")?;
        let text = |name: &str| jwk.get(name)?.as_str();
        //= rfc7638#section-3.2
        // the required members of an elliptic curve public key, in lexicographic order
        let canonical = format!(r#"{{"crv":"{}","kty":"{}","x":"{}","y":"{}"}}"#, text("crv")?, text("kty")?, text("x")?, text("y")?);
        Some(URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, canonical.as_bytes())))
    }

    /// A JWT with these claims (RFC 7515 section 3.1).
    pub(super) fn sign(&self, kid: Option<&str>, claims: &Value) -> Result<Secret, TargetError> {
        let mut header = json!({ "typ": "JWT", "alg": self.algorithm() });
        if let (Some(kid), Some(header)) = (kid, header.as_object_mut()) {
            header.insert("kid".to_owned(), kid.into());
        }
        let mut jwt = Zeroizing::new(String::with_capacity(4 << 10));
        URL_SAFE_NO_PAD.encode_string(header.to_string(), &mut jwt);
        jwt.push('.');
        URL_SAFE_NO_PAD.encode_string(claims.to_string(), &mut jwt);
        let signature = self.signature(jwt.as_bytes())?;
        jwt.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut jwt);
        Ok(Secret::from(Zeroizing::new(jwt.as_bytes().to_vec())))
    }

    fn signature(&self, message: &[u8]) -> Result<Vec<u8>, TargetError> {
        let failed = |_| TargetError::new(TargetCode::Internal, Step::Mint, "", "a key does not sign");
        match &self.0 {
            Inner::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).map_err(failed)?;
                Ok(signature)
            }
            Inner::P256(key) => Ok(key.sign(&SystemRandom::new(), message).map_err(failed)?.as_ref().to_vec()),
            Inner::Ed25519(key) => Ok(key.try_sign(message).map_err(failed)?.as_ref().to_vec()),
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.algorithm())
    }
}

/// A fresh private key on P-256, as PEM (PKCS #8).
///
/// # Errors
/// [`KeyError`] if there is no randomness.
pub fn fresh_p256() -> Result<Secret, KeyError> {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| KeyError)?;
    let document = pair.to_pkcs8v1().map_err(|_| KeyError)?;
    let mut digits = Zeroizing::new(vec![0; document.as_ref().len().div_ceil(3).saturating_mul(4)]);
    let written = STANDARD.encode_slice(document.as_ref(), &mut digits).map_err(|_| KeyError)?;
    // Room for everything at once, so that no copy of it is left behind.
    let mut text = Zeroizing::new(Vec::with_capacity(1024));
    text.extend_from_slice(BEGIN_KEY);
    for line in digits.get(..written).unwrap_or_default().chunks(64) {
        text.extend_from_slice(line);
        text.push(b'\n');
    }
    text.extend_from_slice(END_KEY);
    Ok(Secret::from(text))
}

/// 128 random bits in hexadecimal, for a `jti`.
pub(super) fn random_id() -> Result<String, TargetError> {
    let mut bytes = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| TargetError::new(TargetCode::Internal, Step::Mint, "", "no randomness is available"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::encoding::AsDer as _;
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};

    fn pem(label: &str, der: &[u8]) -> Secret {
        Secret::from(format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der)))
    }

    fn parts(jwt: &Secret) -> (Value, String, Vec<u8>) {
        let text = String::from_utf8(jwt.expose().to_vec()).unwrap();
        let (message, signature) = text.rsplit_once('.').unwrap();
        let header = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(message.split_once('.').unwrap().0).unwrap()).unwrap();
        (header, message.to_owned(), URL_SAFE_NO_PAD.decode(signature).unwrap())
    }

    #[test]
    fn each_sort_of_key_signs_what_its_public_half_verifies() {
        let claims = json!({ "iss": "one" });
        let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let key = Key::from_pem(&pem("PRIVATE KEY", rsa.as_der().unwrap().as_ref())).unwrap();
        let (header, message, signature) = parts(&key.sign(None, &claims).unwrap());
        assert_eq!(header, json!({ "typ": "JWT", "alg": "RS256" }));
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, rsa.public_key().as_ref()).verify(message.as_bytes(), &signature).unwrap();

        let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let key = Key::from_pem(&pem("PRIVATE KEY", ec.to_pkcs8v1().unwrap().as_ref())).unwrap();
        let (header, message, signature) = parts(&key.sign(Some("k1"), &claims).unwrap());
        assert_eq!(header, json!({ "typ": "JWT", "alg": "ES256", "kid": "k1" }));
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, ec.public_key().as_ref()).verify(message.as_bytes(), &signature).unwrap();
        assert_eq!(key.public_jwk("k1").unwrap()["crv"], "P-256");

        let ed = Ed25519KeyPair::generate().unwrap();
        let key = Key::from_pem(&pem("PRIVATE KEY", ed.to_pkcs8v1().unwrap().as_ref())).unwrap();
        let (header, message, signature) = parts(&key.sign(None, &claims).unwrap());
        assert_eq!(header["alg"], "EdDSA");
        UnparsedPublicKey::new(&ED25519, ed.public_key().as_ref()).verify(message.as_bytes(), &signature).unwrap();
        assert!(key.public_jwk("k1").is_none());
    }

    #[test]
    fn what_is_no_private_key_is_refused_and_a_key_is_not_shown() {
        for bad in ["", "hunter2", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
            assert_eq!(Key::from_pem(&Secret::from(bad.to_owned())).unwrap_err(), KeyError, "{bad}");
        }
        let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let key = Key::from_pem(&pem("PRIVATE KEY", ec.to_pkcs8v1().unwrap().as_ref())).unwrap();
        assert_eq!(format!("{key:?}"), "Key(ES256)");
        let fresh = || Key::from_pem(&fresh_p256().unwrap()).unwrap();
        let (one, other) = (fresh(), fresh());
        assert_eq!((one.algorithm(), one.thumbprint().unwrap().len()), ("ES256", 43));
        assert!(one.thumbprint() != other.thumbprint() && one.thumbprint() == one.thumbprint());
        assert_ne!(random_id().unwrap(), random_id().unwrap());
    }
}
