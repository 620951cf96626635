//! Keys: ours are Ed25519; those of agents and people are parsed strictly from a JWK or a PEM. A private key never shows itself.

mod der;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::signature::{self, Ed25519KeyPair, KeyPair as _, ParsedPublicKey, RsaPublicKeyComponents};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::proof::ProofError;
use crate::strict::{Object, put};

/// The longest text of a key that is read, in bytes: room for RSA with 8,192 bits.
pub const KEY_TEXT_MAX: usize = 8 * 1024;

/// Why a key is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not a JWK, a PEM or a PKCS#8 of the expected form.
    #[error("the key is malformed: {0}")]
    Form(&'static str),
    /// A private key where a public one belongs.
    #[error("the key is private: give its public half")]
    Private,
    /// A kind that we do not take.
    #[error("the kind of key is not supported: take Ed25519, P-256, P-384, or RSA with 2048 to 8192 bits")]
    Kind,
    /// A key that protects nothing.
    #[error("the key is weak: {0}")]
    Weak(&'static str),
    /// The cryptographic library failed.
    #[error("the cryptographic library failed")]
    Library,
}

/// A signature algorithm of RFC 7518, RFC 8037 and RFC 9864. There is no HMAC and no `none`: they do not exist here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Algorithm {
    /// Ed25519, named `EdDSA` (RFC 8037) or `Ed25519` (RFC 9864).
    EdDsa,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PSS with SHA-256.
    Ps256,
}

impl Algorithm {
    /// The names of all, as metadata lists them.
    pub const NAMES: [&'static str; 6] = ["EdDSA", "Ed25519", "ES256", "ES384", "RS256", "PS256"];

    /// All.
    pub const ALL: [Self; 5] = [Self::EdDsa, Self::Es256, Self::Es384, Self::Rs256, Self::Ps256];

    /// From the name in a header. Exact: no other spelling, no other algorithm.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "EdDSA" | "Ed25519" => Some(Self::EdDsa),
            "ES256" => Some(Self::Es256),
            "ES384" => Some(Self::Es384),
            "RS256" => Some(Self::Rs256),
            "PS256" => Some(Self::Ps256),
            _ => None,
        }
    }
}

/// A key's RFC 7638 thumbprint with SHA-256. Text form: 43 characters of base64url.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 32]);

impl KeyId {
    fn of(required_members: &str) -> Self {
        Self(*bailiwick_core::Digest::of(required_members.as_bytes()).as_bytes())
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for KeyId {
    type Err = KeyError;
    fn from_str(text: &str) -> Result<Self, KeyError> {
        fixed(text).map(Self)
    }
}

/// A public key of a kind that we take, well-formed and strong enough, with the algorithms that it may be used for.
#[derive(Clone)]
pub struct PublicKey(Arc<Parsed>);

struct Parsed {
    id: KeyId,
    name: Option<String>,
    jwk: Value,
    uses: Vec<(Algorithm, ParsedPublicKey)>,
}

impl PublicKey {
    /// Reads a JWK (RFC 7517) or a PEM `PUBLIC KEY` (RFC 7468 section 13).
    ///
    /// # Errors
    /// `Private` if a private key stands there; `Kind`, `Weak` or `Form` if it is none that we take.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        if text.len() > KEY_TEXT_MAX {
            return Err(KeyError::Form("too long"));
        }
        match text.trim() {
            jwk if jwk.starts_with('{') => Self::from_object(&Object::parse(jwk.as_bytes()).map_err(|_| KeyError::Form("not a JWK"))?),
            pem => Self::from_spki(&from_pem(pem, "PUBLIC KEY")?),
        }
    }

    /// Reads a JWK that is JSON already, for instance from a configuration file.
    ///
    /// # Errors
    /// As [`PublicKey::parse`].
    pub fn from_jwk(jwk: &Value) -> Result<Self, KeyError> {
        Self::parse(&jwk.to_string())
    }

