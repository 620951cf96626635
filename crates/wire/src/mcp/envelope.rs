//! One JSON-RPC message from a body, parsed strictly: only the canonical member names, no batch, borrowed throughout.

use std::borrow::Cow;

use super::{Refusal, code};
use crate::json::{JsonError, Kind, Limits, Raw};

/// Longest id or progress token as written, in bytes.
pub const MAX_ID_BYTES: usize = 256;
/// Longest method name in bytes.
pub const MAX_METHOD_BYTES: usize = 128;

/// A JSON-RPC id: a string or an integer, kept as it was written.
#[derive(Debug, Clone, Copy)]
pub struct Id<'a> {
    raw: Raw<'a>,
}

impl<'a> Id<'a> {
    /// Takes a string of at most [`MAX_ID_BYTES`] or an integer literal. `None` for anything else.
    pub fn parse(raw: Raw<'a>) -> Option<Self> {
        let fits = raw.text().len() <= MAX_ID_BYTES + 2;
        let taken = match raw.kind() {
            Kind::String => true,
            Kind::Number => raw.number().is_some_and(|number| number.is_integer_literal()),
            Kind::Null | Kind::Boolean | Kind::Array | Kind::Object => false,
        };
        (fits && taken).then_some(Self { raw })
    }

    /// The id as it was written: what to echo.
    pub fn raw(self) -> Raw<'a> {
        self.raw
    }

    pub fn to_owned(self) -> IdBuf {
        IdBuf { text: self.raw.text().into() }
    }
}

impl PartialEq for Id<'_> {
    /// By value and type: `"1"` and `1` differ, `"a"` and `"\u0061"` do not.
    fn eq(&self, other: &Self) -> bool {
        self.raw == other.raw
            || match (self.raw.string(), other.raw.string()) {
                (Some(one), Some(two)) => one == two,
                _ => false,
            }
    }
}

/// An [`Id`] that owns its text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdBuf {
    text: Box<str>,
}

impl IdBuf {
    /// The id as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// One message of a client.
#[derive(Debug, Clone)]
pub enum Message<'a> {
    Request(Request<'a>),
    Notification(Notification<'a>),
    /// A legacy client's answer to a request of ours.
    Response(Response<'a>),
}

impl<'a> Message<'a> {
    /// Parses one message.
    ///
    /// # Errors
    /// A [`Refusal`] with the HTTP status and code of a body that is not one message. It echoes the id where there is one.
    pub fn parse(body: &'a [u8], limits: &Limits) -> Result<Self, Refusal> {
        let raw = Raw::parse(body, limits).map_err(refuse_json)?;
        Self::from_raw(raw)
    }

    /// As [`Message::parse`], for JSON that was already scanned.
    ///
    /// # Errors
    /// See [`Message::parse`].
    pub fn from_raw(raw: Raw<'a>) -> Result<Self, Refusal> {
        match raw.kind() {
            Kind::Object => {}
            Kind::Array => return Err(invalid("batches are not accepted: send one message")),
            _ => return Err(invalid("the body is not a JSON-RPC message")),
        }
        let members = TopLevel::read(raw)?;
        let id = match members.id {
            Some(raw) => Some(Id::parse(raw).ok_or_else(|| invalid("`id` must be an integer or a short string"))?),
            None => None,
        };
        members.into_message(id).map_err(|refusal| refusal.with_id(id))
    }

    /// The id of a request or response.
    pub fn id(&self) -> Option<Id<'a>> {
        match self {
            Self::Request(request) => Some(request.id),
            Self::Response(response) => Some(response.id),
            Self::Notification(_) => None,
        }
    }
}

/// A request: it has an id and wants an answer.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    pub id: Id<'a>,
    pub method: Cow<'a, str>,
    pub params: Params<'a>,
}

/// A notification: nobody answers it.
#[derive(Debug, Clone)]
pub struct Notification<'a> {
    pub method: Cow<'a, str>,
    pub params: Params<'a>,
}

