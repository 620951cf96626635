//! Security events over HTTP: pushed to us (RFC 8935), polled from us (RFC 8936), and what we say of ourselves as a transmitter (SSF 1.0).

use std::sync::Arc;

use axum::extract::{FromRequest as _, Request, State};
use axum::response::{IntoResponse as _, Response};
use bailiwick_core::ErrorCode;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::asker::Api;
use super::body::{Asked, BODY_BYTES_MAX, Json, Named};
use super::problem::Problem;
use crate::events::{EventRefused, StreamRefused};

/// What we say of ourselves as a transmitter.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SsfConfiguration {
    /// `1_0`.
    spec_version: &'static str,
    /// The issuer of every token.
    issuer: String,
    /// Where the keys are.
    jwks_uri: String,
    /// `urn:ietf:rfc:8935` (push) and `urn:ietf:rfc:8936` (poll), as far as receivers are configured for them.
    delivery_methods_supported: Vec<&'static str>,
    /// Where a receiver reads the configuration of its stream, if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    configuration_endpoint: Option<String>,
    /// Where it reads the status of its stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    status_endpoint: Option<String>,
    /// Where it asks for an event that proves that the way is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    verification_endpoint: Option<String>,
    /// How it proves itself there: a bearer token, which the configuration has.
    #[schema(value_type = Vec<Object>)]
    authorization_schemes: Vec<serde_json::Value>,
    /// `ALL`: each receiver is told of every task.
    default_subjects: &'static str,
}

/// Which stream.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct StreamQuery {
    /// The receiver's name in the configuration.
    stream_id: Option<String>,
}

/// A receiver wants to see that the way to it is open.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct VerificationRequest {
    /// The receiver's name in the configuration.
    stream_id: String,
    /// What it gets back, up to 256 bytes.
    state: Option<String>,
}

/// What to acknowledge and what to get (RFC 8936 section 2.4).
#[derive(serde::Deserialize, ToSchema)]
#[expect(dead_code, reason = "documents the body")]
#[serde(rename_all = "camelCase")]
pub(super) struct PollRequest {
    /// How many at most; 50 unless it is said, and never more.
    max_events: Option<u32>,
    /// Answered at once in any case.
    return_immediately: Option<bool>,
    /// The `jti` of tokens that were taken.
    ack: Vec<String>,
    /// The `jti` of tokens that never will be, with the reason.
    #[schema(value_type = Object)]
    set_errs: serde_json::Value,
}

/// What there is (RFC 8936 section 2.5).
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct PollAnswer {
    /// The tokens by their `jti`.
    #[schema(value_type = Object)]
    sets: serde_json::Value,
    /// Is there more?
    more_available: bool,
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let first = all.next().and_then(|v| v.to_str().ok());
    first.filter(|_| all.next().is_none())
}

/// Takes a security event token that a transmitter pushes.
#[utoipa::path(
    post, path = "/events", tag = "events", request_body(content = String, content_type = "application/secevent+jwt"),
    responses(
        (status = 202, description = "Taken."),
        (status = 400, description = "Not taken, and never will be: `err` and `description` (RFC 8935 section 2.3)."),
        (status = 401, description = "The transmitter did not present its secret."),
        (status = 503, description = "Not now: to be sent again."),
    ),
)]
pub(super) async fn take(State(api): State<Arc<Api>>, request: Request) -> Response {
    if !api.house.takes_events() {
        return Problem::invalid("no events are taken here").with_status(StatusCode::NOT_FOUND).into_response();
    }
    let headers = request.headers().clone();
    let given = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !given.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/secevent+jwt") {
        return failed(StatusCode::BAD_REQUEST, "invalid_request", "the body must be `application/secevent+jwt`");
    }
    let body = axum::body::to_bytes(request.into_body(), BODY_BYTES_MAX).await.ok();
    let Some(token) = body.as_deref().and_then(|b| std::str::from_utf8(b).ok()).map(str::trim) else {
        return failed(StatusCode::BAD_REQUEST, "invalid_request", "the body is too long, or is no token");
    };
    match api.house.take_pushed(token, bearer(&headers)).await {
        //= rfc8935#section-2.2
        // If the SET is determined to be valid, the SET Recipient SHALL acknowledge successful transmission by responding with HTTP
        // Response Status Code 202 (Accepted). The body of the response MUST be empty. A token that was taken before is taken.
        Ok(_) => StatusCode::ACCEPTED.into_response(),
        Err(why) => {
            tracing::warn!(%why, "a pushed event was not taken");
            match &why {
                EventRefused::Later(_) => failed(StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", "not now"),
                EventRefused::Unauthenticated => failed(StatusCode::UNAUTHORIZED, why.code(), "the transmitter did not present its secret"),
                EventRefused::Token(_) | EventRefused::Issuer(_) => failed(StatusCode::BAD_REQUEST, why.code(), "the token is not acceptable"),
            }
        }
    }
}

//= rfc8935#section-2.3
// the SET Recipient SHALL respond with an HTTP Response Status Code of 400 (Bad Request) [...] Content-Type application/json [...]
// "err" [...] "description".
fn failed(status: StatusCode, err: &str, description: &str) -> Response {
    let body = axum::Json(serde_json::json!({ "err": err, "description": description }));
    (status, [(header::CONTENT_LANGUAGE, HeaderValue::from_static("en"))], body).into_response()
}

