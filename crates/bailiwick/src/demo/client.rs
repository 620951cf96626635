//! A small MCP client of the 2026-07-28 revision over HTTP, as any other could be: a token, requests, and rounds of waiting.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bailiwick_core::{Clock as _, InstanceId, TaskId};
use bailiwick_wire::json::Limits;
use bailiwick_wire::mcp::{META_CLIENT_CAPABILITIES, META_CLIENT_INFO, META_PROTOCOL_VERSION, Message, Version};
use bailiwick_wire::sse;
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::cli::client::{ApiClient, Opened, bearer, problem};
use crate::cli::http::ClientError;
use crate::cli::key_files::AgentKey;
use crate::cli::screen::{line, text};
use crate::clock::random;
use crate::connect::era::modern_headers;

const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Rounds of waiting that clients of this revision do by default.
const ROUNDS_MAX: usize = 10;

/// A client that works on one task.
pub(super) struct TaskClient<'a> {
    api: &'a ApiClient,
    /// The task as it was opened, with its token.
    pub(super) opened: Opened,
    /// The task's id.
    pub(super) id: TaskId,
    /// This running copy of the agent.
    pub(super) instance: InstanceId,
    next: AtomicU64,
}

/// A JSON-RPC response.
#[derive(Debug)]
pub(super) struct Reply {
    document: Value,
    /// From the request to the whole answer.
    pub(super) elapsed: Duration,
}

impl Reply {
    /// The result.
    pub(super) fn result(&self) -> Result<&Value, ClientError> {
        self.document.get("result").ok_or_else(|| self.unexpected("a result"))
    }

    /// What a tool answered, structured; an error if the tool or the broker said no.
    pub(super) fn content(&self) -> Result<Value, ClientError> {
        let result = self.result()?;
        let good = result.get("isError") != Some(&Value::Bool(true));
        result.get("structuredContent").filter(|_| good).cloned().ok_or_else(|| self.unexpected("a tool's structured answer"))
    }

    /// The words of a tool result that is an error: what a model reads.
    pub(super) fn failure(&self) -> Result<String, ClientError> {
        let result = self.result()?;
        let words = result.pointer("/content/0").map(|c| text(c, "text"));
        words.filter(|_| result.get("isError") == Some(&Value::Bool(true))).ok_or_else(|| self.unexpected("a refusal in words"))
    }

    /// The JSON-RPC error.
    pub(super) fn error(&self) -> Result<Value, ClientError> {
        self.document.get("error").cloned().ok_or_else(|| self.unexpected("a JSON-RPC error"))
    }

    fn unexpected(&self, expected: &str) -> ClientError {
        let real: String = line(&self.document.to_string()).chars().take(400).collect();
        ClientError::Answer("the broker".to_owned(), format!("expected {expected}, got {real}"))
    }
}

impl<'a> TaskClient<'a> {
    /// Proves the agent's identity and opens a task.
    pub(super) async fn open(api: &'a ApiClient, agent: &AgentKey, model: &str, wish: &Value) -> Result<Self, ClientError> {
        let instance = InstanceId::new(api.clock().now(), random());
        let token = api.token(agent, instance, Some(model), None).await?;
        let opened = api.open_task(&token, wish).await?;
        Ok(Self { api, id: opened.id()?, opened, instance, next: AtomicU64::new(1) })
    }

    /// Calls a tool; waits as long as the broker asks to.
    pub(super) async fn call(&self, tool: &str, arguments: &Value) -> Result<Reply, ClientError> {
        let started = Instant::now();
        let mut params = Map::from_iter([("name".to_owned(), json!(tool)), ("arguments".to_owned(), arguments.clone())]);
        for _ in 0..ROUNDS_MAX {
            let mut reply = self.request("tools/call", params.clone()).await?;
            let waits = reply.document.pointer("/result/resultType").and_then(Value::as_str) == Some("input_required");
            let Some(state) = reply.document.pointer("/result/requestState").filter(|_| waits) else {
                reply.elapsed = started.elapsed();
                return Ok(reply);
            };
            params.insert("requestState".to_owned(), state.clone());
        }
        Err(ClientError::Answer("the broker".to_owned(), format!("it asked to wait {ROUNDS_MAX} times")))
    }

    /// One request.
    pub(super) async fn request(&self, method: &str, mut params: Map<String, Value>) -> Result<Reply, ClientError> {
        let started = Instant::now();
        let meta = json!({
            META_PROTOCOL_VERSION: Version::MODERN.as_str(), META_CLIENT_CAPABILITIES: {},
            META_CLIENT_INFO: { "name": "bailiwick-demo", "version": env!("CARGO_PKG_VERSION") },
        });
        params.insert("_meta".to_owned(), meta);
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let body = Bytes::from(json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }).to_string());
        let mut all = bearer(&self.opened.token)?;
        all.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        all.insert(header::ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        if let Ok(Message::Request(request)) = Message::parse(&body, &Limits::REQUEST) {
            all.extend(modern_headers(Version::MODERN.as_str(), method, &request.params, &[]));
        }
        let answer = self.api.send(Method::POST, "/mcp", all, body, ANSWER_WITHIN).await?;
        let (status, stream) = (answer.status, answer.is("text/event-stream"));
        let bytes = answer.bytes(ANSWER_WITHIN).await?;
        let document = if stream { last_response(&bytes, id) } else { serde_json::from_slice(&bytes).ok() };
        match document.filter(|d: &Value| {
            d.get("jsonrpc").is_some() && (status.is_success() || status == StatusCode::BAD_REQUEST || status == StatusCode::NOT_FOUND)
        }) {
            Some(document) => Ok(Reply { document, elapsed: started.elapsed() }),
            None => Err(problem(status, &bytes)),
        }
    }
}

/// The response to a request in a stream of events.
fn last_response(bytes: &[u8], id: u64) -> Option<Value> {
    let mut reader = sse::Reader::new(Limits::REPLY.bytes);
    let mut found = None;
    reader.push(bytes).ok()?;
    while let Some(event) = reader.next_event() {
        let document: Option<Value> = serde_json::from_str(&event.data).ok();
        found = document.filter(|d| d.get("id").and_then(Value::as_u64) == Some(id) && d.get("method").is_none()).or(found);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_response_is_found_among_other_events() {
        let stream = b": hello\n\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\"}\n\ndata: {\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{\"a\":1}}\n\n";
        assert_eq!(last_response(stream, 7).unwrap()["result"]["a"], 1);
        assert!(last_response(stream, 8).is_none());
    }

    #[test]
    fn a_refusal_is_not_taken_for_content() {
        let reply = |document| Reply { document, elapsed: Duration::ZERO };
        let refused = reply(json!({"result": {"isError": true, "content": [{"type": "text", "text": "no"}], "structuredContent": {"code": "x"}}}));
        assert!(refused.content().is_err());
        assert_eq!(refused.failure().unwrap(), "no");
        let done = reply(json!({"result": {"content": [], "structuredContent": {"refund": "R-1"}}}));
        assert!(done.failure().is_err());
        assert_eq!(done.content().unwrap()["refund"], "R-1");
    }
}
