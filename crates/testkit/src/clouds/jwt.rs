//! JWTs as a cloud reads them: the signature against a key that it was told, then the claims. And keys to tell it.

use std::sync::OnceLock;

use anyhow::{Context as _, Result, bail};
use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::Value;

/// A key pair: the private half in PEM, for a client, and the public one, for a cloud.
#[derive(Debug, Clone)]
pub struct Pair {
    /// Private, in PEM.
    pub pem: String,
    /// Public: `RSAPublicKey` in DER, or a point.
    pub public: Vec<u8>,
    /// `RS256` or `ES256`.
    pub algorithm: &'static str,
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

/// An RSA key, the same in one process, in the form that GitHub gives one in (PKCS #1).
pub fn rsa() -> Result<Pair> {
    static PAIR: OnceLock<Option<Pair>> = OnceLock::new();
    let make = || {
        let key = RsaKeyPair::generate(KeySize::Rsa2048).ok()?;
        let pkcs8 = key.as_der().ok()?;
        // PKCS #8 of a key of this length is 26 bytes and PKCS #1.
        let pkcs1 = pkcs8.as_ref().get(26..)?;
        Some(Pair { pem: pem("RSA PRIVATE KEY", pkcs1), public: key.public_key().as_ref().to_vec(), algorithm: "RS256" })
    };
    PAIR.get_or_init(make).clone().context("no RSA key")
}

/// A fresh key on P-256.
pub fn p256() -> Result<Pair> {
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
    let pkcs8 = key.to_pkcs8v1()?;
    Ok(Pair { pem: pem("PRIVATE KEY", pkcs8.as_ref()), public: key.public_key().as_ref().to_vec(), algorithm: "ES256" })
}

/// Header and claims of a JWT that this key signed.
pub fn verify(jwt: &str, key: &Pair) -> Result<(Value, Value)> {
    let (message, signature) = jwt.rsplit_once('.').context("no JWT")?;
    let (header, claims) = message.split_once('.').context("no JWT")?;
    let part = |text: &str| -> Result<Value> { Ok(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text)?)?) };
    let (header, claims) = (part(header)?, part(claims)?);
    if header.get("alg").and_then(Value::as_str) != Some(key.algorithm) {
        bail!("another algorithm");
    }
    let signature = URL_SAFE_NO_PAD.decode(signature)?;
    let verified = match key.algorithm {
        "RS256" => UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &key.public).verify(message.as_bytes(), &signature),
        _ => UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &key.public).verify(message.as_bytes(), &signature),
    };
    verified.ok().context("the signature is wrong")?;
    Ok((header, claims))
}

/// A claim that is a number.
#[must_use]
pub fn number(claims: &Value, name: &str) -> i64 {
    claims.get(name).and_then(Value::as_i64).unwrap_or_default()
}

/// A claim that is text.
#[must_use]
pub fn text<'a>(claims: &'a Value, name: &str) -> &'a str {
    claims.get(name).and_then(Value::as_str).unwrap_or_default()
}
