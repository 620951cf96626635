//! The key that a token is bound to (RFC 7800): whoever presents the token proves that key too, or the token is worth nothing.

use bailiwick_core::Digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::keys::KeyId;
use crate::proof::ProofError;

const CNF: ProofError = ProofError::Claim("cnf");

/// What confirms a token: the claim `cnf`, with exactly one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// The key of DPoP proofs, by its thumbprint: `jkt` (RFC 9449 section 6.1).
    Key(KeyId),
    /// The client's certificate in TLS, by the SHA-256 of its DER: `x5t#S256` (RFC 8705 section 3.1).
    Certificate(Digest),
}

impl Confirmation {
    /// The value of the claim `cnf`.
    #[must_use]
    pub fn claim(&self) -> Value {
        match self {
            Self::Key(key) => json!({ "jkt": key.to_string() }),
            Self::Certificate(digest) => json!({ "x5t#S256": URL_SAFE_NO_PAD.encode(digest.as_bytes()) }),
        }
    }

    /// The `token_type` of a token that is bound so (RFC 9449 section 5: `DPoP`; RFC 8705 leaves it `Bearer`).
    #[must_use]
    pub const fn token_type(this: Option<&Self>) -> &'static str {
        match this {
            Some(Self::Key(_)) => "DPoP",
            Some(Self::Certificate(_)) | None => "Bearer",
        }
    }

    /// Reads the claim `cnf`. We write one member of two, and take nothing else.
    ///
    /// # Errors
    /// `Claim("cnf")`.
    pub fn of_claim(claim: &Value) -> Result<Self, ProofError> {
        let members = claim.as_object().filter(|m| m.len() == 1).ok_or(CNF)?;
        let (name, value) = members.iter().next().ok_or(CNF)?;
        let text = value.as_str().ok_or(CNF)?;
        match name.as_str() {
            "jkt" => text.parse().map(Self::Key).map_err(|_| CNF),
            "x5t#S256" => {
                let bytes: [u8; 32] = URL_SAFE_NO_PAD.decode(text).ok().and_then(|b| b.try_into().ok()).ok_or(CNF)?;
                Ok(Self::Certificate(Digest::from_bytes(bytes)))
            }
            _ => Err(CNF),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_read_as_it_was_written() {
        let key: KeyId = "A".repeat(43).parse().unwrap();
        for one in [Confirmation::Key(key), Confirmation::Certificate(Digest::of(b"der"))] {
            assert_eq!(Confirmation::of_claim(&one.claim()), Ok(one));
        }
    }

    #[test]
    fn a_claim_with_two_members_none_or_another_is_refused() {
        let jkt = "A".repeat(43);
        for bad in [
            json!({}),
            json!(null),
            json!("x"),
            json!({ "jkt": 1 }),
            json!({ "jkt": "short" }),
            json!({ "kid": jkt }),
            json!({ "jwk": {} }),
            json!({ "jkt": jkt, "x5t#S256": jkt }),
            json!({ "x5t#S256": format!("{jkt}=") }),
        ] {
            assert_eq!(Confirmation::of_claim(&bad), Err(CNF), "{bad}");
        }
    }
}
