//! The OAuth endpoints: tokens for agents that prove themselves, questions about tokens, and the metadata.

mod about;
mod authorize;
mod certificate;
mod client;
mod client_credentials;
mod code;
mod exchange;
mod jwt_bearer;
mod local;
mod metadata;
mod register;
mod token;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bailiwick_core::TaskId;
use bailiwick_identity::Confirmation;
use bailiwick_identity::oauth::{NO_STORE, OauthError};
use bailiwick_identity::token::Issued;
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::problem::Problem;

pub(super) use about::{__path_introspect, __path_revoke, introspect, revoke};
pub(super) use authorize::{__path_authorize, __path_consent, __path_decide_consent, ConsentForm, authorize, consent, decide_consent};
pub(super) use metadata::{
    __path_jwks, __path_resource_of_host, __path_resource_of_mcp, __path_resource_of_system, __path_resource_of_task, __path_server_metadata, jwks,
    resource_of_host, resource_of_mcp, resource_of_system, resource_of_task, server_metadata,
};
pub(super) use register::{__path_register, register};
pub(super) use token::{__path_token, token};

/// What the token endpoint is asked (RFC 6749 section 4.4.2, RFC 7523 section 2.2, RFC 8707). Sent as a form.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "documents the form, which `identity::oauth` reads strictly")]
pub(super) struct TokenForm {
    /// `client_credentials`; of an interactive client, `authorization_code` or `refresh_token`.
    grant_type: String,
    /// `urn:ietf:params:oauth:client-assertion-type:jwt-bearer`, or `...:jwt-spiffe` for a JWT-SVID.
    client_assertion_type: String,
    /// A JWT by a key of the agent, whose `iss` and `sub` are its SPIFFE ID and whose `aud` is the issuer or this endpoint.
    client_assertion: String,
    /// The SPIFFE ID again, if it is given at all.
    client_id: Option<String>,
    /// The MCP endpoint, or a URL below it.
    resource: Option<String>,
    /// `agent`.
    scope: Option<String>,
    /// An open task of this agent and instance: its token is renewed.
    task_id: Option<String>,
    /// For `urn:ietf:params:oauth:grant-type:jwt-bearer` (RFC 7523): a workload's own token, or an ID-JAG beside the client's assertion.
    assertion: Option<String>,
    /// The running copy, where the proof does not tell it.
    bailiwick_instance: Option<String>,
    /// For a token exchange (RFC 8693): the token of the task of which a part is asked for.
    subject_token: Option<String>,
    /// `urn:ietf:params:oauth:token-type:access_token`.
    subject_token_type: Option<String>,
    /// A token of the agent that asks, besides its assertion.
    actor_token: Option<String>,
    /// `urn:ietf:params:oauth:token-type:access_token`, with `actor_token`.
    actor_token_type: Option<String>,
    /// The part, as RFC 9396 says it: details of the types `bailiwick:tool` and `bailiwick:task`.
    authorization_details: Option<String>,
}

/// A question about a token (RFC 7662 section 2.1, RFC 7009 section 2.1). Sent as a form.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "documents the form, which `identity::oauth` reads strictly")]
pub(super) struct TokenQueryForm {
    /// The token.
    token: String,
    /// Ignored.
    token_type_hint: Option<String>,
    /// As at the token endpoint; not needed for introspection by a person who proves himself or herself.
    client_assertion_type: Option<String>,
    /// As at the token endpoint.
    client_assertion: Option<String>,
}

/// A token (RFC 6749 section 5.1).
#[derive(Serialize, ToSchema)]
pub(super) struct TokenDocument {
    /// The token.
    access_token: String,
    /// `Bearer`, or `DPoP` for a token that is bound to a key (RFC 9449).
    token_type: &'static str,
    /// Its life in seconds.
    expires_in: u64,
    /// Its scope.
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    /// Its task, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    task_id: Option<TaskId>,
}

impl TokenDocument {
    /// A task's first token, as the answer that opens the task carries it.
    pub(super) fn of_task(issued: &Issued, task: TaskId) -> Self {
        Self {
            access_token: issued.token.clone(),
            token_type: Confirmation::token_type(issued.confirmation.as_ref()),
            expires_in: issued.expires_in,
            scope: None,
            task_id: Some(task),
        }
    }
}

/// An error of RFC 6749 section 5.2.
#[derive(Serialize, ToSchema)]
pub(super) struct OauthErrorDocument {
    /// `invalid_request`, `invalid_client`, `invalid_grant`, `unauthorized_client`, `unsupported_grant_type`, `invalid_scope`, `invalid_target`.
    error: String,
    /// In words.
    error_description: String,
}

/// A refusal of one of these endpoints.
pub(super) enum Refused {
    Oauth(OauthError),
    /// With words of its own, for a client that proved who it is.
    Said(OauthError, String),
    Problem(Problem),
}

impl From<OauthError> for Refused {
    fn from(error: OauthError) -> Self {
        Self::Oauth(error)
    }
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self {
            Self::Oauth(error) => json(StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST), &error.body()),
            Self::Said(error, words) => json(StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST), &error.body_with(&words)),
            Self::Problem(problem) => problem.into_response(),
        }
    }
}

/// A document that no cache keeps.
pub(super) fn json(status: StatusCode, body: &Value) -> Response {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in NO_STORE {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

const STORE_DOWN: OauthError = OauthError::temporarily_unavailable("the store cannot be written at present");