/// A response: exactly one of result and error.
#[derive(Debug, Clone, PartialEq)]
pub struct Response<'a> {
    pub id: Id<'a>,
    /// The `result` object, or the `error` object.
    pub outcome: Result<Raw<'a>, Raw<'a>>,
}

/// `params` with the members that we know, typed. A `null` counts as absent.
#[derive(Debug, Clone, Default)]
pub struct Params<'a> {
    object: Option<Raw<'a>>,
    pub name: Option<Cow<'a, str>>,
    /// An object.
    pub arguments: Option<Raw<'a>>,
    pub uri: Option<Cow<'a, str>>,
    /// An object.
    pub meta: Option<Raw<'a>>,
    pub task_id: Option<Cow<'a, str>>,
    /// Our own sealed state, echoed. Controlled by the caller until it is opened.
    pub request_state: Option<Cow<'a, str>>,
    /// An object.
    pub input_responses: Option<Raw<'a>>,
    pub cursor: Option<Cow<'a, str>>,
    /// An object: 2025-11-25's wish for a task.
    pub task: Option<Raw<'a>>,
}

impl<'a> Params<'a> {
    /// The whole object as it was written.
    pub fn raw(&self) -> Raw<'a> {
        self.object.unwrap_or(Raw::EMPTY_OBJECT)
    }

    /// Any member by its exact name.
    pub fn get(&self, name: &str) -> Option<Raw<'a>> {
        self.object.and_then(|object| object.member(name))
    }

    /// The arguments, `{}` if there are none.
    pub fn arguments_or_empty(&self) -> Raw<'a> {
        self.arguments.unwrap_or(Raw::EMPTY_OBJECT)
    }

    fn parse(raw: Raw<'a>) -> Result<Self, Refusal> {
        if !raw.is_object() {
            return Err(bad_params("`params` must be an object"));
        }
        let mut params = Self { object: Some(raw), ..Self::default() };
        for (key, value) in raw.members() {
            let field = match &*key {
                "name" => Field::Text(&mut params.name),
                "uri" => Field::Text(&mut params.uri),
                "taskId" => Field::Text(&mut params.task_id),
                "requestState" => Field::Text(&mut params.request_state),
                "cursor" => Field::Text(&mut params.cursor),
                "arguments" => Field::Object(&mut params.arguments),
                "_meta" => Field::Object(&mut params.meta),
                "inputResponses" => Field::Object(&mut params.input_responses),
                "task" => Field::Object(&mut params.task),
                other => {
                    if PARAM_NAMES.iter().any(|known| other != *known && folds_to(other, known)) {
                        return Err(bad_params("a member of `params` is a known name in other letter case"));
                    }
                    continue;
                }
            };
            field.set(value)?;
        }
        Ok(params)
    }
}

enum Field<'p, 'a> {
    Text(&'p mut Option<Cow<'a, str>>),
    Object(&'p mut Option<Raw<'a>>),
}

impl<'a> Field<'_, 'a> {
    fn set(self, value: Raw<'a>) -> Result<(), Refusal> {
        if value.is_null() {
            return Ok(());
        }
        match self {
            Self::Text(slot) => {
                let text = value.string().ok_or_else(|| bad_params("`name`, `uri`, `taskId`, `requestState` and `cursor` must be strings"))?;
                *slot = Some(text);
            }
            Self::Object(slot) => {
                if !value.is_object() {
                    return Err(bad_params("`arguments`, `_meta`, `inputResponses` and `task` must be objects"));
                }
                *slot = Some(value);
            }
        }
        Ok(())
    }
}

/// Names in `params` that some upstream's parser may match without regard to case.
const PARAM_NAMES: [&str; 20] = [
    "name",
    "arguments",
    "uri",
    "_meta",
    "taskId",
    "requestState",
    "inputResponses",
    "cursor",
    "task",
    "protocolVersion",
    "capabilities",
    "clientInfo",
    "level",
    "ref",
    "argument",
    "context",
    "requestId",
    "reason",
    "progressToken",
    "notifications",
];

