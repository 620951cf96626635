//! Upstreams: what we send them, and a check of every frame that comes back.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::envelope::{Id, IdBuf, Message, Notification, Response};
use super::era::Meta;
use super::{META_CLIENT_CAPABILITIES, META_CLIENT_INFO, META_PROTOCOL_VERSION, Method, Version};
use crate::json::{Kind, Limits, Object, Raw, members};

/// One frame of an upstream.
#[derive(Debug, Clone)]
pub enum Frame<'a> {
    Response(Response<'a>),
    Notification(Notification<'a>),
    /// The upstream asks for something: refused by default.
    ServerRequest {
        id: Id<'a>,
        method: Cow<'a, str>,
    },
}

/// Why a frame is not passed on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    #[error("upstream sent a malformed frame: {reason}")]
    Malformed { reason: Cow<'static, str> },
    #[error("upstream answered a request that is not open")]
    Correlation,
    #[error("upstream's error has no code and message")]
    BadError,
}

impl<'a> Frame<'a> {
    /// Checks one frame: JSON within `limits`, JSON-RPC 2.0, a response with exactly one of result and error.
    ///
    /// # Errors
    /// [`FrameError::Malformed`]; nothing of such a frame may reach a client.
    pub fn parse(bytes: &'a [u8], limits: &Limits) -> Result<Self, FrameError> {
        let message = Message::parse(bytes, limits).map_err(|refusal| FrameError::Malformed { reason: refusal.message })?;
        Ok(match message {
            Message::Response(response) => Self::Response(response),
            Message::Notification(notification) => Self::Notification(notification),
            Message::Request(request) => Self::ServerRequest { id: request.id, method: request.method },
        })
    }
}

/// The `error` of an upstream's response, read.
#[derive(Debug, Clone)]
pub struct UpstreamError<'a> {
    pub code: i64,
    /// The upstream's words: untrusted text.
    pub message: Cow<'a, str>,
    pub data: Option<Raw<'a>>,
}

impl<'a> UpstreamError<'a> {
    /// Reads an `error` object.
    ///
    /// # Errors
    /// [`FrameError::BadError`] without an integer code and a string message.
    pub fn read(raw: Raw<'a>) -> Result<Self, FrameError> {
        let code = raw.member("code").and_then(Raw::integer);
        let message = raw.member("message").and_then(Raw::string);
        let (Some(code), Some(message)) = (code, message) else {
            return Err(FrameError::BadError);
        };
        Ok(Self { code, message, data: raw.member("data") })
    }
}

/// What kind of result an upstream gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResultKind {
    /// `complete`, or none said (legacy).
    Complete,
    /// It wants something from the client: passed on only where an operator allowed it.
    InputRequired,
    /// A handle of the tasks extension.
    Task,
    /// Something that we do not know.
    Unknown,
}

impl ResultKind {
    pub fn of(result: Raw<'_>) -> Self {
        let Some(kind) = result.member("resultType") else {
            return Self::Complete;
        };
        match kind.string().as_deref() {
            Some("complete") => Self::Complete,
            Some("input_required") => Self::InputRequired,
            Some("task") => Self::Task,
            _ => Self::Unknown,
        }
    }
}

/// Which era the upstream speaks.
#[derive(Debug, Clone, Copy)]
pub enum Upstream<'a> {
    /// 2026-07-28; `capabilities` is what we are willing to relay, by default `{}`, `client` our own info: JSON objects.
    Modern {
        capabilities: Raw<'a>,
        client: Raw<'a>,
    },
    Legacy,
}

/// A request of ours to an upstream, rebuilt from its parts. Nothing of the client's envelope gets through but these.
#[derive(Debug, Clone)]
pub struct UpstreamRequest<'a> {
    /// Our own id; it is the progress token too.
    pub id: u64,
    pub method: Method,
    /// `name`, `uri` or `taskId`, whichever the method has, as the upstream knows it.
    pub target: Option<&'a str>,
    /// As they were decided: these bytes.
    pub arguments: Option<Raw<'a>>,
    pub cursor: Option<&'a str>,
    /// The upstream's own state, unwrapped from ours.
    pub request_state: Option<&'a str>,
    pub input_responses: Option<Raw<'a>>,
    /// Whether the client wants progress.
    pub progress: bool,
    /// The client's metadata: only the trace context is taken from it.
    pub meta: &'a Meta<'a>,
}

