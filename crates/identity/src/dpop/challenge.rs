//! The value of a `WWW-Authenticate` field of the scheme `DPoP` (RFC 9449 section 7.1).

use crate::keys::Algorithm;
use crate::oauth::quotable;

/// Why a request is refused, to whoever presented a token with a proof of possession, or should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// No token was given, or this is not the scheme that it came by: nothing is said of an error.
    Plain,
    /// The token is expired, revoked, malformed, not for this resource, or bound to another key.
    InvalidToken,
    /// The proof breaks a rule of RFC 9449 section 4.3.
    InvalidProof,
    /// The client takes the nonce that stands in the field `DPoP-Nonce`, and tries again.
    UseNonce,
}

impl Challenge {
    /// The field's value. `metadata` is the URL of the resource's metadata; `scope` is what a client should ask for.
    #[must_use]
    pub fn value(self, metadata: &str, scope: &str) -> String {
        let mut value = format!("DPoP resource_metadata=\"{}\"", quotable(metadata));
        let mut put = |name: &str, text: &str| value.push_str(&format!(", {name}=\"{}\"", quotable(text)));
        match self {
            //= rfc9449#section-7.2
            // If no authentication information has been included with the request, then the challenges SHOULD NOT include an error code or
            // other error information, as per Section 3.1 of [RFC6750].
            Self::Plain => {}
            Self::InvalidToken => {
                put("error", "invalid_token");
                put("error_description", "the token is expired, revoked, malformed, not for this resource, or bound to another key");
            }
            //= rfc9449#section-7.1
            // invalid_dpop_proof is used to indicate that the DPoP proof itself was deemed invalid based on the criteria of Section 4.3.
            Self::InvalidProof => {
                put("error", "invalid_dpop_proof");
                put("error_description", "the proof is not valid for this request, this token and this time, or was used before");
            }
            Self::UseNonce => {
                put("error", "use_dpop_nonce");
                put("error_description", "take the nonce in DPoP-Nonce and make a new proof");
            }
        }
        put("scope", scope);
        //= rfc9449#section-7.1
        // An algs parameter SHOULD be included to signal to the client the JWS algorithms that are acceptable for the DPoP proof JWT. The
        // value of the parameter is a space-delimited list of JWS alg (Algorithm) header values.
        put("algs", &Algorithm::NAMES.join(" "));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_says_which_algorithms_are_taken_and_what_was_wrong() {
        let of = |challenge: Challenge| challenge.value("https://gw.example/.well-known/oauth-protected-resource/mcp", "agent");
        let plain = of(Challenge::Plain);
        assert!(plain.starts_with("DPoP resource_metadata=\"https://gw.example/") && !plain.contains("error"), "{plain}");
        assert!(plain.ends_with("scope=\"agent\", algs=\"EdDSA Ed25519 ES256 ES384 RS256 PS256\""), "{plain}");
        assert!(of(Challenge::UseNonce).contains("error=\"use_dpop_nonce\""));
        assert!(of(Challenge::InvalidProof).contains("error=\"invalid_dpop_proof\""));
        assert!(of(Challenge::InvalidToken).contains("error=\"invalid_token\""));
    }
}