#[derive(Default)]
struct TopLevel<'a> {
    jsonrpc: Option<Raw<'a>>,
    id: Option<Raw<'a>>,
    method: Option<Raw<'a>>,
    params: Option<Raw<'a>>,
    result: Option<Raw<'a>>,
    error: Option<Raw<'a>>,
}

impl<'a> TopLevel<'a> {
    /// Keeps the six canonical members, refuses their look-alikes, drops the rest.
    fn read(raw: Raw<'a>) -> Result<Self, Refusal> {
        let mut top = Self::default();
        for (key, value) in raw.members() {
            match &*key {
                "jsonrpc" => top.jsonrpc = Some(value),
                "id" => top.id = Some(value),
                "method" => top.method = Some(value),
                "params" => top.params = Some(value),
                "result" => top.result = Some(value),
                "error" => top.error = Some(value),
                other => {
                    let names = ["jsonrpc", "id", "method", "params", "result", "error"];
                    if names.iter().any(|known| folds_to(other, known)) {
                        return Err(invalid("a member is a JSON-RPC name in other letter case"));
                    }
                }
            }
        }
        Ok(top)
    }

    fn into_message(self, id: Option<Id<'a>>) -> Result<Message<'a>, Refusal> {
        if self.jsonrpc.and_then(Raw::string).as_deref() != Some("2.0") {
            return Err(invalid("`jsonrpc` must be \"2.0\""));
        }
        let Some(method) = self.method else {
            return self.into_response(id).map(Message::Response);
        };
        if self.result.is_some() || self.error.is_some() {
            return Err(invalid("a message with `method` has neither `result` nor `error`"));
        }
        let method = method
            .string()
            .filter(|method| !method.is_empty() && method.len() <= MAX_METHOD_BYTES)
            .ok_or_else(|| invalid("`method` must be a short string"))?;
        let params = match self.params {
            Some(raw) if !raw.is_null() => Params::parse(raw)?,
            _ => Params::default(),
        };
        Ok(match id {
            Some(id) => Message::Request(Request { id, method, params }),
            None => Message::Notification(Notification { method, params }),
        })
    }

    fn into_response(self, id: Option<Id<'a>>) -> Result<Response<'a>, Refusal> {
        let outcome = match (self.result, self.error) {
            (Some(result), None) if result.is_object() => Ok(result),
            (None, Some(error)) if error.is_object() => Err(error),
            _ => {
                return Err(invalid("a message has a `method`, or one object of `result` and `error`"));
            }
        };
        if self.params.is_some() {
            return Err(invalid("a response has no `params`"));
        }
        let id = id.ok_or_else(|| invalid("a response has an `id`"))?;
        Ok(Response { id, outcome })
    }
}

/// Whether a parser that ignores letter case (Go's does, with Unicode's simple folding) takes `key` for `known`.
/// True for `known` itself.
pub(crate) fn folds_to(key: &str, known: &str) -> bool {
    if key.is_ascii() {
        return key.eq_ignore_ascii_case(known);
    }
    // U+017F (long s) and U+212A (kelvin sign) fold to ASCII letters.
    let fold = |text: &str| text.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect::<String>();
    key.len() <= 4 * known.len() && fold(key) == fold(known)
}

fn invalid(message: &'static str) -> Refusal {
    Refusal::bad_request(code::INVALID_REQUEST, message)
}

fn bad_params(message: &'static str) -> Refusal {
    Refusal::bad_request(code::INVALID_PARAMS, message)
}

fn refuse_json(error: JsonError) -> Refusal {
    let code = if error.is_malformed() { code::PARSE_ERROR } else { code::INVALID_REQUEST };
    let status = if matches!(error, JsonError::TooLong { .. }) { 413 } else { 400 };
    Refusal { http_status: status, ..Refusal::bad_request(code, error.to_string()) }
}

#[cfg(test)]
mod tests;
