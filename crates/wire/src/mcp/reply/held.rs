//! The shapes of a call that waits for a person. Which one fits is decided by what the request declared.

use super::{Writer, content, notify, respond};
use crate::json::{Object, members};
use crate::mcp::envelope::{IdBuf, Response};
use crate::mcp::{META_SERVER_INFO, code};

/// A call that waits, as the universal fallback tells it: an error result that the model reads.
#[derive(Debug, Clone, Copy)]
pub struct Pending<'a> {
    /// Text form of the hold's id.
    pub approval: &'a str,
    /// For the model: what was not done, who must approve, how to ask again.
    pub text: &'a str,
    pub retry_after_ms: u64,
    /// RFC 3339.
    pub expires_at: &'a str,
}

/// A wish that a person opens a page. The address carries no authority and no personal data.
#[derive(Debug, Clone, Copy)]
pub struct Elicitation<'a> {
    /// Text form of the hold's id.
    pub approval: &'a str,
    pub url: &'a str,
    pub message: &'a str,
}

/// State of a task handle of the tasks extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskStatus {
    Working,
    InputRequired,
    Completed,
    Failed,
    Cancelled,
}

impl TaskStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Working => "working",
            Self::InputRequired => "input_required",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A handle of the tasks extension: MCP's asynchronous result, not a task in our sense.
#[derive(Debug, Clone, Copy)]
pub struct TaskHandle<'a> {
    /// At least 128 random bits.
    pub task_id: &'a str,
    pub status: TaskStatus,
    pub status_message: Option<&'a str>,
    /// RFC 3339.
    pub created_at: &'a str,
    /// RFC 3339.
    pub last_updated_at: &'a str,
    pub ttl_ms: u64,
    pub poll_interval_ms: u64,
}

impl TaskHandle<'_> {
    fn write<'o>(&self, object: Object<'o>) -> Object<'o> {
        object
            .text("taskId", self.task_id)
            .text("status", self.status.as_str())
            .text_if("statusMessage", self.status_message)
            .text("createdAt", self.created_at)
            .text("lastUpdatedAt", self.last_updated_at)
            .count("ttlMs", self.ttl_ms)
            .count("pollIntervalMs", self.poll_interval_ms)
    }

    fn write_legacy<'o>(&self, object: Object<'o>) -> Object<'o> {
        object
            .text("taskId", self.task_id)
            .text("status", self.status.as_str())
            .text_if("statusMessage", self.status_message)
            .text("createdAt", self.created_at)
            .text("lastUpdatedAt", self.last_updated_at)
            .count("ttl", self.ttl_ms)
            .count("pollInterval", self.poll_interval_ms)
    }
}

/// The experimental task of 2025-11-25; only for a request that brought `params.task`.
#[derive(Debug, Clone, Copy)]
pub struct LegacyTask<'a>(pub TaskHandle<'a>);

impl LegacyTask<'_> {
    /// The task alone, as `tasks/list` has it.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.0.write_legacy(Object::begin(out)).end();
    }
}