    pub(crate) fn from_object(jwk: &Object) -> Result<Self, KeyError> {
        //= rfc7518#section-6
        // The members "d", "p", "q", "dp", "dq", "qi", "oth" and "k" are private.
        if jwk.names().any(|n| matches!(n, "d" | "p" | "q" | "dp" | "dq" | "qi" | "oth" | "k")) {
            return Err(KeyError::Private);
        }
        let text = |name: &'static str| jwk.text(name).map_err(|_| KeyError::Form("a JWK's member is missing or no text"));
        let optional = |name: &'static str| jwk.text_if(name).map_err(|_| KeyError::Form("a JWK's member is no text"));
        //= rfc7517#section-4.2
        // Values defined by this specification are: "sig" (signature), "enc" (encryption).
        if optional("use")?.is_some_and(|u| u != "sig") {
            return Err(KeyError::Form("the key is not for signatures"));
        }
        //= rfc7517#section-4.3
        // "verify" (verify digital signature or MAC)
        if let Some(ops) = jwk.member("key_ops") {
            let verifies = ops.as_array().is_some_and(|all| all.iter().any(|op| op == "verify"));
            if !verifies {
                return Err(KeyError::Form("the key is not for verifying"));
            }
        }
        let key = match (text("kty")?, optional("crv")?) {
            ("OKP", Some("Ed25519")) => Self::ed25519(fixed(text("x")?)?)?,
            ("EC", Some("P-256")) => Self::p256(fixed(text("x")?)?, fixed(text("y")?)?)?,
            ("EC", Some("P-384")) => Self::p384(fixed(text("x")?)?, fixed(text("y")?)?)?,
            ("RSA", None) => Self::rsa(&bytes(text("n")?)?, &bytes(text("e")?)?)?,
            _ => return Err(KeyError::Kind),
        };
        key.narrowed(optional("alg")?, optional("kid")?)
    }

    //= rfc7517#section-4.4
    // The "alg" (algorithm) parameter identifies the algorithm intended for use with the key.
    fn narrowed(self, alg: Option<&str>, name: Option<&str>) -> Result<Self, KeyError> {
        let Parsed { id, jwk, mut uses, .. } = Arc::into_inner(self.0).ok_or(KeyError::Library)?;
        if let Some(alg) = alg {
            let only = Algorithm::from_name(alg).ok_or(KeyError::Kind)?;
            uses.retain(|(a, _)| *a == only);
            if uses.is_empty() {
                return Err(KeyError::Form("the key's `alg` is not one of its kind"));
            }
        }
        if name.is_some_and(|n| n.is_empty() || n.len() > 256) {
            return Err(KeyError::Form("the key's `kid` is empty or too long"));
        }
        Ok(Self(Arc::new(Parsed { id, name: name.map(str::to_owned), jwk, uses })))
    }

    /// From the DER of a `SubjectPublicKeyInfo` (RFC 5280 section 4.1).
    pub(crate) fn from_spki(spki: &[u8]) -> Result<Self, KeyError> {
        match der::spki(spki)? {
            der::Spki::Ed25519(x) => Self::ed25519(x),
            der::Spki::P256(x, y) => Self::p256(x, y),
            der::Spki::P384(x, y) => Self::p384(x, y),
            der::Spki::Rsa { n, e } => Self::rsa(n, e),
        }
    }

    fn ed25519(x: [u8; 32]) -> Result<Self, KeyError> {
        if small_order(x) {
            return Err(KeyError::Weak("a point of small order"));
        }
        let uses = vec![(Algorithm::EdDsa, accepted(ParsedPublicKey::new(&signature::ED25519, x))?)];
        let x = URL_SAFE_NO_PAD.encode(x);
        //= rfc8037#section-2
        // The required members of an OKP key's thumbprint are "crv", "kty" and "x".
        let id = KeyId::of(&format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#));
        Ok(Self::new(id, json!({"kty": "OKP", "crv": "Ed25519", "x": x, "alg": "EdDSA"}), uses))
    }

    fn p256(x: [u8; 32], y: [u8; 32]) -> Result<Self, KeyError> {
        let point: Vec<u8> = [4].into_iter().chain(x).chain(y).collect();
        let key = accepted(ParsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point))?;
        Ok(Self::ec("P-256", &x, &y, Algorithm::Es256, "ES256", key))
    }

