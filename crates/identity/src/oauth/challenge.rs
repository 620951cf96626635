//! The value of a `WWW-Authenticate` field: of the scheme `Bearer` (RFC 6750 section 3, RFC 9728 section 5.1) and of `DPoP` (RFC 9449 section 7.1).

use crate::keys::Algorithm;

/// A scheme by which a token comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Whoever has the token may use it.
    Bearer,
    /// With a proof of the key that the token is bound to.
    Dpop,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// No token was given, or this is not the scheme that it came by: nothing is said of an error.
    Missing,
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
    pub fn value(self, scheme: Scheme, metadata: &str, scope: &str) -> String {
        let word = if scheme == Scheme::Dpop { "DPoP" } else { "Bearer" };
        let mut value = format!("{word} resource_metadata=\"{}\"", quotable(metadata));
        let mut put = |name: &str, text: &str| value.push_str(&format!(", {name}=\"{}\"", quotable(text)));
        if let Some((error, description)) = self.error() {
            put("error", error);
            put("error_description", description);
        }
        put("scope", scope);
        if scheme == Scheme::Dpop {
            //= rfc9449#section-7.1
            // An algs parameter SHOULD be included to signal to the client the JWS algorithms that are acceptable for the DPoP proof JWT.
            // The value of the parameter is a space-delimited list of JWS alg (Algorithm) header values.
            put("algs", &Algorithm::NAMES.join(" "));
        }
        value
    }

    const fn error(self) -> Option<(&'static str, &'static str)> {
        match self {
            //= rfc6750#section-3.1
            // If the request lacks any authentication information [...] the resource server SHOULD NOT include an error code or other error
            // information.
            //= rfc9449#section-7.2
            // If no authentication information has been included with the request, then the challenges SHOULD NOT include an error code or
            // other error information, as per Section 3.1 of [RFC6750].
            Self::Missing => None,
            Self::InvalidToken => Some(("invalid_token", "the token is expired, revoked, malformed, not for this resource, or bound to another key")),
            //= rfc9449#section-7.1
            // invalid_dpop_proof is used to indicate that the DPoP proof itself was deemed invalid based on the criteria of Section 4.3.
            Self::InvalidProof => {
                Some(("invalid_dpop_proof", "the proof is not valid for this request, this token and this time, or was used before"))
            }
            Self::UseNonce => Some(("use_dpop_nonce", "take the nonce in DPoP-Nonce and make a new proof")),
        }
    }
}

/// The characters that RFC 6750 section 3 allows inside the quotes. Others are dropped: they come from our own configuration.
pub(super) fn quotable(text: &str) -> String {
    text.chars().filter(|c| matches!(c, ' '..='~') && !matches!(c, '"' | '\\')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const METADATA: &str = "https://gw.example/.well-known/oauth-protected-resource/mcp";

    #[test]
    fn a_challenge_has_the_form_that_clients_parse() {
        let bearer = |challenge: Challenge| challenge.value(Scheme::Bearer, METADATA, "mcp:tools");
        assert_eq!(bearer(Challenge::Missing), format!("Bearer resource_metadata=\"{METADATA}\", scope=\"mcp:tools\""));
        let refused = bearer(Challenge::InvalidToken);
        assert!(refused.contains("error=\"invalid_token\"") && refused.ends_with("scope=\"mcp:tools\""), "{refused}");
    }

    #[test]
    fn a_challenge_of_dpop_says_which_algorithms_are_taken_and_what_was_wrong() {
        let of = |challenge: Challenge| challenge.value(Scheme::Dpop, METADATA, "agent");
        let plain = of(Challenge::Missing);
        assert!(plain.starts_with("DPoP resource_metadata=\"https://gw.example/") && !plain.contains("error"), "{plain}");
        assert!(plain.ends_with("scope=\"agent\", algs=\"EdDSA Ed25519 ES256 ES384 RS256 PS256\""), "{plain}");
        assert!(of(Challenge::UseNonce).contains("error=\"use_dpop_nonce\""));
        assert!(of(Challenge::InvalidProof).contains("error=\"invalid_dpop_proof\""));
        assert!(of(Challenge::InvalidToken).contains("error=\"invalid_token\""));
    }

    #[test]
    fn a_challenge_cannot_be_broken_out_of() {
        let value = Challenge::Missing.value(Scheme::Bearer, "a\"\r\nX: y\\", "s\"");
        assert_eq!(value, "Bearer resource_metadata=\"aX: y\", scope=\"s\"");
    }
}