/// Gives a receiver what it was not told yet, once it acknowledged the rest.
#[utoipa::path(
    post, path = "/events/poll/{name}", tag = "events", params(("name" = String, Path, description = "The receiver's name in the configuration.")),
    request_body = PollRequest, responses((status = 200, description = "Tokens.", body = PollAnswer), (status = 401, description = "The receiver did not present its secret, as a bearer token.")),
)]
pub(super) async fn poll(State(api): State<Arc<Api>>, name: Named, request: Request) -> Result<Response, Problem> {
    if api.house.delivery_methods().is_empty() {
        return Err(Problem::invalid("nobody is told of events here").with_status(StatusCode::NOT_FOUND));
    }
    let headers = request.headers().clone();
    let Json(asked) = Json::from_request(request, &api).await?;
    match api.house.polled(&name.0, bearer(&headers), &asked).await? {
        Some(answer) => Ok(axum::Json(answer).into_response()),
        None => Err(Problem::new(ErrorCode::AuthnMissing)),
    }
}

/// Why a stream says nothing, as a problem.
fn stream_refused(api: &Api, why: StreamRefused) -> Problem {
    match why {
        _ if api.house.delivery_methods().is_empty() => Problem::invalid("nobody is told of events here").with_status(StatusCode::NOT_FOUND),
        StreamRefused::Unauthenticated => Problem::new(ErrorCode::AuthnMissing),
        StreamRefused::Absent => Problem::invalid("you have no such stream").with_status(StatusCode::NOT_FOUND),
        //= openid-sharedsignals-framework-1_0#section-8.1.4.2
        // 429: if the Event Receiver is sending too many requests in a given amount of time
        StreamRefused::TooOften => Problem::because(ErrorCode::BudgetRate, "a verification was asked for a moment ago"),
        StreamRefused::Invalid => Problem::invalid("`state` is longer than 256 bytes"),
        StreamRefused::Failed => Problem::new(ErrorCode::Internal),
    }
}

/// The configuration of a receiver's stream, or of all that it has (SSF 1.0 section 8.1.1.2). Streams are made in the broker's configuration.
#[utoipa::path(
    get, path = "/events/streams", tag = "events", params(StreamQuery),
    responses((status = 200, description = "The stream, or a list of them.", body = Object), (status = 401, description = "The receiver did not present its secret, as a bearer token.")),
)]
pub(super) async fn streams(State(api): State<Arc<Api>>, headers: HeaderMap, Asked(query): Asked<StreamQuery>) -> Result<Response, Problem> {
    let found = api.house.stream_configuration(query.stream_id.as_deref(), bearer(&headers)).await;
    found.map(|body| axum::Json(body).into_response()).map_err(|why| stream_refused(&api, why))
}

/// The status of a receiver's stream (SSF 1.0 section 8.1.2.1).
#[utoipa::path(
    get, path = "/events/status", tag = "events", params(StreamQuery),
    responses((status = 200, description = "`stream_id` and `status`.", body = Object), (status = 401, description = "The receiver did not present its secret, as a bearer token.")),
)]
pub(super) async fn stream_status(State(api): State<Arc<Api>>, headers: HeaderMap, Asked(query): Asked<StreamQuery>) -> Result<Response, Problem> {
    let found = api.house.stream_status(query.stream_id.as_deref().unwrap_or_default(), bearer(&headers)).await;
    found.map(|body| axum::Json(body).into_response()).map_err(|why| stream_refused(&api, why))
}

/// Has one event told to the receiver that proves that the way to it is open (SSF 1.0 section 8.1.4.2).
#[utoipa::path(
    post, path = "/events/verify", tag = "events", request_body = VerificationRequest,
    responses((status = 204, description = "It is told."), (status = 401, description = "The receiver did not present its secret, as a bearer token."), (status = 429, description = "It asked a moment ago.")),
)]
pub(super) async fn verify(State(api): State<Arc<Api>>, headers: HeaderMap, Json(asked): Json<VerificationRequest>) -> Result<Response, Problem> {
    let told = api.house.verify_stream(&asked.stream_id, asked.state.as_deref(), bearer(&headers)).await;
    told.map(|()| StatusCode::NO_CONTENT.into_response()).map_err(|why| stream_refused(&api, why))
}

/// What the broker says of itself as a transmitter of events.
//= openid-sharedsignals-framework-1_0#section-7.1
// issuer: REQUIRED. jwks_uri: OPTIONAL. URL of the Transmitter's JSON Web Key Set. delivery_methods_supported: RECOMMENDED.
#[utoipa::path(get, path = "/.well-known/ssf-configuration", tag = "events", responses((status = 200, description = "The metadata.", body = SsfConfiguration)))]
pub(super) async fn configuration(State(api): State<Arc<Api>>) -> Response {
    let house = &api.house;
    let methods = house.delivery_methods();
    let endpoint = |path: &str| (!methods.is_empty()).then(|| format!("{}/events/{path}", house.urls.base));
    let body = SsfConfiguration {
        spec_version: "1_0",
        issuer: house.issuer.url().to_owned(),
        jwks_uri: format!("{}/.well-known/jwks.json", house.urls.base),
        configuration_endpoint: endpoint("streams"),
        status_endpoint: endpoint("status"),
        verification_endpoint: endpoint("verify"),
        authorization_schemes: vec![serde_json::json!({ "spec_urn": "urn:ietf:rfc:6750" })],
        delivery_methods_supported: methods,
        //= openid-sharedsignals-framework-1_0#section-7.1
        // default_subjects OPTIONAL. [...] "ALL": indicates that any subjects that are appropriate for the stream are added to the stream
        // by default.
        default_subjects: "ALL",
    };
    axum::Json(body).into_response()
}
