//! What a message's era asks of its HTTP request: mirrored headers of 2026-07-28, session and version of the handshake revisions.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bailiwick_wire::json::{Limits, Raw};
use bailiwick_wire::mcp::headers::{derive, encode};
use bailiwick_wire::mcp::{HeaderParam, Message, Meta, Method, Params, ToolDefinition, Version, tool};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

use crate::cli::http::ClientError;

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");

/// The protocol version that a message claims in its `_meta`: only modern messages do.
pub(super) fn modern_version(params: &Params<'_>) -> Option<String> {
    Meta::read(params).protocol_version.and_then(Raw::string).map(Cow::into_owned)
}

/// The headers that mirror a modern message (2026-07-28, transports, standard headers).
pub(crate) fn modern_headers(version: &str, method: &str, params: &Params<'_>, annotated: &[HeaderParam]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(known) = Method::parse(method) {
        for (name, value) in derive(known, target(known, params), params.arguments, annotated) {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name.as_ref()), HeaderValue::from_str(&value)) {
                headers.insert(name, value);
            }
        }
    }
    // Also what we do not know is passed as it is: the broker says what it does not speak.
    for (name, value) in [(PROTOCOL_VERSION, version), (METHOD, method)] {
        if let Ok(value) = HeaderValue::from_str(&encode(value)) {
            headers.insert(name, value);
        }
    }
    headers
}

/// What `Mcp-Name` mirrors.
fn target<'p>(method: Method, params: &'p Params<'_>) -> Option<&'p str> {
    match method {
        Method::ToolsCall | Method::PromptsGet => params.name.as_deref(),
        Method::ResourcesRead => params.uri.as_deref(),
        Method::TasksGet | Method::TasksUpdate | Method::TasksCancel => params.task_id.as_deref(),
        _ => None,
    }
}

/// A session of the handshake revisions, once it has begun.
#[derive(Default)]
pub(super) struct Legacy {
    headers: Mutex<HeaderMap>,
}

impl Legacy {
    /// The headers of every message after `initialize`.
    pub(super) fn headers(&self) -> HeaderMap {
        self.headers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Did the broker give a session?
    pub(super) fn has_session(&self) -> bool {
        self.headers.lock().unwrap_or_else(PoisonError::into_inner).contains_key(SESSION)
    }

    /// Takes over the session that the answer to `initialize` names, in place of any before.
    pub(super) fn begin(&self, answer: &HeaderMap) {
        let mut headers = self.headers.lock().unwrap_or_else(PoisonError::into_inner);
        headers.clear();
        if let Some(session) = answer.get(SESSION) {
            let mut session = session.clone();
            session.set_sensitive(true);
            headers.insert(SESSION, session);
        }
    }

    /// Takes over the version that was negotiated.
    pub(super) fn negotiated(&self, answer: &[u8]) {
        let Some(result) = result(answer) else { return };
        let version = result.member("protocolVersion").and_then(Raw::string).and_then(|v| Version::parse(&v));
        if let Some(version) = version.filter(|v| *v >= Version::V2025_06_18) {
            //= MCP 2025-06-18, transports, protocol version header: 2025-03-26 did not have it.
            self.headers.lock().unwrap_or_else(PoisonError::into_inner).insert(PROTOCOL_VERSION, HeaderValue::from_static(version.as_str()));
        }
    }
}

/// Which parameters of which tools are mirrored into headers, as far as we have seen them listed.
#[derive(Default)]
pub(super) struct ToolHeaders {
    by_tool: Mutex<HashMap<String, Arc<[HeaderParam]>>>,
}

impl ToolHeaders {
    const TOOLS_MAX: usize = 10_000;

    /// Those of a tool.
    pub(super) fn of(&self, tool: &str) -> Arc<[HeaderParam]> {
        self.by_tool.lock().unwrap_or_else(PoisonError::into_inner).get(tool).cloned().unwrap_or_default()
    }

