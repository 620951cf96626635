//! Answers of the OAuth endpoints: errors, tokens, introspection, and the challenges of a protected resource.

use bailiwick_core::{TaskId, Timestamp};
use serde_json::{Value, json};

use super::scope::Scope;
use crate::confirmation::Confirmation;
use crate::strict::put;
use crate::token::{Issued, Purpose, Verified};

/// Fields that every answer of the token endpoint carries (RFC 6749 section 5.1).
pub const NO_STORE: [(&str, &str); 2] = [("cache-control", "no-store"), ("pragma", "no-cache")];

/// An error answer of RFC 6749 section 5.2. Its words are fixed and hold nothing of the request.
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

/// The value of a `WWW-Authenticate` field (RFC 6750 section 3, RFC 9728 section 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Challenge<'a> {
    /// No token was given: 401 without an error.
    Missing,
    /// The token is expired, revoked, malformed or not for this resource: 401.
    InvalidToken,
    /// The request is malformed: 400.
    InvalidRequest,
    /// The token is good and its scope is not enough: 403, with the scope that is needed.
    InsufficientScope(&'a str),
}

impl Challenge<'_> {
    /// The HTTP status that goes with it.
    #[must_use]
    pub const fn status(&self) -> u16 {
        match self {
            Self::Missing | Self::InvalidToken => 401,
            Self::InvalidRequest => 400,
            Self::InsufficientScope(_) => 403,
        }
    }

    /// The field's value. `metadata` is the URL of the resource's metadata; `scope` is what a client should ask for.
    #[must_use]
    pub fn value(&self, metadata: &str, scope: &str) -> String {
        let mut value = format!("Bearer resource_metadata=\"{}\"", quotable(metadata));
        let mut put = |name: &str, text: &str| value.push_str(&format!(", {name}=\"{}\"", quotable(text)));
        //= rfc6750#section-3.1
        // If the request lacks any authentication information [...] the resource server SHOULD NOT include an error code or
        // other error information.
        match self {
            Self::Missing => put("scope", scope),
            Self::InvalidToken => {
                put("error", "invalid_token");
                put("error_description", "the token is expired, revoked, malformed, or not for this resource");
                put("scope", scope);
            }
            Self::InvalidRequest => put("error", "invalid_request"),
            Self::InsufficientScope(needed) => {
                put("error", "insufficient_scope");
                put("scope", needed);
            }
        }
        value
    }
}

/// The characters that RFC 6750 section 3 allows inside the quotes. Others are dropped: they come from our own configuration.
pub(crate) fn quotable(text: &str) -> String {
    text.chars().filter(|c| matches!(c, ' '..='~') && !matches!(c, '"' | '\\')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_or_dead_token_is_told_as_inactive_and_nothing_else() {
        assert_eq!(introspection(None), json!({"active": false}));
    }

    #[test]
    fn a_challenge_has_the_form_that_clients_parse() {
        let metadata = "https://gw.example/.well-known/oauth-protected-resource/mcp";
        assert_eq!(Challenge::Missing.value(metadata, "mcp:tools"), format!("Bearer resource_metadata=\"{metadata}\", scope=\"mcp:tools\""));
        let refused = Challenge::InvalidToken.value(metadata, "mcp:tools");
        assert!(refused.contains("error=\"invalid_token\"") && Challenge::InvalidToken.status() == 401, "{refused}");
        let more = Challenge::InsufficientScope("a b");
        assert!(more.value(metadata, "mcp:tools").ends_with("error=\"insufficient_scope\", scope=\"a b\"") && more.status() == 403);
    }

    #[test]
    fn a_challenge_cannot_be_broken_out_of() {
        let value = Challenge::Missing.value("a\"\r\nX: y\\", "s\"");
        assert_eq!(value, "Bearer resource_metadata=\"aX: y\", scope=\"s\"");
    }

    #[test]
    fn only_a_client_that_did_not_authenticate_gets_401() {
        assert_eq!(OauthError::invalid_client("x").status(), 401);
        assert_eq!(OauthError::invalid_scope().status(), 400);
        assert_eq!(OauthError::invalid_target().body()["error"], "invalid_target");
    }
}
