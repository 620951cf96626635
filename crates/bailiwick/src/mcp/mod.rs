//! The MCP endpoint: `POST /mcp` and its kin, for clients of both eras. Parses strictly, asks who it is, and hands calls to the pipeline.

mod agent_tools;
mod body;
mod call;
pub(crate) mod cors;
mod exchange;
mod held;
mod legacy;
mod legacy_tasks;
mod lists;
mod modern;
pub mod parked;
mod relay;
pub mod session;
mod to_open;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bailiwick_core::{ErrorCode, TaskId};
use bailiwick_wire::Limits;
use bailiwick_wire::mcp::{Era, Headers, Message, Refusal, code};
use bytes::{Bytes, BytesMut};
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, ORIGIN};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

pub use body::OutBody;

use crate::authn::Presented;
use crate::house::House;
use crate::mcp::session::Scope;
use crate::tokens::Bearer;

/// A client must send its request's body within this.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Which endpoint was asked for.
#[derive(Debug)]
struct Endpoint {
    scope: Scope,
    /// An agent's token says here which of its tasks it means.
    task: Option<TaskId>,
}

impl Endpoint {
    fn parse(path: &str) -> Option<Self> {
        match path.strip_prefix("/mcp")? {
            "" => Some(Self { scope: Scope::All, task: None }),
            rest => match rest.strip_prefix("/s/") {
                Some(system) => Some(Self { scope: Scope::System(system.parse().ok()?), task: None }),
                None => Some(Self { scope: Scope::All, task: Some(rest.strip_prefix("/t/")?.parse().ok()?) }),
            },
        }
    }
}

/// Is this path ours?
#[must_use]
pub fn is_mcp(path: &str) -> bool {
    path == "/mcp" || path.starts_with("/mcp/")
}

/// Answers one HTTP request to the MCP endpoint, of a browser on another site too, if that site is named.
pub async fn serve(house: Arc<House>, request: Request<Incoming>, peer: SocketAddr) -> Response<OutBody> {
    let browser = cors::Browser::of(&house, request.uri().path(), request.headers());
    let Some(browser) = browser else { return served(house, request, peer).await };
    let mut response = match browser.preflight(request.method(), request.headers()) {
        Some(answer) => {
            let mut response = empty(StatusCode::NO_CONTENT);
            *response.headers_mut() = answer;
            response
        }
        None => served(house, request, peer).await,
    };
    browser.mark(response.headers_mut());
    response
}

async fn served(house: Arc<House>, request: Request<Incoming>, peer: SocketAddr) -> Response<OutBody> {
    let (parts, body) = request.into_parts();
    let Some(endpoint) = Endpoint::parse(parts.uri.path()) else { return plain(StatusCode::NOT_FOUND, "not found") };
    if let Err(what) = check_browser(&house, &parts.headers) {
        return plain(StatusCode::FORBIDDEN, what);
    }
    if !matches!(parts.method, Method::POST | Method::GET | Method::DELETE) {
        return not_allowed();
    }
    let bearer = match house.bearer(&Presented { from: peer.ip(), parts: &parts }).await {
        Ok(bearer) => bearer,
        Err(refused) => return challenge(refused.code),
    };
    let headers = Headers::collect(parts.headers.iter().map(|(n, v)| (n.as_str(), v.as_bytes())));
    match parts.method {
        Method::POST => {
            let body = match tokio::time::timeout(BODY_TIMEOUT, read(body)).await {
                Ok(Ok(body)) => body,
                Ok(Err(response)) => return response,
                Err(_) => return plain(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"),
            };
            post(house, endpoint, bearer, &headers, &body).await
        }
        Method::GET => legacy::stream(&house, &endpoint.scope, &bearer, &headers),
        _ => legacy::end(&house, &endpoint.scope, &bearer, &headers).await,
    }
}

async fn post(house: Arc<House>, endpoint: Endpoint, bearer: Bearer, headers: &Headers<'_>, body: &Bytes) -> Response<OutBody> {
    let message = match Message::parse(body, &Limits::REQUEST) {
        Ok(message) => message,
        Err(refusal) => return refuse(&refusal),
    };
    let era = match bailiwick_wire::mcp::era::classify(headers, &message) {
        Ok(era) => era,
        Err(refusal) => return refuse(&refusal),
    };
    let who = match bearer {
        Bearer::Task(_, who) => match endpoint.task {
            // A task's token is for its task, whatever the URL says.
            Some(task) if task != who.live.task.id => return challenge(ErrorCode::TaskAbsent),
            Some(_) | None => who,
        },
        Bearer::Agent(verified) => match endpoint.task {
            Some(task) => match agent_tools::who(&house, &verified, task) {
                Some(who) => who,
                None => return challenge(ErrorCode::TaskClosed),
            },
            None => return agent_tools::serve(&house, &verified, &era, &message, body).await,
        },
    };
    match era {
        Era::Modern(modern) => modern::serve(house, endpoint.scope, who, headers, &modern, &message, body).await,
        Era::Legacy(legacy) => legacy::serve(house, endpoint.scope, who, &legacy, &message, body).await,
        Era::StrayNotification => empty(StatusCode::ACCEPTED),
    }
}

/// Reads a body within its limit.
async fn read(mut body: Incoming) -> Result<Bytes, Response<OutBody>> {
    let limit = Limits::REQUEST.bytes;
    let too_long = || refuse(&Refusal { http_status: 413, ..Refusal::bad_request(code::INVALID_REQUEST, "the body is too long") });
    let mut first: Option<Bytes> = None;
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Err(plain(StatusCode::BAD_REQUEST, "the body broke off")) };
        let Ok(data) = frame.into_data() else { continue };
        let so_far = first.as_ref().map_or(all.len(), Bytes::len);
        if so_far.saturating_add(data.len()) > limit {
            return Err(too_long());
        }
        match first.take() {
            // One piece is the rule: it is taken as it is, without a copy.
            None if all.is_empty() => first = Some(data),
            None => all.extend_from_slice(&data),
            Some(before) => {
                all.extend_from_slice(&before);
                all.extend_from_slice(&data);
            }
        }
    }
    Ok(first.unwrap_or_else(|| all.freeze()))
}