impl UpstreamRequest<'_> {
    /// Appends the request as one line of JSON without a line end.
    pub fn write(&self, out: &mut Vec<u8>, upstream: Upstream<'_>) {
        let object = Object::begin(out).text("jsonrpc", "2.0").count("id", self.id).text("method", self.method.as_str());
        object.nested("params", |params| self.params(params, upstream)).end();
    }

    fn params<'o>(&self, mut params: Object<'o>, upstream: Upstream<'_>) -> Object<'o> {
        if let Some(target) = self.target {
            params = match self.method {
                Method::ResourcesRead | Method::ResourcesSubscribe | Method::ResourcesUnsubscribe => params.text("uri", target),
                Method::TasksGet | Method::TasksUpdate | Method::TasksCancel | Method::TasksResult => params.text("taskId", target),
                _ => params.text("name", target),
            };
        }
        let arguments = self.arguments.map(one_line);
        let responses = self.input_responses.map(one_line);
        let params = params
            .raw_if("arguments", arguments.as_deref())
            .text_if("cursor", self.cursor)
            .raw_if("inputResponses", responses.as_deref())
            .text_if("requestState", self.request_state);
        let mut meta = Vec::new();
        self.write_meta(&mut meta, upstream);
        params.raw_if("_meta", std::str::from_utf8(&meta).ok().filter(|text| *text != "{}"))
    }

    fn write_meta(&self, out: &mut Vec<u8>, upstream: Upstream<'_>) {
        let mut object = Object::begin(out);
        if let Upstream::Modern { capabilities, client } = upstream {
            object = object
                .text(META_PROTOCOL_VERSION, Version::MODERN.as_str())
                .raw(META_CLIENT_CAPABILITIES, capabilities.text())
                .raw(META_CLIENT_INFO, client.text());
        }
        if self.progress {
            object = object.count("progressToken", self.id);
        }
        object
            .raw_if("traceparent", self.meta.traceparent.map(Raw::text))
            .raw_if("tracestate", self.meta.tracestate.map(Raw::text))
            .raw_if("baggage", self.meta.baggage.map(Raw::text))
            .end();
    }
}

/// The same bytes, but line ends between tokens become spaces: stdio frames end at a line end. In strings there are none.
fn one_line(raw: Raw<'_>) -> Cow<'_, str> {
    if raw.text().contains(['\n', '\r']) { Cow::Owned(raw.text().replace(['\n', '\r'], " ")) } else { Cow::Borrowed(raw.text()) }
}

/// The notification that an upstream shall stop working on our request.
pub fn write_cancelled(out: &mut Vec<u8>, id: u64) {
    let object = Object::begin(out).text("jsonrpc", "2.0").text("method", "notifications/cancelled");
    object.nested("params", |params| params.count("requestId", id)).end();
}

/// The answer to a request of an upstream that we do not serve.
pub fn write_server_request_refused(out: &mut Vec<u8>, id: Id<'_>) {
    super::reply::error(out, Some(&id.to_owned()), super::code::METHOD_NOT_FOUND, "method not found", None);
}

/// Requests that are open on one upstream connection: our ids for the clients' ids and progress tokens. Two clients may
/// choose the same; they get their own back, of the type they chose.
#[derive(Debug, Default)]
pub struct InFlight {
    last: u64,
    open: BTreeMap<u64, Opened>,
}

/// The client's side of one open request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    pub id: IdBuf,
    pub progress_token: Option<IdBuf>,
}

impl InFlight {
    /// Opens a request and gives it an id that this connection never had.
    pub fn open(&mut self, id: Id<'_>, progress_token: Option<Id<'_>>) -> u64 {
        self.last += 1;
        let opened = Opened { id: id.to_owned(), progress_token: progress_token.map(Id::to_owned) };
        self.open.insert(self.last, opened);
        self.last
    }

    /// Closes the request that a response answers: once.
    ///
    /// # Errors
    /// [`FrameError::Correlation`] if no such request is open: drop the frame and raise an alert.
    pub fn close(&mut self, id: Id<'_>) -> Result<(u64, Opened), FrameError> {
        let ours = ours(id.raw()).ok_or(FrameError::Correlation)?;
        self.open.remove(&ours).map(|opened| (ours, opened)).ok_or(FrameError::Correlation)
    }

    /// Forgets a request that was given up.
    pub fn abandon(&mut self, id: u64) -> Option<Opened> {
        self.open.remove(&id)
    }

    /// The open request that a progress notification is for.
    pub fn of_progress(&self, notification: &Notification<'_>) -> Option<(u64, &Opened)> {
        let ours = ours(notification.params.get("progressToken")?)?;
        self.open.get(&ours).map(|opened| (ours, opened))
    }

    /// How many requests are open.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

/// An id of ours comes back as the integer that it was, spelled as we spelled it.
fn ours(raw: Raw<'_>) -> Option<u64> {
    let id: u64 = if raw.kind() == Kind::Number {
        raw.text().parse().ok()?
    } else {
        return None;
    };
    (id.to_string() == raw.text()).then_some(id)
}

/// Appends an upstream's progress notification for the client: its own token, the rest as it was written.
pub fn write_progress(out: &mut Vec<u8>, notification: &Notification<'_>, token: &IdBuf) {
    let object = Object::begin(out).text("jsonrpc", "2.0").text("method", "notifications/progress");
    let params = members(|mut params| {
        params = params.raw("progressToken", token.as_str());
        for name in ["progress", "total", "message"] {
            params = params.raw_if(name, notification.params.get(name).map(Raw::text));
        }
        params
    });
    object.nested("params", params).end();
}

#[cfg(test)]
mod tests;
