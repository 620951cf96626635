//! JSON Web Signatures in their compact form (RFC 7515 section 7.1): split and read strictly, verified with a given key, made.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::keys::{KeyError, PublicKey, SigningKey};
use crate::proof::ProofError;
use crate::strict::Object;

/// The longest token that is looked at, in bytes.
pub(crate) const TOKEN_MAX: usize = 8 * 1024;

/// Headers that name a place where a key may be fetched, or a certificate. A key comes from our own register, never from the token; `jwk` is
/// refused by [`Compact::parse`].
const FOREIGN_KEYS: [&str; 3] = ["jku", "x5u", "x5c"];

/// A compact JWS, split and read. Nothing in it is proved until [`Compact::verified_by`] says so.
pub(crate) struct Compact<'a> {
    signed: &'a str,
    signature: Vec<u8>,
    /// The header. Read by code that chooses a key, and by nothing else.
    pub(crate) header: Object,
    /// The claims, not proved.
    pub(crate) claims: Object,
}

impl<'a> Compact<'a> {
    /// Splits a token and reads its header and claims.
    pub(crate) fn parse(token: &'a str) -> Result<Self, ProofError> {
        let jws = Self::parse_with_key(token)?;
        if jws.header.member("jwk").is_some() {
            return Err(ProofError::Header("jwk"));
        }
        Ok(jws)
    }

    /// The same for a proof that brings its own key, of which nothing is believed but that its holder signed (RFC 9449).
    pub(crate) fn parse_with_key(token: &'a str) -> Result<Self, ProofError> {
        Self::read(token, TOKEN_MAX, crate::strict::WIDTH_MAX)
    }

    /// As [`Compact::parse`], for tokens of others, which say more: so many bytes, and so many members or elements at each place of the claims.
    pub(crate) fn parse_up_to(token: &'a str, bytes: usize, width: usize) -> Result<Self, ProofError> {
        let jws = Self::read(token, bytes, width)?;
        if jws.header.member("jwk").is_some() {
            return Err(ProofError::Header("jwk"));
        }
        Ok(jws)
    }

    fn read(token: &'a str, bytes: usize, width: usize) -> Result<Self, ProofError> {
        if token.len() > bytes {
            return Err(ProofError::TooLong(bytes));
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(ProofError::Form("not three parts"))?;
        let (header, claims) = signed.split_once('.').ok_or(ProofError::Form("not three parts"))?;
        if claims.contains('.') {
            return Err(ProofError::Form("not three parts"));
        }
        let header = Object::parse(&decode(header)?)?;
        refuse_headers(&header)?;
        Ok(Self { signed, signature: decode(signature)?, header, claims: Object::parse_wide(&decode(claims)?, width)? })
    }

    /// The algorithm that the header claims.
    pub(crate) fn algorithm(&self) -> Result<&str, ProofError> {
        self.header.text("alg").map_err(|_| ProofError::Algorithm)
    }

    /// The type that the header claims, without the prefix that RFC 7515 section 4.1.9 lets one leave out, in lower case.
    pub(crate) fn typ(&self) -> Result<Option<String>, ProofError> {
        let typ = self.header.text_if("typ").map_err(|_| ProofError::Type)?.map(str::to_ascii_lowercase);
        Ok(typ.map(|t| t.strip_prefix("application/").map_or(t.clone(), str::to_owned)))
    }

    /// Was it signed with this key, by the algorithm that the header claims?
    pub(crate) fn verified_by(&self, key: &PublicKey) -> Result<(), ProofError> {
        key.verify(self.algorithm()?, self.signed.as_bytes(), &self.signature)
    }
}

fn decode(part: &str) -> Result<Vec<u8>, ProofError> {
    //= rfc7515#section-2
    // Base64 encoding using the URL- and filename-safe character set [...] with all trailing '=' characters omitted [...]
    // and without the inclusion of any line breaks, whitespace, or other additional characters.
    URL_SAFE_NO_PAD.decode(part).map_err(|_| ProofError::Form("not base64url"))
}

fn refuse_headers(header: &Object) -> Result<(), ProofError> {
    //= rfc7515#section-4.1.11
    // If any of the listed extension Header Parameters are not understood and supported by the recipient, then the JWS is
    // invalid.
    if header.member("crit").is_some() {
        return Err(ProofError::Header("crit"));
    }
    //= rfc7797#section-3
    // The "b64" header must be listed in "crit"; we understand neither.
    if header.member("b64").is_some() {
        return Err(ProofError::Header("b64"));
    }
    //= rfc8725#section-3.10
    // Applications should protect against such attacks by ensuring that key resolution does not follow "jku" and "x5u"
    // blindly. We follow nothing.
    FOREIGN_KEYS.into_iter().find(|name| header.member(name).is_some()).map_or(Ok(()), |name| Err(ProofError::Header(name)))
}

/// Signs claims as a compact JWS of a type, with one of our Ed25519 keys.
pub(crate) fn sign(key: &SigningKey, typ: &str, claims: &Value) -> Result<String, KeyError> {
    signed(key, &format!(r#"{{"typ":"{typ}","alg":"EdDSA","kid":"{}"}}"#, key.id()), claims)
}

/// The same with the public key itself in the header.
pub(crate) fn sign_with_key(key: &SigningKey, typ: &str, claims: &Value) -> Result<String, KeyError> {
    let jwk = key.public().jwk();
    let x = jwk.get("x").and_then(Value::as_str).ok_or(KeyError::Library)?;
    signed(key, &format!(r#"{{"typ":"{typ}","alg":"EdDSA","jwk":{{"kty":"OKP","crv":"Ed25519","x":"{x}"}}}}"#), claims)
}

fn signed(key: &SigningKey, header: &str, claims: &Value) -> Result<String, KeyError> {
    let mut token = URL_SAFE_NO_PAD.encode(header);
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(claims.to_string(), &mut token);
    let signature = key.sign(token.as_bytes())?;
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut token);
    Ok(token)
}