    fn p384(x: [u8; 48], y: [u8; 48]) -> Result<Self, KeyError> {
        let point: Vec<u8> = [4].into_iter().chain(x).chain(y).collect();
        let key = accepted(ParsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point))?;
        Ok(Self::ec("P-384", &x, &y, Algorithm::Es384, "ES384", key))
    }

    fn ec(curve: &str, x: &[u8], y: &[u8], algorithm: Algorithm, alg: &str, key: ParsedPublicKey) -> Self {
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        //= rfc7638#section-3.2
        // The required members for an elliptic curve public key, in lexicographic order, are: "crv" "kty" "x" "y"
        let id = KeyId::of(&format!(r#"{{"crv":"{curve}","kty":"EC","x":"{x}","y":"{y}"}}"#));
        Self::new(id, json!({"kty": "EC", "crv": curve, "x": x, "y": y, "alg": alg}), vec![(algorithm, key)])
    }

    fn rsa(n: &[u8], e: &[u8]) -> Result<Self, KeyError> {
        let Some((first, _)) = n.split_first().filter(|(first, _)| **first != 0) else {
            return Err(KeyError::Form("the modulus is not in its shortest form"));
        };
        let bits = n.len().saturating_mul(8).saturating_sub(usize::try_from(first.leading_zeros()).unwrap_or(0));
        //= rfc7518#section-3.3
        // A key of size 2048 bits or larger MUST be used with these algorithms.
        match bits {
            0..2048 => return Err(KeyError::Weak("RSA with fewer than 2048 bits")),
            2048..=8192 => {}
            _ => return Err(KeyError::Kind),
        }
        if e != [1, 0, 1] {
            return Err(KeyError::Weak("an RSA exponent other than 65537"));
        }
        let parts = RsaPublicKeyComponents { n, e };
        let uses = vec![
            (Algorithm::Rs256, accepted(parts.to_parsed_public_key(&signature::RSA_PKCS1_2048_8192_SHA256))?),
            (Algorithm::Ps256, accepted(parts.to_parsed_public_key(&signature::RSA_PSS_2048_8192_SHA256))?),
        ];
        let n = URL_SAFE_NO_PAD.encode(n);
        //= rfc7638#section-3.2
        // The required members for an RSA public key, in lexicographic order, are: "e" "kty" "n"
        let id = KeyId::of(&format!(r#"{{"e":"AQAB","kty":"RSA","n":"{n}"}}"#));
        Ok(Self::new(id, json!({"kty": "RSA", "n": n, "e": "AQAB"}), uses))
    }

    fn new(id: KeyId, jwk: Value, uses: Vec<(Algorithm, ParsedPublicKey)>) -> Self {
        Self(Arc::new(Parsed { id, name: None, jwk, uses }))
    }

    /// Its RFC 7638 thumbprint.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.0.id
    }

    /// Is it the key that a header's `kid` names: by thumbprint, or by the `kid` that its JWK was registered with?
    #[must_use]
    pub fn is_named(&self, kid: &str) -> bool {
        self.0.name.as_deref() == Some(kid) || kid.parse() == Ok(self.0.id)
    }

    /// The public JWK, with its thumbprint as `kid`.
    #[must_use]
    pub fn jwk(&self) -> Value {
        let mut jwk = self.0.jwk.clone();
        put(&mut jwk, "use", json!("sig"));
        put(&mut jwk, "kid", json!(self.0.id.to_string()));
        jwk
    }

    /// The public key as PEM (RFC 7468 section 13).
    ///
    /// # Errors
    /// `Library` if the cryptographic library cannot encode it.
    pub fn to_pem(&self) -> Result<String, KeyError> {
        let (_, key) = self.0.uses.first().ok_or(KeyError::Library)?;
        let spki = key.as_der().map_err(|_| KeyError::Library)?;
        Ok(to_pem(spki.as_ref(), "PUBLIC KEY").to_string())
    }

    /// May it be used for this algorithm?
    #[must_use]
    pub fn allows(&self, algorithm: Algorithm) -> bool {
        self.0.uses.iter().any(|(a, _)| *a == algorithm)
    }

    /// Verifies a signature. The key decides which algorithms exist; the name from the header only chooses among them.
    ///
    /// # Errors
    /// `Algorithm` if the key is not for the one named, `Signature` if it is wrong.
    pub fn verify(&self, alg: &str, message: &[u8], signature: &[u8]) -> Result<(), ProofError> {
        //= rfc8725#section-3.1
        // Libraries MUST enable the caller to specify a supported set of algorithms and MUST NOT use any other algorithms when
        // performing cryptographic operations. [...] Each key MUST be used with exactly one algorithm.
        let named = Algorithm::from_name(alg).ok_or(ProofError::Algorithm)?;
        let (_, key) = self.0.uses.iter().find(|(a, _)| *a == named).ok_or(ProofError::Algorithm)?;
        key.verify_sig(message, signature).map_err(|_| ProofError::Signature)
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for PublicKey {}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.0.id)
    }
}

/// A JWK set (RFC 7517 section 5) of public keys.
#[must_use]
pub fn jwks(keys: &[PublicKey]) -> Value {
    json!({ "keys": keys.iter().map(PublicKey::jwk).collect::<Vec<_>>() })
}

/// An Ed25519 key of ours, or of an agent or person that we made one for. Never shows its private half.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl SigningKey {
    /// Makes a key. Gives it with its PKCS#8 (RFC 5958, version 1), to be kept where only its holder can read it.
    ///
    /// # Errors
    /// `Library` if the cryptographic library fails.
    pub fn generate() -> Result<(Self, Zeroizing<Vec<u8>>), KeyError> {
        let pair = Ed25519KeyPair::generate().map_err(|_| KeyError::Library)?;
        let pkcs8 = pair.to_pkcs8v1().map_err(|_| KeyError::Library)?;
        Ok((Self::from_pair(pair)?, Zeroizing::new(pkcs8.as_ref().to_vec())))
    }

    /// From a PKCS#8 of an Ed25519 key.
    ///
    /// # Errors
    /// `Form` if it is none.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, KeyError> {
        Self::from_pair(Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|_| KeyError::Form("not an Ed25519 key in PKCS#8"))?)
    }

    /// From a PEM `PRIVATE KEY` (RFC 7468 section 10), as `openssl genpkey -algorithm ed25519` writes it.
    ///
    /// # Errors
    /// `Form` if it is none.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        Self::from_pkcs8(&from_pem(pem.trim(), "PRIVATE KEY")?)
    }

    fn from_pair(pair: Ed25519KeyPair) -> Result<Self, KeyError> {
        let x = pair.public_key().as_ref().try_into().map_err(|_| KeyError::Library)?;
        Ok(Self { public: PublicKey::ed25519(x)?, pair })
    }

    /// The public half.
    #[must_use]
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The RFC 7638 thumbprint of the public half.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.public.id()
    }

    /// Signs. The caller owns the domain separation: JWTs begin with `eyJ`, other messages with `bailiwick-`.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        Ok(self.pair.try_sign(message).map_err(|_| KeyError::Library)?.as_ref().to_vec())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({}, ..)", self.id())
    }
}

