//! One request to a provider or a receiver of events, and its answer: bounded in bytes and time, no redirect, no proxy, no cookie.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use url::Url;

use crate::config::LinkConfig;
use crate::export::net::Dialer;

/// The longest answer that is read.
const ANSWER_BYTES_MAX: usize = 512 << 10;
/// Everything together.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no answer. Never with what was sent.
#[derive(Debug, thiserror::Error)]
#[error("{host}: {why}")]
pub(crate) struct NoAnswer {
    host: String,
    why: String,
}

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

/// What is asked.
#[derive(Debug)]
pub(crate) struct Question {
    method: Method,
    headers: HeaderMap,
    body: Bytes,
}

impl Question {
    pub(crate) fn post(content_type: &'static str, body: impl Into<Bytes>) -> Self {
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(content_type))]);
        Self { method: Method::POST, headers, body: body.into() }
    }

    /// A header that nothing shows. One that cannot be written is left out, and the other side refuses.
    pub(crate) fn authorization(mut self, value: &str) -> Self {
        if let Ok(mut value) = HeaderValue::from_str(value) {
            value.set_sensitive(true);
            self.headers.insert(header::AUTHORIZATION, value);
        }
        self
    }
}

/// Asks.
pub(crate) async fn ask(url: &Url, link: &LinkConfig, question: Question) -> Result<Answer, NoAnswer> {
    let host = url.host_str().unwrap_or_default().to_owned();
    let fail = |why: String| NoAnswer { host: host.clone(), why };
    match tokio::time::timeout(PATIENCE, asked(url, link, question)).await {
        Ok(answer) => answer.map_err(fail),
        Err(_) => Err(fail("it does not answer in time".to_owned())),
    }
}

async fn asked(url: &Url, link: &LinkConfig, question: Question) -> Result<Answer, String> {
    let bare = url.host_str().ok_or("the URL has no host")?.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = url.port_or_known_default().ok_or("the URL has no port")?;
    let dialer = Dialer::new(&bare, port, url.scheme() == "https", Some(b"http/1.1"), link)?;
    let target = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
    let authority = url.host_str().map(|host| url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))).unwrap_or_default();
    let mut request = Request::builder()
        .method(question.method)
        .uri(target)
        .header(header::HOST, authority)
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, concat!("bailiwick/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
        .body(Full::new(question.body))
        .map_err(|_| "the request cannot be written")?;
    request.headers_mut().extend(question.headers);
    let stream = dialer.dial().await.map_err(|e| e.to_string())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| format!("the connection failed: {e}"))?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(|e| format!("no answer: {e}"))?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|_| "the answer is too long, or broke off")?;
        Ok::<_, String>(Answer { status: head.status, body: body.to_bytes() })
    };
    let (exchange, connection) = (std::pin::pin!(exchange), std::pin::pin!(connection));
    match futures_util::future::select(exchange, connection).await {
        futures_util::future::Either::Left((done, _)) => done,
        futures_util::future::Either::Right((_, exchange)) => exchange.await,
    }
}
