//! Answers to clients of both eras, written byte by byte: results, errors, and every shape of "held for a human".

mod held;

use std::borrow::Cow;

use super::envelope::{IdBuf, folds_to};
use super::{META_SERVER_INFO, META_SUBSCRIPTION_ID, Method, Refusal, Version};
use crate::json::{Object, Raw, members as adding, write_string};

pub use held::{Elicitation, ElicitationAnswer, LegacyTask, Pending, TaskHandle, TaskStatus};

/// The key of `_meta` under which our own facts about a held call stand. Upstreams may not write under [`META_OWN`].
pub const META_APPROVAL: &str = "dev.bailiwick/approval";
/// The key of `_meta` by which 2025-11-25 says of which task an answer is.
const META_RELATED_TASK: &str = "io.modelcontextprotocol/related-task";
/// The prefix of our keys in `_meta`.
pub const META_OWN: &str = "dev.bailiwick/";

/// Which era the client that is answered speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    Modern,
    Legacy,
}

/// Who we say we are: `serverInfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerInfo {
    pub name: Cow<'static, str>,
    pub version: Cow<'static, str>,
}

impl ServerInfo {
    fn write(&self, out: &mut Vec<u8>) {
        Object::begin(out).text("name", &self.name).text("version", &self.version).end();
    }
}

/// Writes answers for one client. `id` is always the request's id as it was written.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'i> {
    pub client: Client,
    pub server: &'i ServerInfo,
}

impl Writer<'_> {
    /// A response whose result has what `members` adds, and for a modern client also `resultType` and who we are.
    fn result(&self, out: &mut Vec<u8>, id: &IdBuf, result_type: &str, members: impl FnOnce(Object<'_>) -> Object<'_>) {
        self.result_with_meta(out, id, result_type, members, |meta| meta);
    }

    fn result_with_meta(
        &self,
        out: &mut Vec<u8>,
        id: &IdBuf,
        result_type: &str,
        members: impl FnOnce(Object<'_>) -> Object<'_>,
        meta: impl FnOnce(Object<'_>) -> Object<'_>,
    ) {
        respond(out, id, |result| match self.client {
            Client::Modern => members(result.text("resultType", result_type))
                .nested("_meta", |object| meta(object).with(META_SERVER_INFO, |out| self.server.write(out))),
            Client::Legacy => {
                let mut ours = Vec::new();
                meta(Object::begin(&mut ours)).end();
                let ours = std::str::from_utf8(&ours).ok().filter(|text| *text != "{}");
                members(result).raw_if("_meta", ours)
            }
        });
    }

    /// Passes a complete result of an upstream of either era on. What only the other era has is added or dropped;
    /// `serverInfo`, caching and members that look like ours are never the upstream's. All else keeps its bytes.
    pub fn upstream_result(&self, out: &mut Vec<u8>, id: &IdBuf, method: Method, upstream: Raw<'_>) {
        self.passed_on(out, id, method, upstream, None);
    }

    /// 2025-11-25, `tasks/result`: what the call of a task would have been answered, and of which task it is.
    pub fn legacy_task_result(&self, out: &mut Vec<u8>, id: &IdBuf, upstream: Raw<'_>, task: &str) {
        self.passed_on(out, id, Method::ToolsCall, upstream, Some(task));
    }

    fn passed_on(&self, out: &mut Vec<u8>, id: &IdBuf, method: Method, upstream: Raw<'_>, of_task: Option<&str>) {
        let copied = adding(|mut object| {
            for (key, value) in upstream.entries() {
                let name = key.string().unwrap_or_default();
                if !is_rewritten(&name) {
                    object = object.entry_in(key, value);
                }
            }
            object
        });
        let meta = adding(|mut object| {
            for (key, value) in upstream.member("_meta").iter().flat_map(|meta| meta.entries()) {
                let name = key.string().unwrap_or_default();
                if !name.starts_with(META_OWN) && !name.starts_with("io.modelcontextprotocol/") {
                    object = object.entry_in(key, value);
                }
            }
            match of_task {
                Some(task) => object.nested(META_RELATED_TASK, |related| related.text("taskId", task)),
                None => object,
            }
        });
        let caching = self.client == Client::Modern && method.is_cacheable();
        self.result_with_meta(
            out,
            id,
            "complete",
            |object| {
                if caching { cache(copied(object)) } else { copied(object) }
            },
            meta,
        );
    }

    /// Passes a modern upstream's questions to a modern client, with our own state in place of the upstream's.
    pub fn input_required(&self, out: &mut Vec<u8>, id: &IdBuf, upstream: Raw<'_>, request_state: &str) {
        self.result(out, id, "input_required", |object| {
            let object = object.raw_if("inputRequests", upstream.member("inputRequests").map(Raw::text));
            object.text("requestState", request_state)
        });
    }

    /// An empty result: to `ping`, `tasks/update`, `tasks/cancel`, `logging/setLevel`.
    pub fn empty(&self, out: &mut Vec<u8>, id: &IdBuf) {
        self.result(out, id, "complete", |object| object);
    }

    /// A tool's result that is one text; `is_error` tells the model that it did not work out.
    pub fn tool_text(&self, out: &mut Vec<u8>, id: &IdBuf, text: &str, is_error: bool) {
        self.result(out, id, "complete", |object| content(object, text, is_error));
    }

    /// A tool's error result for the model, with facts for programs under [`META_APPROVAL`] (a JSON object).
    pub fn tool_error(&self, out: &mut Vec<u8>, id: &IdBuf, text: &str, facts: Raw<'_>) {
        self.result_with_meta(out, id, "complete", |object| content(object, text, true), |meta| meta.raw(META_APPROVAL, facts.text()));
    }

    /// `tools/list`: definitions as JSON objects already rewritten for listing.
    pub fn tools_list<'t>(&self, out: &mut Vec<u8>, id: &IdBuf, tools: impl IntoIterator<Item = &'t [u8]>, next_cursor: Option<&str>) {
        let list = |out: &mut Vec<u8>| {
            out.push(b'[');
            for (index, tool) in tools.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                out.extend_from_slice(tool);
            }
            out.push(b']');
        };
        let modern = self.client == Client::Modern;
        self.result(out, id, "complete", |object| {
            let object = object.with("tools", list).text_if("nextCursor", next_cursor);
            if modern { cache(object) } else { object }
        });
    }

    /// `server/discover`. `capabilities` is a JSON object.
    pub fn discover(&self, out: &mut Vec<u8>, id: &IdBuf, capabilities: Raw<'_>, instructions: Option<&str>) {
        self.result(out, id, "complete", |object| {
            let versions = format!("[\"{}\"]", Version::MODERN.as_str());
            let object = object.raw("supportedVersions", &versions).raw("capabilities", capabilities.text());
            cache(object.text_if("instructions", instructions))
        });
    }

    /// `initialize`: only for legacy clients. `capabilities` is a JSON object.
    pub fn initialize(&self, out: &mut Vec<u8>, id: &IdBuf, version: Version, capabilities: Raw<'_>, instructions: Option<&str>) {
        let version = version.min(Version::LATEST_LEGACY);
        respond(out, id, |object| {
            object
                .text("protocolVersion", version.as_str())
                .raw("capabilities", capabilities.text())
                .with("serverInfo", |out| self.server.write(out))
                .text_if("instructions", instructions)
        });
    }

    /// The graceful end of a `subscriptions/listen` stream.
    pub fn subscription_end(&self, out: &mut Vec<u8>, id: &IdBuf) {
        self.result_with_meta(out, id, "complete", |object| object, |meta| meta.raw(META_SUBSCRIPTION_ID, id.as_str()));
    }
}

