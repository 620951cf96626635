//! Dynamic client registration (RFC 7591), where the configuration offers it: what a client says comes back to it as its ID, sealed.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use bailiwick_core::ErrorCode;
use bailiwick_identity::oauth::METADATA_MAX;
use http::{StatusCode, header};

use super::super::asker::Api;
use super::super::problem::Problem;
use super::{OauthErrorDocument, Refused, json};

/// Registers an interactive client, without a secret. It has no right by that: a person allows it something, each time.
#[utoipa::path(
    post, path = "/oauth/register", tag = "oauth",
    request_body(content = Object, description = "RFC 7591 section 2: `redirect_uris`, `client_name`."),
    responses(
        (status = 201, description = "RFC 7591 section 3.2.1.", body = Object),
        (status = 400, description = "RFC 7591 section 3.2.2.", body = OauthErrorDocument),
        (status = 404, description = "Clients do not register themselves here.", body = super::super::problem::ProblemDocument<'static>, content_type = "application/problem+json"),
    ),
)]
pub(in crate::api) async fn register(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Refused> {
    let clients = &api.house.config.clients;
    if !clients.interactive || !clients.registration {
        return Err(Problem::invalid("clients do not register themselves at this broker").with_status(StatusCode::NOT_FOUND).into());
    }
    let given = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !given.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
        return Err(Problem::invalid("the body must be `application/json`").with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE).into());
    }
    let too_long = |_| Problem::because(ErrorCode::LimitExceeded, format!("the body is longer than {METADATA_MAX} bytes, or did not arrive whole"));
    let body = axum::body::to_bytes(request.into_body(), METADATA_MAX).await.map_err(too_long)?;
    match api.house.register_client(&body) {
        Ok(answer) => Ok(json(StatusCode::CREATED, &answer)),
        Err(Some(error)) => {
            tracing::info!(%error, "a client was not registered");
            Ok(json(StatusCode::BAD_REQUEST, &error.body()))
        }
        Err(None) => Err(Problem::new(ErrorCode::Internal).into()),
    }
}
