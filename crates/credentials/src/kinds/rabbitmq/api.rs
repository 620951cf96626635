//! The management API: one request, one answer, on a connection of its own.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::Secret;
use crate::kinds::connection::{ANSWER_MAX, Failure, open, timed};
use crate::kinds::web::exchange;
use crate::lease::{Node, Step, TargetCode, TargetError};

/// The list of 100,000 users has about 4 MiB.
const BODY_MAX: usize = 16 << 20;

/// The API of a cluster, with the broker's own user.
pub(super) struct Api {
    nodes: Vec<Node>,
    user: String,
    secret: Arc<Secret>,
}

/// What the server answered.
struct Answer {
    node: String,
    status: u16,
    body: Zeroizing<Vec<u8>>,
}

impl Api {
    pub(super) fn new(nodes: Vec<Node>, user: &str, secret: Arc<Secret>) -> Self {
        Self { nodes, user: user.to_owned(), secret }
    }

    /// What is there; `None` if nothing is.
    pub(super) async fn find(&self, step: Step, path: &str) -> Result<Option<Value>, TargetError> {
        let answer = self.ask(step, Method::GET, path, Bytes::new()).await?;
        match answer.status {
            200 => serde_json::from_slice(&answer.body)
                .map(Some)
                .map_err(|_| TargetError::new(TargetCode::Protocol, step, &answer.node, "the answer is no JSON")),
            404 => Ok(None),
            _ => Err(refusal(&answer, step)),
        }
    }

    pub(super) async fn put(&self, step: Step, path: &str, body: &Value) -> Result<(), TargetError> {
        let answer = self.ask(step, Method::PUT, path, Bytes::from(body.to_string())).await?;
        if matches!(answer.status, 201 | 204) { Ok(()) } else { Err(refusal(&answer, step)) }
    }

    /// Removes; `false` if there was nothing.
    pub(super) async fn remove(&self, step: Step, path: &str) -> Result<bool, TargetError> {
        let answer = self.ask(step, Method::DELETE, path, Bytes::new()).await?;
        match answer.status {
            204 => Ok(true),
            404 => Ok(false),
            _ => Err(refusal(&answer, step)),
        }
    }

    /// Asks the first node that can be reached. One that was reached is not left for another: it may have done what was asked.
    async fn ask(&self, step: Step, method: Method, path: &str, body: Bytes) -> Result<Answer, TargetError> {
        let mut unreached = TargetError::new(TargetCode::Internal, Step::Connect, "", "no node");
        for node in &self.nodes {
            let stream = match open(node).await {
                Ok(stream) => stream,
                Err(failure) => {
                    unreached = TargetError::new(TargetCode::Unreachable, Step::Connect, node.name(), failure.words());
                    continue;
                }
            };
            let asked = timed(ANSWER_MAX, self.send(node, TokioIo::new(stream), method, path, body)).await;
            return asked.map_err(|failure| TargetError::new(TargetCode::Unreachable, step, node.name(), failure.words()));
        }
        Err(unreached)
    }

    async fn send(
        &self,
        node: &Node,
        stream: impl hyper::rt::Read + hyper::rt::Write + Unpin,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Answer, Failure> {
        let host = if node.host().contains(':') { format!("[{}]:{}", node.host(), node.port()) } else { format!("{}:{}", node.host(), node.port()) };
        let request = Request::builder().method(method).uri(format!("/api{path}")).header(HOST, host).header(CONTENT_TYPE, "application/json");
        let request = request.header(AUTHORIZATION, self.authorization()?).body(Full::new(body));
        let request = request.map_err(|_| Failure::Malformed("the request cannot be written"))?;
        let reply = exchange(stream, request, BODY_MAX).await?;
        Ok(Answer { node: node.name().to_owned(), status: reply.status, body: reply.body })
    }

    /// `Basic`, RFC 7617 section 2. Marked as secret, so that nothing shows it.
    fn authorization(&self) -> Result<HeaderValue, Failure> {
        let password = self.secret.expose();
        let mut pair = Zeroizing::new(Vec::with_capacity(self.user.len().saturating_add(password.len()).saturating_add(1)));
        pair.extend_from_slice(self.user.as_bytes());
        pair.push(b':');
        pair.extend_from_slice(password);
        let text = Zeroizing::new(format!("Basic {}", Zeroizing::new(STANDARD.encode(pair.as_slice())).as_str()));
        let mut header = HeaderValue::from_str(&text).map_err(|_| Failure::Malformed("the password cannot be written"))?;
        header.set_sensitive(true);
        Ok(header)
    }
}

fn refusal(answer: &Answer, step: Step) -> TargetError {
    let code = match answer.status {
        401 => TargetCode::Refused,
        403 | 405 => TargetCode::Privilege,
        400 | 404 if step == Step::Mint => TargetCode::Plan,
        429 | 500..=599 => TargetCode::Busy,
        _ => TargetCode::Protocol,
    };
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let reason = body.get("reason").map(|reason| reason.as_str().map_or_else(|| reason.to_string(), str::to_owned)).unwrap_or_default();
    TargetError::new(code, step, &answer.node, &format!("status {} {reason}", answer.status))
}

/// A part of a path, RFC 3986 section 2.1.
pub(super) fn encoded(text: &str) -> String {
    text.bytes().map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_path_is_one_part() {
        assert_eq!(encoded("/"), "%2F");
        assert_eq!(encoded("a/../b?c#\u{fc}"), "a%2F%2E%2E%2Fb%3Fc%23%C3%BC");
    }

    #[test]
    fn a_refusal_says_whether_to_wait() {
        let answer = |status, body: &'static str| Answer { node: "one".into(), status, body: Zeroizing::new(body.as_bytes().to_vec()) };
        assert_eq!(
            refusal(&answer(401, "{\"error\":\"x\",\"reason\":\"Login failed\"}"), Step::Remove).to_string(),
            "remove on `one` failed (refused): status 401 Login failed"
        );
        assert_eq!(refusal(&answer(400, "{\"reason\":[\"a\"]}"), Step::Mint).code(), TargetCode::Plan);
        assert!(refusal(&answer(503, "<html>"), Step::Remove).is_transient());
        assert_eq!(refusal(&answer(403, ""), Step::List).code(), TargetCode::Privilege);
    }
}