    /// Is there any tool that mirrors anything?
    pub(super) fn any(&self) -> bool {
        !self.by_tool.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Learns from an answer to `tools/list`; gives the cursor of its next page.
    pub(super) fn learn(&self, answer: &[u8]) -> Option<String> {
        let (tools, next) = tool::list(result(answer)?)?;
        let mut by_tool = self.by_tool.lock().unwrap_or_else(PoisonError::into_inner);
        for tool in tools.filter_map(|raw| ToolDefinition::parse(raw).ok()) {
            if tool.header_params.is_empty() {
                by_tool.remove(tool.name.as_ref());
            } else if by_tool.len() < Self::TOOLS_MAX {
                by_tool.insert(tool.name.into_owned(), tool.header_params.into());
            }
        }
        next.map(Cow::into_owned)
    }
}

/// A `tools/list` of our own, with the `_meta` of a call.
pub(super) fn tools_list(call: &[u8], cursor: Option<&str>) -> Option<Vec<u8>> {
    let call: Value = serde_json::from_slice(call).ok()?;
    let mut meta = call.pointer("/params/_meta")?.clone();
    meta.as_object_mut()?.remove("progressToken");
    let params = match cursor {
        Some(cursor) => json!({ "_meta": meta, "cursor": cursor }),
        None => json!({ "_meta": meta }),
    };
    Some(json!({ "jsonrpc": "2.0", "id": "bailiwick-connect-tools", "method": "tools/list", "params": params }).to_string().into_bytes())
}

fn result(answer: &[u8]) -> Option<Raw<'_>> {
    match Message::parse(answer, &Limits::REPLY).ok()? {
        Message::Response(response) => response.outcome.ok(),
        Message::Request(_) | Message::Notification(_) => None,
    }
}

/// The code of a JSON-RPC error.
pub(super) fn error_code(answer: &[u8]) -> Option<i32> {
    let answer: Value = serde_json::from_slice(answer).ok()?;
    answer.pointer("/error/code")?.as_i64()?.try_into().ok()
}

/// A JSON-RPC error that names no request, or another one, in words.
pub(super) fn json_rpc_error(answer: &[u8]) -> Option<ClientError> {
    let answer: Value = serde_json::from_slice(answer).ok()?;
    let message = answer.pointer("/error/message")?.as_str()?;
    Some(ClientError::Answer("the broker".to_owned(), bailiwick_wire::render::line(message)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(body: &str, annotated: &[HeaderParam]) -> HeaderMap {
        match Message::parse(body.as_bytes(), &Limits::REQUEST).unwrap() {
            Message::Request(r) => modern_headers(&modern_version(&r.params).unwrap(), &r.method, &r.params, annotated),
            other => panic!("{other:?}"),
        }
    }

    const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;

    #[test]
    fn a_modern_call_is_mirrored_into_headers() {
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"shop.show_order","arguments":{{"region":"na\u00efve"}},{META}}}}}"#
        );
        let annotated =
            [HeaderParam { header: "Region".into(), path: vec!["region".into()], kind: bailiwick_wire::mcp::headers::HeaderKind::String }];
        let headers = headers(&body, &annotated);
        assert_eq!(headers["mcp-protocol-version"], "2026-07-28");
        assert_eq!(headers["mcp-method"], "tools/call");
        assert_eq!(headers["mcp-name"], "shop.show_order");
        assert_eq!(headers["mcp-param-region"], "=?base64?bmHDr3Zl?=");
    }

    #[test]
    fn an_unknown_version_and_method_are_passed_for_the_broker_to_refuse() {
        let body = r#"{"jsonrpc":"2.0","id":1,"method":"x/y","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2099-01-01"}}}"#;
        let headers = headers(body, &[]);
        assert_eq!((headers["mcp-protocol-version"].to_str().unwrap(), headers["mcp-method"].to_str().unwrap()), ("2099-01-01", "x/y"));
    }

    #[test]
    fn a_legacy_session_carries_its_id_and_the_negotiated_version() {
        let legacy = Legacy::default();
        assert!(legacy.headers().is_empty() && !legacy.has_session());
        let mut answer = HeaderMap::new();
        answer.insert("mcp-session-id", HeaderValue::from_static("s1"));
        legacy.begin(&answer);
        legacy.negotiated(br#"{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-06-18","capabilities":{}}}"#);
        let headers = legacy.headers();
        assert_eq!((headers["mcp-session-id"].to_str().unwrap(), headers["mcp-protocol-version"].to_str().unwrap()), ("s1", "2025-06-18"));
        legacy.begin(&HeaderMap::new());
        assert!(!legacy.has_session());
    }

    #[test]
    fn annotated_parameters_are_learned_from_a_list_and_forgotten_when_the_tool_has_none_any_more() {
        let tools = ToolHeaders::default();
        let list =
            |schema: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"tools":[{{"name":"a.b","inputSchema":{schema}}}],"nextCursor":"n"}}}}"#);
        let with = list(r#"{"type":"object","properties":{"r":{"type":"string","x-mcp-header":"Region"}}}"#);
        assert_eq!(tools.learn(with.as_bytes()).as_deref(), Some("n"));
        assert_eq!(tools.of("a.b")[0].header, "Region");
        tools.learn(list(r#"{"type":"object"}"#).as_bytes());
        assert!(!tools.any() && tools.of("a.b").is_empty());
    }

    #[test]
    fn our_own_list_has_the_meta_of_the_call_but_not_its_progress_token() {
        let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","_meta":{"progressToken":7,"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
        let list = String::from_utf8(tools_list(call.as_bytes(), Some("c")).unwrap()).unwrap();
        assert!(
            list.contains("tools/list") && list.contains("2026-07-28") && list.contains("\"cursor\":\"c\"") && !list.contains("progressToken"),
            "{list}"
        );
    }
}
