//! Records by HTTP POST: events as lines or as an array, or OTLP/HTTP with JSON. One connection for each request; no redirect is
//! followed and no proxy of the environment is used.

use std::time::Duration;

use bailiwick_credentials::Injection;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;

use super::net::Dialer;
use super::record::{Record, Shape};
use super::sink::{SinkError, lines, otlp_request};
use crate::config::HttpBody;

/// The longest answer that is read, and the longest piece of it that is told.
const ANSWER_BYTES_MAX: usize = 64 << 10;
const TOLD_CHARS_MAX: usize = 200;
/// The longest pause that a receiver may ask for.
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// How records stand in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HttpForm {
    /// Events.
    Events(HttpBody),
    /// OTLP: spans and log records at a path each.
    Otlp,
}

/// The sink.
#[derive(Debug)]
pub(super) struct HttpSink {
    dialer: Dialer,
    host: HeaderValue,
    /// Path and query.
    target: String,
    form: HttpForm,
    injection: Injection,
    name: String,
}

impl HttpSink {
    /// # Errors
    /// Why nothing could ever be sent there.
    pub(super) fn new(name: &str, url: &url::Url, form: HttpForm, injection: Injection, link: &crate::config::LinkConfig) -> Result<Self, String> {
        let host = url.host().ok_or("the URL has no host")?;
        let bare = match &host {
            url::Host::Domain(name) => (*name).to_owned(),
            url::Host::Ipv4(ip) => ip.to_string(),
            url::Host::Ipv6(ip) => ip.to_string(),
        };
        let port = url.port_or_known_default().ok_or("the URL has no port")?;
        let authority = url.port().map_or_else(|| host.to_string(), |port| format!("{host}:{port}"));
        let target = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
        Ok(Self {
            dialer: Dialer::new(&bare, port, url.scheme() == "https", Some(b"http/1.1"), link)?,
            host: HeaderValue::from_str(&authority).map_err(|_| "the host is no header value")?,
            target,
            form,
            injection,
            name: name.to_owned(),
        })
    }

    /// Sends records. `Ok` says that the receiver took them.
    pub(super) async fn send(&self, origin: &str, records: &[Record]) -> Result<(), SinkError> {
        match self.form {
            HttpForm::Events(HttpBody::Lines) => self.post(&self.target, "application/x-ndjson", lines(records)).await.map(drop),
            HttpForm::Events(HttpBody::Array) => {
                let texts: Vec<&str> = records.iter().map(|r| r.text.as_str()).collect();
                self.post(&self.target, "application/json", format!("[{}]", texts.join(","))).await.map(drop)
            }
            HttpForm::Otlp => {
                for (shape, path) in [(Shape::Span, "/v1/traces"), (Shape::Log, "/v1/logs")] {
                    if let Some(request) = otlp_request(origin, records, shape) {
                        let answer = self.post(&self.signal_target(path), "application/json", request).await?;
                        self.partial(&answer);
                    }
                }
                Ok(())
            }
        }
    }

    /// The signal's path below the configured one, before its query.
    fn signal_target(&self, path: &str) -> String {
        let (base, query) = self.target.split_once('?').map_or((self.target.as_str(), None), |(base, query)| (base, Some(query)));
        let target = format!("{}{path}", base.trim_end_matches('/'));
        query.map_or(target.clone(), |query| format!("{target}?{query}"))
    }

    //= https://opentelemetry.io/docs/specs/otlp/#partial-success-1
    // The client MUST NOT retry the request when it receives a partial success response where the partial_success is populated.
    fn partial(&self, answer: &[u8]) {
        let Ok(answer) = serde_json::from_slice::<Value>(answer) else { return };
        let Some(partial) = answer.get("partialSuccess") else { return };
        let count = |name: &str| partial.get(name).and_then(|n| n.as_u64().or_else(|| n.as_str()?.parse().ok())).unwrap_or(0);
        let rejected = count("rejectedSpans").saturating_add(count("rejectedLogRecords"));
        if rejected > 0 {
            metrics::counter!("bailiwick_export_rejected_total", "export" => self.name.clone()).increment(rejected);
            let why = self.told(partial.get("errorMessage").and_then(Value::as_str).unwrap_or_default());
            tracing::warn!(export = self.name, rejected, why, "the receiver took a request and rejected some of its records for good");
        }
    }

    async fn post(&self, target: &str, content_type: &'static str, body: String) -> Result<Bytes, SinkError> {
        let request = self.request(target, content_type, body)?;
        let stream = self.dialer.dial().await?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| SinkError::new(format!("the connection failed: {e}")))?;
        // Driven here and not by a task of its own: whoever drops this drops the connection.
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(|e| SinkError::new(format!("no answer: {e}")))?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            Ok((head, body))
        };
        let (exchange, connection) = (std::pin::pin!(exchange), std::pin::pin!(connection));
        let (head, body) = match futures_util::future::select(exchange, connection).await {
            futures_util::future::Either::Left((done, _)) => done?,
            // The connection has ended; what it brought is there already.
            futures_util::future::Either::Right((_, exchange)) => exchange.await?,
        };
        if head.status.is_success() {
            return Ok(body);
        }
        Err(self.refusal(head.status, &head.headers, &body))
    }

    fn request(&self, target: &str, content_type: &'static str, body: String) -> Result<Request<Full<Bytes>>, SinkError> {
        let built = Request::post(target).body(Full::new(Bytes::from(body)));
        let mut request = built.map_err(|_| SinkError::new("the URL's path cannot be asked for"))?;
        let headers = request.headers_mut();
        headers.insert(header::HOST, self.host.clone());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("bailiwick/", env!("CARGO_PKG_VERSION"))));
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        self.injection.headers(|name, value| {
            if let (Ok(name), Ok(mut value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
                value.set_sensitive(true);
                headers.insert(name, value);
            }
        });
        Ok(request)
    }

    fn refusal(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> SinkError {
        let said = self.told(&String::from_utf8_lossy(body));
        let mut error = SinkError::new(if said.is_empty() { format!("it answered {status}") } else { format!("it answered {status}: {said}") });
        error.too_many = status == StatusCode::PAYLOAD_TOO_LARGE;
        let seconds = headers.get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok()).map(Duration::from_secs);
        error.pause = seconds.map(|pause| pause.min(PAUSE_MAX));
        error
    }

    /// What a receiver says, fit for a log: one short line, without what we sent as a secret.
    fn told(&self, text: &str) -> String {
        let clean = self.injection.redact_text(text);
        bailiwick_wire::render::line(&clean).chars().take(TOLD_CHARS_MAX).collect()
    }
}

#[cfg(test)]
pub(super) mod tests;
