//! Answers of the OAuth endpoints: errors, tokens, introspection.

use bailiwick_core::{TaskId, Timestamp};
use serde_json::{Value, json};

use super::challenge::quotable;
use super::scope::Scope;
use crate::confirmation::Confirmation;
use crate::strict::put;
use crate::token::{Issued, Purpose, Verified};

/// Fields that every answer of the token endpoint carries (RFC 6749 section 5.1).
pub const NO_STORE: [(&str, &str); 2] = [("cache-control", "no-store"), ("pragma", "no-cache")];

/// An error of OAuth: an answer of RFC 6749 section 5.2, or told at a redirect URI, or to a client that registers. Its words are fixed and hold nothing of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}: {description}")]
pub struct OauthError {
    error: &'static str,
    description: &'static str,
    status: u16,
}

impl OauthError {
    const fn new(error: &'static str, description: &'static str, status: u16) -> Self {
        Self { error, description, status }
    }

    /// An error of another endpoint: of the authorization endpoint (RFC 6749 section 4.1.2.1) or of a registration (RFC 7591 section 3.2.2).
    pub(super) const fn named(error: &'static str, description: &'static str) -> Self {
        Self::new(error, description, 400)
    }

    /// A parameter is missing, repeated or malformed.
    #[must_use]
    pub const fn invalid_request(description: &'static str) -> Self {
        Self::new("invalid_request", description, 400)
    }

    /// The proof of possession breaks a rule of RFC 9449 section 4.3 (RFC 9449 section 5).
    #[must_use]
    pub const fn invalid_dpop_proof(description: &'static str) -> Self {
        Self::new("invalid_dpop_proof", description, 400)
    }

    /// The client takes the nonce that stands in the field `DPoP-Nonce`, and tries again (RFC 9449 section 8).
    #[must_use]
    pub const fn use_dpop_nonce() -> Self {
        Self::new("use_dpop_nonce", "take the nonce in DPoP-Nonce and make a new proof", 400)
    }

    /// The client is unknown, did not authenticate, or used a method that we do not take.
    #[must_use]
    pub const fn invalid_client(description: &'static str) -> Self {
        //= rfc6749#section-5.2
        // The authorization server MAY return an HTTP 401 (Unauthorized) status code to indicate which HTTP authentication
        // schemes are supported.
        Self::new("invalid_client", description, 401)
    }

    /// The client may not use this grant: it is suspended, or its review is overdue.
    #[must_use]
    pub const fn unauthorized_client(description: &'static str) -> Self {
        Self::new("unauthorized_client", description, 400)
    }

    /// The task that was named has ended or is not the client's.
    #[must_use]
    pub const fn invalid_grant(description: &'static str) -> Self {
        Self::new("invalid_grant", description, 400)
    }

    /// Another grant type.
    #[must_use]
    pub const fn unsupported_grant_type() -> Self {
        Self::new("unsupported_grant_type", "use client_credentials", 400)
    }

    /// The scope is malformed, unknown or more than may be had.
    #[must_use]
    pub const fn invalid_scope() -> Self {
        Self::new("invalid_scope", "the scope is malformed or cannot be granted", 400)
    }

    /// The resource is not one of ours (RFC 8707 section 2).
    #[must_use]
    pub const fn invalid_target() -> Self {
        Self::new("invalid_target", "the resource is not one that this server issues tokens for", 400)
    }

    /// The details are malformed, unknown, or more than may be had (RFC 9396 section 5).
    #[must_use]
    pub const fn invalid_authorization_details(description: &'static str) -> Self {
        Self::new("invalid_authorization_details", description, 400)
    }

    /// The body, with words of its own for whoever proved who it is. What RFC 6749 section 5.2 does not allow is left out of them.
    #[must_use]
    pub fn body_with(&self, words: &str) -> Value {
        json!({ "error": self.error, "error_description": quotable(words) })
    }

    /// The store or the ledger cannot be written at present.
    #[must_use]
    pub const fn temporarily_unavailable(description: &'static str) -> Self {
        Self::new("temporarily_unavailable", description, 503)
    }

    /// The error's name.
    #[must_use]
    pub const fn error(&self) -> &'static str {
        self.error
    }

    /// In words.
    #[must_use]
    pub const fn description(&self) -> &'static str {
        self.description
    }

    /// The HTTP status.
    #[must_use]
    pub const fn status(&self) -> u16 {
        self.status
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> Value {
        json!({ "error": self.error, "error_description": self.description })
    }
}

/// The answer of the token endpoint (RFC 6749 section 5.1).
#[derive(Debug)]
pub struct TokenAnswer<'a> {
    /// The token.
    pub issued: &'a Issued,
    /// Its scope.
    pub scope: &'a Scope,
    /// Its task, if it has one.
    pub task: Option<TaskId>,
}

impl TokenAnswer<'_> {
    /// The body. Holds the token: not for a log.
    #[must_use]
    pub fn body(&self) -> Value {
        let mut body = json!({
            "access_token": self.issued.token,
            "token_type": Confirmation::token_type(self.issued.confirmation.as_ref()),
            "expires_in": self.issued.expires_in,
            "scope": self.scope.to_string(),
        });
        if let Some(task) = self.task {
            put(&mut body, "task_id", json!(task));
        }
        body
    }
}

/// The answer of the introspection endpoint. `token` is what [`crate::Verifier::verify`] gave, if the caller found also that
/// the task is open, the token not revoked, and the asking client allowed to know.
#[must_use]
pub fn introspection(token: Option<&Verified>) -> Value {
    //= rfc7662#section-2.2
    // If the introspection call is properly authorized but the token is not active, does not exist on this server, or the
    // protected resource is not allowed to introspect this particular token, then the authorization server MUST return an
    // introspection response with the "active" field set to "false". Note that to avoid disclosing too much of the
    // authorization server's state to a third party, the authorization server SHOULD NOT include any additional information.
    let Some(token) = token else { return json!({ "active": false }) };
    let seconds = |at: Timestamp| at.as_seconds();
    let mut body = json!({
        "active": true,
        "iss": token.issuer,
        "aud": token.audience,
        "client_id": token.client_id(),
        "instance": token.instance,
        "scope": token.scope.to_string(),
        "token_type": Confirmation::token_type(token.confirmation.as_ref()),
        "iat": seconds(token.issued),
        "nbf": seconds(token.not_before),
        "exp": seconds(token.expires),
        "jti": token.jti,
    });
    if let Some(confirmation) = &token.confirmation {
        put(&mut body, "cnf", confirmation.claim());
    }
    match &token.purpose {
        Purpose::Task { task, subject, actors } => {
            put(&mut body, "sub", json!(subject));
            put(&mut body, "task_id", json!(task));
            put(&mut body, "act", crate::token::act(token.actor().as_str(), actors));
        }
        Purpose::Agent => match &token.acting.on_behalf_of {
            None => put(&mut body, "sub", json!(token.client_id())),
            Some(person) => {
                put(&mut body, "sub", json!(person));
                put(&mut body, "act", crate::token::act(token.actor().as_str(), &[]));
            }
        },
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_or_dead_token_is_told_as_inactive_and_nothing_else() {
        assert_eq!(introspection(None), json!({"active": false}));
    }

    #[test]
    fn only_a_client_that_did_not_authenticate_gets_401() {
        assert_eq!(OauthError::invalid_client("x").status(), 401);
        assert_eq!(OauthError::invalid_scope().status(), 400);
        assert_eq!(OauthError::invalid_target().body()["error"], "invalid_target");
    }
}
