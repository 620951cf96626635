//! The root key: how it stands, and its replacement. No key and no part of one leaves this way.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bailiwick_core::{ErrorCode, Role};
use http::StatusCode;

use super::asker::{Api, ByPerson, need};
use super::problem::Problem;
use crate::root_key::{RootStatus, RotateError};

/// How the root key stands, for operators and auditors.
#[utoipa::path(
    get, path = "/v1/root-key", tag = "registry",
    responses((status = 200, description = "How it stands.", body = RootStatus)),
    security(("person" = [])),
)]
pub(super) async fn show(State(api): State<Arc<Api>>, by: ByPerson) -> Result<Response, Problem> {
    need(&by.person, &[Role::Operator, Role::Auditor], "ask an operator or an auditor")?;
    Ok(axum::Json(api.house.root_status()).into_response())
}

/// Replaces the root key by a new one from where the configuration says. Answers when the new one is in use; what is sealed under the old one is sealed
/// anew behind, and the old one is destroyed after that.
#[utoipa::path(
    post, path = "/v1/root-key/rotate", tag = "registry",
    responses((status = 202, description = "It is being replaced.", body = RootStatus)),
    security(("person" = [])),
)]
pub(super) async fn rotate(State(api): State<Arc<Api>>, by: ByPerson) -> Result<Response, Problem> {
    need(&by.person, &[Role::Operator], "ask an operator")?;
    // It comes to its end even if whoever asked goes away.
    let (house, name) = (Arc::clone(&api.house), by.person.name.clone());
    let begun = tokio::spawn(async move { house.rotate_root(name.as_str()).await }).await.map_err(|_| Problem::new(ErrorCode::Internal))?;
    match begun {
        Ok(status) => Ok((StatusCode::ACCEPTED, axum::Json(status)).into_response()),
        Err(RotateError::Store(error)) => Err(error.into()),
        Err(error @ RotateError::Replacing) => Err(Problem::because(ErrorCode::CallMalformed, error.to_string()).with_status(StatusCode::CONFLICT)),
        Err(error) => {
            tracing::error!(%error, hint = error.hint(), "the root key could not be replaced");
            Err(Problem::because(ErrorCode::ConfigInvalid, format!("{error}; {}", error.hint())).with_status(StatusCode::INTERNAL_SERVER_ERROR))
        }
    }
}
