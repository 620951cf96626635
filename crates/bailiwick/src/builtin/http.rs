//! HTTP APIs: the operations of an OpenAPI document are tools, and a call becomes a request with a key that the model never sees.

mod settings;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bailiwick_core::{CallId, Effect};
use bailiwick_credentials::lease::{Account, Tag};
use bailiwick_credentials::sessions::SessionError;
use bailiwick_credentials::sessions::http::{self, Api, Body, Request};
use bailiwick_wire::openapi::{Method, Operation};
use bailiwick_wire::{Limits, Raw};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use super::{Answer, Builtin, Refusal, Rights, Session, UseError};

pub(crate) use settings::{File, Settings};

/// An operation, and what a call of it does.
#[derive(Debug)]
struct Tool {
    operation: Operation,
    effect: Effect,
}

type Tools = BTreeMap<String, Tool>;

/// What a method does, as far as its definition goes (RFC 9110 section 9.2.1: `GET` and `HEAD` only look).
const fn effect_of(method: Method) -> Effect {
    match method {
        Method::Get | Method::Head => Effect::Read,
        Method::Post | Method::Put | Method::Patch => Effect::Write,
        Method::Delete => Effect::Delete,
    }
}

/// The tools of one API.
#[derive(Debug)]
struct HttpApi {
    api: Arc<Api>,
    tools: Arc<Tools>,
}

fn request(tools: &Tools, name: &str, arguments: &Value) -> Result<(Effect, Request), Refusal> {
    let tool = tools.get(name).ok_or_else(|| Refusal::new("there is no such operation"))?;
    if !super::is_exact(arguments) {
        return Err(Refusal::new("a number of the arguments is too large to be passed on as it stands: write it as text, if the API takes that"));
    }
    let text = arguments.to_string();
    let raw = Raw::parse(text.as_bytes(), &Limits::REQUEST).map_err(|error| Refusal::new(format!("the arguments cannot be read: {error}")))?;
    let built = tool.operation.request(raw).map_err(|error| Refusal::new(error.to_string()))?;
    let method = match built.method {
        Method::Get => http::Method::Get,
        Method::Head => http::Method::Head,
        Method::Post => http::Method::Post,
        Method::Put => http::Method::Put,
        Method::Patch => http::Method::Patch,
        Method::Delete => http::Method::Delete,
    };
    let request = built.headers.into_iter().fold(Request::new(method, built.target), |request, (name, value)| request.header(name, value));
    Ok((
        tool.effect,
        match built.body {
            Some(body) => request.json(body),
            None => request,
        },
    ))
}

#[async_trait::async_trait]
impl Builtin for HttpApi {
    fn tools(&self) -> Vec<Value> {
        self.tools.values().map(definition).collect()
    }

    fn effect(&self, tool: &str) -> Option<Effect> {
        self.tools.get(tool).map(|tool| tool.effect)
    }

    fn judge(&self, tool: &str, arguments: &Value) -> Result<Effect, Refusal> {
        request(&self.tools, tool, arguments).map(|(effect, _)| effect)
    }

    /// A stored key has the rights that it has: a task has one lease of it.
    fn rights(&self, _effect: Effect) -> Rights {
        Rights { class: "use", rights: Vec::new() }
    }

    async fn open(&self, account: &Account, tag: &Tag) -> Result<Arc<dyn Session>, UseError> {
        let session = self.api.open(account, tag).map_err(trouble)?;
        Ok(Arc::new(Held { session, tools: Arc::clone(&self.tools) }))
    }
}

/// A lease's session.
struct Held {
    session: http::Http,
    tools: Arc<Tools>,
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("session", &self.session).finish_non_exhaustive()
    }
}

