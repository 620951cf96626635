//! What clouds read to verify the broker's tokens: the metadata and the keys of its issuer.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};

use super::asker::Api;

/// The metadata of the issuer by whose tokens clouds know the broker.
#[utoipa::path(
    get, path = "/federation/.well-known/openid-configuration", tag = "federation",
    responses((status = 200, description = "OpenID Connect Discovery 1.0 section 3.", body = Object)),
)]
pub(super) async fn discovery(State(api): State<Arc<Api>>) -> Response {
    axum::Json(api.house.federation.discovery()).into_response()
}

/// The public keys of that issuer (RFC 7517 section 5).
#[utoipa::path(get, path = "/federation/jwks.json", tag = "federation", responses((status = 200, description = "A JWK set.", body = Object)))]
pub(super) async fn keys(State(api): State<Arc<Api>>) -> Response {
    axum::Json(api.house.federation.keys()).into_response()
}
