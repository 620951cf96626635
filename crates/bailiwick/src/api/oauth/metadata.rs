//! What clients and resource servers read to find their way: RFC 8414, RFC 9728, and the keys.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use bailiwick_core::ErrorCode;
use bailiwick_identity::foreign::id_jag;
use bailiwick_identity::jwks as jwk_set;
use bailiwick_identity::oauth::{InteractiveMetadata, JWT_BEARER_GRANT, ResourceMetadata, ServerMetadata};
use bailiwick_identity::token::AGENT_SCOPE;
use http::StatusCode;

use super::super::asker::Api;
use super::super::body::Named;
use super::super::problem::Problem;
use super::json;
use crate::config::IssuerKind;
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
        interactive: interactive(&api.house),
        service_documentation: None,
    };
    let mut document = metadata.document();
    extend_by_proofs(&api.house, &mut document);
    api.house.extend_server_metadata(&mut document);
    json(StatusCode::OK, &document)
}

/// What is taken beside an agent's own key, where issuers of it are configured. Never which.
fn extend_by_proofs(house: &House, document: &mut serde_json::Value) {
    let mut add = |name: &str, word: &str| {
        let Some(members) = document.as_object_mut() else { return };
        if let Some(words) = members.entry(name).or_insert_with(|| serde_json::json!([])).as_array_mut() {
            words.push(word.into());
        }
    };
    let [oidc, spiffe, id_jag] = [IssuerKind::Oidc, IssuerKind::Spiffe, IssuerKind::IdJag].map(|kind| house.proofs.has(kind));
    if oidc || spiffe || id_jag {
        add("grant_types_supported", JWT_BEARER_GRANT);
    }
    if spiffe {
        for endpoint in ["token", "introspection", "revocation"] {
            add(&format!("{endpoint}_endpoint_auth_methods_supported"), "spiffe_jwt");
        }
    }
    //= draft-ietf-oauth-identity-assertion-authz-grant-03#section-7.2
    // To advertise support for the Identity Assertion JWT Authorization Grant profile, the Resource Authorization Server SHOULD include
    // the following value [...] MUST also include "urn:ietf:params:oauth:grant-type:jwt-bearer" in "grant_types_supported". [...]
    // Resource Authorization Servers MUST NOT use "authorization_grant_profiles_supported" to disclose issuer allow lists.
    if id_jag {
        add("authorization_grant_profiles_supported", id_jag::PROFILE);
    }
}

fn interactive(house: &House) -> Option<InteractiveMetadata> {
    let (base, clients) = (&house.urls.base, &house.config.clients);
    clients.interactive.then(|| InteractiveMetadata {
        authorization_endpoint: format!("{base}/oauth/authorize"),
        registration_endpoint: clients.registration.then(|| format!("{base}/oauth/register")),
        documents: clients.reads_documents(),
    })
}

fn resource_metadata(house: &House, resource: String) -> Response {
    let metadata = ResourceMetadata {
        resource,
        authorization_server: house.urls.base.clone(),
        scopes: vec![house.scope_to_ask().to_owned()],
        name: Some("Bailiwick".to_owned()),
    };
    let mut document = metadata.document();
    house.extend_resource_metadata(&mut document);
    json(StatusCode::OK, &document)
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

/// The metadata of the MCP endpoint of one task (RFC 9728).
#[utoipa::path(
    get, path = "/.well-known/oauth-protected-resource/mcp/t/{id}", tag = "oauth", params(("id" = String, Path, description = "The task's id.")),
    responses((status = 200, description = "RFC 9728 section 2. The same for every id, so that nobody learns which tasks there are.", body = Object)),
)]
pub(in crate::api) async fn resource_of_task(State(api): State<Arc<Api>>, name: Named) -> Result<Response, Problem> {
    let task: bailiwick_core::TaskId = name.parse(ErrorCode::OauthRequest).map_err(|p| p.with_status(StatusCode::NOT_FOUND))?;
    Ok(resource_metadata(&api.house, format!("{}/t/{task}", api.house.urls.mcp)))
}

/// The public keys by which our tokens are verified (RFC 7517 section 5).
#[utoipa::path(get, path = "/.well-known/jwks.json", tag = "oauth", responses((status = 200, description = "A JWK set.", body = Object)))]
pub(in crate::api) async fn jwks(State(api): State<Arc<Api>>) -> Response {
    json(StatusCode::OK, &jwk_set(std::slice::from_ref(api.house.issuer.public())))
}