#[async_trait::async_trait]
impl Session for Held {
    async fn call(&self, call: CallId, tool: &str, arguments: &Value, cancel: &CancellationToken) -> Result<Answer, UseError> {
        let asked = request(&self.tools, tool, arguments);
        let (_, request) = asked.map_err(|refusal| UseError { words: refusal.words, may_have_run: false, gone: false, login_refused: false })?;
        let request = request.of_call(&crate::leases::span(&call), &call.to_string());
        let cancelled = |may_have_run| UseError { words: "the call was cancelled".to_owned(), may_have_run, gone: false, login_refused: false };
        if cancel.is_cancelled() {
            return Err(cancelled(false));
        }
        // A request that is dropped closes its connection; what the API began, it may end.
        let answer = tokio::select! {
            answer = self.session.send(&request) => answer.map_err(trouble)?,
            () = cancel.cancelled() => return Err(cancelled(true)),
        };
        if answer.redacted > 0 {
            metrics::counter!("bailiwick_redactions_total").increment(1);
        }
        Ok(shown(answer))
    }

    async fn close(&self) {
        self.session.close();
    }
}

fn trouble(error: SessionError) -> UseError {
    UseError { may_have_run: error.may_have_run(), gone: error.gone(), login_refused: error.is_login_refused(), words: error.to_string() }
}

fn shown(answer: http::Answer) -> Answer {
    let mut structured = Map::new();
    structured.insert("status".to_owned(), answer.status.into());
    structured.insert("headers".to_owned(), Value::Object(answer.headers.into_iter().map(|(name, value)| (name, value.into())).collect()));
    match answer.body {
        Body::None => {}
        Body::Json(value) => drop(structured.insert("body".to_owned(), value)),
        Body::Text(text) => drop(structured.insert("body".to_owned(), text.into())),
        Body::Omitted(why) => drop(structured.insert("note".to_owned(), why.into())),
    }
    if matches!(answer.status, 300..=399) {
        structured.insert("note".to_owned(), "the API redirects elsewhere; redirects are never followed".into());
    }
    Answer { structured: Value::Object(structured), is_error: !matches!(answer.status, 200..=299) }
}

fn definition(tool: &Tool) -> Value {
    let operation = &tool.operation;
    let place = format!("{} {}", operation.method(), operation.path());
    let description = operation.description().or(operation.title()).map_or_else(|| place.clone(), |words| format!("{}\n\n{place}", words.trim_end()));
    let input: Value = serde_json::from_str(operation.input_schema().text()).unwrap_or_else(|_| json!({ "type": "object", "not": {} }));
    json!({
        "name": operation.name(),
        "title": operation.title().unwrap_or(&place),
        "description": description,
        "inputSchema": input,
        "outputSchema": output_schema(operation),
        "annotations": {
            "readOnlyHint": tool.effect == Effect::Read,
            "destructiveHint": tool.effect >= Effect::Delete,
            "idempotentHint": matches!(operation.method(), Method::Get | Method::Head | Method::Put | Method::Delete),
            "openWorldHint": true,
        },
    })
}

/// What a success looks like is told where the document says it shortly; an error may look otherwise, so that the schema asks for nothing.
fn output_schema(operation: &Operation) -> Value {
    let told = operation.answer_schema().and_then(|schema| serde_json::from_str::<Value>(schema.text()).ok());
    let (body, definitions) = match told {
        Some(Value::Object(mut schema)) => {
            let definitions = schema.remove("$defs");
            (json!({ "description": "of a success; an error's may differ", "anyOf": [schema, {}] }), definitions)
        }
        _ => (json!({ "description": "JSON, or text" }), None),
    };
    let mut schema = json!({
        "type": "object",
        "properties": {
            "status": { "type": "integer", "description": "the HTTP status" },
            "headers": { "type": "object", "additionalProperties": { "type": "string" } },
            "body": body,
            "note": { "type": "string", "description": "why there is no body" },
        },
        "required": ["status", "headers"],
    });
    if let (Some(definitions), Some(members)) = (definitions, schema.as_object_mut()) {
        members.insert("$defs".to_owned(), definitions);
    }
    schema
}

#[cfg(test)]
mod tests;