impl Writer<'_> {
    /// The fallback for every client: an error result that says what is pending and when to call again.
    pub fn held_pending(&self, out: &mut Vec<u8>, id: &IdBuf, pending: &Pending<'_>) {
        let facts = members(|meta| {
            meta.nested(super::META_APPROVAL, |facts| {
                facts
                    .text("id", pending.approval)
                    .text("status", "pending")
                    .count("retryAfterMs", pending.retry_after_ms)
                    .text("expiresAt", pending.expires_at)
            })
        });
        self.result_with_meta(out, id, "complete", |object| content(object, pending.text, true), facts);
    }

    /// Modern, first leg, for a request that declared `elicitation.url`: a page to open, and the state to bring back.
    pub fn held_url(&self, out: &mut Vec<u8>, id: &IdBuf, elicitation: &Elicitation<'_>, request_state: &str) {
        self.result(out, id, "input_required", |object| {
            let request = members(|request| {
                request.text("method", "elicitation/create").nested("params", |params| {
                    let params = params.text("mode", "url").text("url", elicitation.url);
                    params.text("message", elicitation.message)
                })
            });
            let object = object.nested("inputRequests", |requests| requests.nested("approval", request));
            object.text("requestState", request_state)
        });
    }

    /// Modern, any request and every later leg: only state to bring back. It must differ on every leg.
    pub fn held_state(&self, out: &mut Vec<u8>, id: &IdBuf, request_state: &str) {
        self.result(out, id, "input_required", |object| object.text("requestState", request_state));
    }

    /// Modern, for a request that declared the tasks extension: a handle to poll.
    pub fn held_task(&self, out: &mut Vec<u8>, id: &IdBuf, task: &TaskHandle<'_>) {
        self.result(out, id, "task", |object| task.write(object));
    }

    /// The answer to `tasks/get`: the handle, and the outcome once there is one.
    pub fn task(&self, out: &mut Vec<u8>, id: &IdBuf, task: &TaskHandle<'_>, outcome: Option<Result<crate::Raw<'_>, crate::Raw<'_>>>) {
        self.result(out, id, "complete", |object| match outcome {
            None => task.write(object),
            Some(Ok(result)) => task.write(object).raw("result", result.text()),
            Some(Err(error)) => task.write(object).raw("error", error.text()),
        });
    }

    /// 2025-11-25, for a request with `params.task`: a handle of that revision's shape.
    pub fn held_legacy_task(&self, out: &mut Vec<u8>, id: &IdBuf, LegacyTask(task): &LegacyTask<'_>) {
        respond(out, id, |object| object.nested("task", |object| task.write_legacy(object)));
    }

    /// 2025-11-25, `tasks/get` and `tasks/cancel`: how the task stands.
    pub fn legacy_task(&self, out: &mut Vec<u8>, id: &IdBuf, LegacyTask(task): &LegacyTask<'_>) {
        respond(out, id, |object| task.write_legacy(object));
    }

    /// 2025-11-25, `tasks/list`: one page, each as [`LegacyTask::write`] wrote it.
    pub fn legacy_tasks(&self, out: &mut Vec<u8>, id: &IdBuf, tasks: &[Vec<u8>]) {
        let list = |out: &mut Vec<u8>| {
            out.push(b'[');
            for (index, task) in tasks.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                out.extend_from_slice(task);
            }
            out.push(b']');
        };
        respond(out, id, |object| object.with("tasks", list));
    }

    /// `tools/call` result to be stored for a task handle: a text, as `tasks/get` will inline it.
    pub fn stored_tool_text(&self, text: &str, is_error: bool) -> Vec<u8> {
        let mut out = Vec::new();
        let object = content(Object::begin(&mut out).text("resultType", "complete"), text, is_error);
        object.nested("_meta", |meta| meta.with(META_SERVER_INFO, |out| self.server.write(out))).end();
        out
    }
}

impl Elicitation<'_> {
    /// 2025-11-25: our own request on the call's stream. `request_id` must be unguessable: the answer is matched by it.
    pub fn create(&self, out: &mut Vec<u8>, request_id: &str) {
        let params = members(|params| {
            let params = params.text("mode", "url").text("elicitationId", self.approval);
            params.text("url", self.url).text("message", self.message)
        });
        let object = Object::begin(out).text("jsonrpc", "2.0").text("id", request_id);
        object.text("method", "elicitation/create").nested("params", params).end();
    }

    /// 2025-11-25: tells that the person decided.
    pub fn complete(&self, out: &mut Vec<u8>) {
        notify(out, "notifications/elicitation/complete", |params| params.text("elicitationId", self.approval));
    }

    /// 2025-11-25: the error form. Every client tried raises it to the application; kept for completeness.
    pub fn required_error(&self, out: &mut Vec<u8>, id: &IdBuf) {
        let one = |out: &mut Vec<u8>| {
            out.push(b'[');
            let object = Object::begin(out).text("mode", "url").text("elicitationId", self.approval);
            object.text("url", self.url).text("message", self.message).end();
            out.push(b']');
        };
        let error = members(|error| {
            let error = error.number("code", code::URL_ELICITATION_REQUIRED.into()).text("message", self.message);
            error.nested("data", |data| data.with("elicitations", one))
        });
        Object::begin(out).text("jsonrpc", "2.0").raw("id", id.as_str()).nested("error", error).end();
    }
}

/// What a person's client answered to an elicitation. Accepting a page to open is not an approval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElicitationAnswer {
    Accept,
    Decline,
    Cancel,
}

impl ElicitationAnswer {
    /// Reads `{"action":...}`: an element of `inputResponses`, or the result of a legacy answer.
    pub fn read(raw: crate::Raw<'_>) -> Option<Self> {
        match raw.member("action")?.string()?.as_ref() {
            "accept" => Some(Self::Accept),
            "decline" => Some(Self::Decline),
            "cancel" => Some(Self::Cancel),
            _ => None,
        }
    }

    /// The answer of a legacy client; an error counts as a cancel.
    pub fn of_response(response: &Response<'_>) -> Option<Self> {
        response.outcome.map_or(Some(Self::Cancel), Self::read)
    }
}
