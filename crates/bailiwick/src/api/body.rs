//! Bodies and queries of strangers: bounded, of the right media type, parsed strictly, or refused in words.

use std::sync::Arc;

use axum::extract::{FromRequest, FromRequestParts, Request};
use bailiwick_core::ErrorCode;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use serde::de::DeserializeOwned;

use super::asker::Api;
use super::problem::Problem;

/// The longest body of a request, in bytes.
pub(super) const BODY_BYTES_MAX: usize = 64 << 10;

/// A JSON document.
#[derive(Debug)]
pub(super) struct Json<T>(pub(super) T);

/// The bytes of a form (`application/x-www-form-urlencoded`), not yet decoded.
#[derive(Debug)]
pub(super) struct FormBytes(pub(super) Bytes);

/// The query, with every parameter known.
#[derive(Debug)]
pub(super) struct Asked<T>(pub(super) T);

/// One segment of the path, parsed. What is no name of that kind names nothing.
#[derive(Debug)]
pub(super) struct Named(pub(super) String);

async fn whole(request: Request, media_type: &str) -> Result<Bytes, Problem> {
    let given = request.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !given.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(media_type) {
        return Err(Problem::invalid(format!("the body must be `{media_type}`")).with_status(http::StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    let too_long = |_| Problem::because(ErrorCode::LimitExceeded, format!("the body is longer than {BODY_BYTES_MAX} bytes, or did not arrive whole"));
    axum::body::to_bytes(request.into_body(), BODY_BYTES_MAX).await.map_err(too_long)
}

impl<T: DeserializeOwned> FromRequest<Arc<Api>> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _api: &Arc<Api>) -> Result<Self, Problem> {
        let bytes = whole(request, "application/json").await?;
        serde_json::from_slice(&bytes).map(Self).map_err(|e| Problem::invalid(format!("the body is not what is expected: {e}")))
    }
}

impl FromRequest<Arc<Api>> for FormBytes {
    type Rejection = Problem;

    async fn from_request(request: Request, _api: &Arc<Api>) -> Result<Self, Problem> {
        whole(request, "application/x-www-form-urlencoded").await.map(Self)
    }
}

impl<T: DeserializeOwned> FromRequestParts<Arc<Api>> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _api: &Arc<Api>) -> Result<Self, Problem> {
        let query = axum::extract::Query::<T>::try_from_uri(&parts.uri);
        query.map(|q| Self(q.0)).map_err(|e| Problem::invalid(format!("the query is not what is expected: {}", e.body_text())))
    }
}

impl FromRequestParts<Arc<Api>> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let name = axum::extract::Path::<String>::from_request_parts(parts, api).await;
        name.map(|n| Self(n.0)).map_err(|_| Problem::invalid("the path is not well-formed").with_status(http::StatusCode::NOT_FOUND))
    }
}

impl Named {
    /// The name as a value of its kind; if it is none, it names nothing.
    pub(super) fn parse<T: std::str::FromStr>(&self, absent: ErrorCode) -> Result<T, Problem> {
        self.0.parse().map_err(|_| Problem::new(absent))
    }
}
