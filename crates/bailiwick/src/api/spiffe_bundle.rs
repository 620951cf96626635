//! The bundle endpoint (SPIFFE Federation, profile `https_web`): the keys by which others check the SVIDs of our trust domain.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;

use super::asker::Api;
use super::oauth::json;

/// The SPIFFE bundle of our trust domain. Without a SPIFFE issuer it has no keys.
#[utoipa::path(
    get, path = "/.well-known/spiffe-bundle", tag = "spiffe",
    responses((status = 200, description = "SPIFFE Trust Domain and Bundle section 4: a JWK set.", body = Object)),
)]
pub(super) async fn bundle(State(api): State<Arc<Api>>) -> Response {
    json(StatusCode::OK, &api.house.local.bundle())
}