/// A name that was bound to our address behind our back (DNS rebinding) is not ours.
pub(crate) fn check_host(house: &House, headers: &HeaderMap) -> Result<(), &'static str> {
    let host = headers.get(HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
    if house.urls.hosts.iter().any(|h| h.eq_ignore_ascii_case(host)) { Ok(()) } else { Err("Invalid Host header") }
}

/// A browser on another site, or a name that was bound to our address, may not speak to us (BI-027).
pub(crate) fn check_browser(house: &House, headers: &HeaderMap) -> Result<(), &'static str> {
    check_host(house, headers)?;
    let good = |origin: &str| {
        let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        let ours = host.is_some_and(|host| house.urls.hosts.iter().any(|h| host.eq_ignore_ascii_case(h)));
        ours || house.config.allowed_origins.iter().any(|o| o == origin)
    };
    // Every one of them: a second one is looked at by whoever looks last.
    if headers.get_all(ORIGIN).iter().all(|o| o.to_str().is_ok_and(good)) { Ok(()) } else { Err("Invalid Origin header") }
}

fn not_allowed() -> Response<OutBody> {
    let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only POST");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
    response
}

pub(crate) fn plain(status: StatusCode, text: &str) -> Response<OutBody> {
    let mut response = Response::new(OutBody::from(text.as_bytes().to_vec()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn empty(status: StatusCode) -> Response<OutBody> {
    let mut response = Response::new(OutBody::Full(None));
    *response.status_mut() = status;
    response
}

fn json(status: StatusCode, body: Vec<u8>) -> Response<OutBody> {
    let mut response = Response::new(OutBody::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn event_stream(pieces: tokio::sync::mpsc::Receiver<Bytes>) -> Response<OutBody> {
    let mut response = Response::new(OutBody::Stream(pieces));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

fn refuse(refusal: &Refusal) -> Response<OutBody> {
    let mut body = Vec::new();
    refusal.write(&mut body);
    json(StatusCode::from_u16(refusal.http_status).unwrap_or(StatusCode::BAD_REQUEST), body)
}

/// 401. The challenge of RFC 9728 section 5.1 is added on the way out, as to every refusal.
fn challenge(code: ErrorCode) -> Response<OutBody> {
    let body = serde_json::json!({ "code": code, "detail": code.sentence(), "hint": code.hint(), "status": 401 });
    let mut response = json(StatusCode::UNAUTHORIZED, body.to_string().into_bytes());
    response.extensions_mut().insert(crate::authn::challenge::Refusal(code));
    response
}