/// The first message on a `subscriptions/listen` stream: what we agreed to tell, a JSON object.
pub fn acknowledged(out: &mut Vec<u8>, listen_id: &IdBuf, notifications: Raw<'_>) {
    notify(out, "notifications/subscriptions/acknowledged", |params| {
        let params = params.nested("_meta", |meta| meta.raw(META_SUBSCRIPTION_ID, listen_id.as_str()));
        params.raw("notifications", notifications.text())
    });
}

/// Tells that the tool set changed; on a modern stream with the id of its `subscriptions/listen`.
pub fn tools_changed(out: &mut Vec<u8>, listen_id: Option<&IdBuf>) {
    notify(out, "notifications/tools/list_changed", |params| match listen_id {
        Some(id) => params.nested("_meta", |meta| meta.raw(META_SUBSCRIPTION_ID, id.as_str())),
        None => params,
    });
}

/// Progress for a request that brought a token.
pub fn progress(out: &mut Vec<u8>, token: &IdBuf, progress: u64, total: Option<u64>, message: Option<&str>) {
    notify(out, "notifications/progress", |params| {
        let total = total.map(|total| total.to_string());
        let params = params.raw("progressToken", token.as_str()).count("progress", progress);
        params.raw_if("total", total.as_deref()).text_if("message", message)
    });
}

/// A JSON-RPC error. Without an id the answer has none.
pub fn error(out: &mut Vec<u8>, id: Option<&IdBuf>, code: i32, message: &str, data: Option<Raw<'_>>) {
    let object = Object::begin(out).text("jsonrpc", "2.0").raw_if("id", id.map(IdBuf::as_str));
    let error = adding(|error| {
        let error = error.number("code", code.into()).text("message", message);
        error.raw_if("data", data.map(Raw::text))
    });
    object.nested("error", error).end();
}

impl Refusal {
    /// Writes the body of the answer.
    pub fn write(&self, out: &mut Vec<u8>) {
        error(out, self.id.as_ref(), self.code, &self.message, self.data.as_ref().map(|data| data.raw()));
    }
}

fn respond(out: &mut Vec<u8>, id: &IdBuf, result: impl FnOnce(Object<'_>) -> Object<'_>) {
    Object::begin(out).text("jsonrpc", "2.0").raw("id", id.as_str()).nested("result", result).end();
}

fn notify(out: &mut Vec<u8>, method: &str, params: impl FnOnce(Object<'_>) -> Object<'_>) {
    Object::begin(out).text("jsonrpc", "2.0").text("method", method).nested("params", params).end();
}

fn content<'o>(object: Object<'o>, text: &str, is_error: bool) -> Object<'o> {
    let blocks = |out: &mut Vec<u8>| {
        out.extend_from_slice(b"[{\"type\":\"text\",\"text\":");
        write_string(out, text);
        out.extend_from_slice(b"}]");
    };
    object.with("content", blocks).boolean("isError", is_error)
}

/// What a task may see must not be kept for another: never public, never for a time.
fn cache(object: Object<'_>) -> Object<'_> {
    object.count("ttlMs", 0).text("cacheScope", "private")
}

/// Members of an upstream's result that we write ourselves, and look-alikes of members that a client acts on.
fn is_rewritten(name: &str) -> bool {
    const OURS: [&str; 4] = ["resultType", "ttlMs", "cacheScope", "_meta"];
    const KEPT: [&str; 6] = ["content", "structuredContent", "isError", "inputRequests", "requestState", "tools"];
    OURS.iter().any(|ours| folds_to(name, ours)) || KEPT.iter().any(|kept| name != *kept && folds_to(name, kept))
}

impl<'o> Object<'o> {
    fn entry_in(self, key: Raw<'_>, value: Raw<'_>) -> Self {
        self.entry(key.text(), value.text())
    }
}

#[cfg(test)]
mod tests;
