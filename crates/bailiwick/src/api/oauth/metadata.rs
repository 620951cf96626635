//! What clients and resource servers read to find their way: RFC 8414, RFC 9728, and the keys.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use bailiwick_core::ErrorCode;
use bailiwick_identity::jwks as jwk_set;
use bailiwick_identity::oauth::{ResourceMetadata, ServerMetadata};
use bailiwick_identity::token::AGENT_SCOPE;
use http::StatusCode;

use super::super::asker::Api;
use super::super::body::Named;
use super::super::problem::Problem;
use super::json;
use crate::house::House;

/// The metadata of the authorization server (RFC 8414).
#[utoipa::path(get, path = "/.well-known/oauth-authorization-server", tag = "oauth", responses((status = 200, description = "RFC 8414 section 2.", body = Object)))]
pub(in crate::api) async fn server_metadata(State(api): State<Arc<Api>>) -> Response {
    let base = &api.house.urls.base;
    let metadata = ServerMetadata {
        issuer: base.clone(),
        token_endpoint: api.house.urls.token.clone(),
        jwks_uri: format!("{base}/.well-known/jwks.json"),
        introspection_endpoint: format!("{base}/oauth/introspect"),
        revocation_endpoint: format!("{base}/oauth/revoke"),
        scopes: vec![AGENT_SCOPE.to_owned()],
        interactive: None,
        service_documentation: None,
    };
    json(StatusCode::OK, &metadata.document())
}

fn resource_metadata(house: &House, resource: String) -> Response {
    let metadata = ResourceMetadata {
        resource,
        authorization_server: house.urls.base.clone(),
        scopes: vec![AGENT_SCOPE.to_owned()],
        name: Some("Bailiwick".to_owned()),
    };
    json(StatusCode::OK, &metadata.document())
}

/// The metadata of the protected resource (RFC 9728), where clients look that know only the host.
#[utoipa::path(get, path = "/.well-known/oauth-protected-resource", tag = "oauth", responses((status = 200, description = "RFC 9728 section 2.", body = Object)))]
pub(in crate::api) async fn resource_of_host(State(api): State<Arc<Api>>) -> Response {
    resource_metadata(&api.house, api.house.urls.mcp.clone())
}

/// The metadata of the MCP endpoint (RFC 9728).
#[utoipa::path(get, path = "/.well-known/oauth-protected-resource/mcp", tag = "oauth", responses((status = 200, description = "RFC 9728 section 2.", body = Object)))]
pub(in crate::api) async fn resource_of_mcp(State(api): State<Arc<Api>>) -> Response {
    resource_metadata(&api.house, api.house.urls.mcp.clone())
}

/// The metadata of one system's MCP endpoint (RFC 9728).
#[utoipa::path(
    get, path = "/.well-known/oauth-protected-resource/mcp/s/{system}", tag = "oauth",
    params(("system" = String, Path, description = "The system's name.")),
    responses((status = 200, description = "RFC 9728 section 2. The same for every name, so that nobody learns which systems there are.", body = Object)),
)]
pub(in crate::api) async fn resource_of_system(State(api): State<Arc<Api>>, name: Named) -> Result<Response, Problem> {
    let system: bailiwick_core::SystemName = name.parse(ErrorCode::OauthRequest).map_err(|p| p.with_status(StatusCode::NOT_FOUND))?;
    Ok(resource_metadata(&api.house, format!("{}/s/{system}", api.house.urls.mcp)))
}

/// The public keys by which our tokens are verified (RFC 7517 section 5).
#[utoipa::path(get, path = "/.well-known/jwks.json", tag = "oauth", responses((status = 200, description = "A JWK set.", body = Object)))]
pub(in crate::api) async fn jwks(State(api): State<Arc<Api>>) -> Response {
    json(StatusCode::OK, &jwk_set(std::slice::from_ref(api.house.issuer.public())))
}