/// A PKCS#8 as PEM, for a key file.
#[must_use]
pub fn private_pem(pkcs8: &[u8]) -> Zeroizing<String> {
    to_pem(pkcs8, "PRIVATE KEY")
}

fn to_pem(der: &[u8], label: &str) -> Zeroizing<String> {
    let body = Zeroizing::new(STANDARD.encode(der));
    let mut pem = Zeroizing::new(String::with_capacity(body.len().saturating_add(body.len() / 32).saturating_add(96)));
    pem.push_str(&format!("-----BEGIN {label}-----\n"));
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at_checked(64).unwrap_or((rest, ""));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}

fn from_pem(text: &str, label: &str) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    if text.len() > KEY_TEXT_MAX {
        return Err(KeyError::Form("too long"));
    }
    if label == "PUBLIC KEY" && text.contains("PRIVATE KEY-----") {
        return Err(KeyError::Private);
    }
    let body = text
        .strip_prefix(&format!("-----BEGIN {label}-----"))
        .and_then(|t| t.strip_suffix(&format!("-----END {label}-----")))
        .ok_or(KeyError::Form("neither a JWK nor one PEM block of the expected label"))?;
    let body: Zeroizing<String> = Zeroizing::new(body.chars().filter(|c| !c.is_ascii_whitespace()).collect());
    STANDARD.decode(body.as_bytes()).map(Zeroizing::new).map_err(|_| KeyError::Form("not base64"))
}

fn accepted<E>(key: Result<ParsedPublicKey, E>) -> Result<ParsedPublicKey, KeyError> {
    key.map_err(|_| KeyError::Form("not a key of its kind"))
}

fn bytes(text: &str) -> Result<Vec<u8>, KeyError> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| KeyError::Form("not base64url"))
}

fn fixed<const N: usize>(text: &str) -> Result<[u8; N], KeyError> {
    bytes(text)?.try_into().map_err(|_| KeyError::Form("a member has the wrong length"))
}

/// The encodings of the eight points of small order, two of them not canonical: a signature of such a "key" fits any message.
fn small_order(mut x: [u8; 32]) -> bool {
    const ORDER_8: [[u8; 32]; 2] = [
        [
            0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33,
            0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
        ],
        [
            0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc,
            0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
        ],
    ];
    // The sign bit of x does not matter here.
    if let Some(last) = x.last_mut() {
        *last &= 0x7f;
    }
    let near = |low: u8, fill: u8, high: u8| {
        let middle = x.get(1..31).is_some_and(|m| m.iter().all(|b| *b == fill));
        x.first() == Some(&low) && middle && x.last() == Some(&high)
    };
    ORDER_8.contains(&x) || near(0, 0, 0) || near(1, 0, 0) || (0xec..=0xee).any(|low| near(low, 0xff, 0x7f))
}

#[cfg(test)]
mod tests;
