//! Messages to and from an upstream: written from proved parts, and read back only if they are what the protocol allows.

use std::borrow::Cow;

use bailiwick_wire::json::{Limits, write_string};
use bailiwick_wire::mcp::{
    HeaderParam, Id, META_CLIENT_CAPABILITIES, META_CLIENT_INFO, META_LOG_LEVEL, META_PROTOCOL_VERSION, Message, Method, Version,
};
use bailiwick_wire::{Raw, RawBuf};

use super::UpstreamError;
use super::config::Relay;

/// Who we are to an upstream.
pub(super) const CLIENT_INFO: &str = concat!(r#"{"name":"bailiwick","version":""#, env!("CARGO_PKG_VERSION"), r#""}"#);

/// What the spec reserves: members of `_meta` that only we write.
const RESERVED: &str = "io.modelcontextprotocol/";

/// `_meta` of one request, in the words of its era.
#[derive(Debug, Clone, Copy)]
pub(super) enum MetaEra<'a> {
    /// With the capabilities that are shown to the upstream, as a JSON object.
    Modern {
        capabilities: &'a str,
    },
    Legacy,
}

/// One request, with the parts that the caller proved.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outgoing<'a> {
    pub(super) id: u64,
    pub(super) method: &'a str,
    /// An object without `_meta`.
    pub(super) params: Raw<'a>,
    pub(super) era: MetaEra<'a>,
    /// Whether to ask for progress; the token is our id.
    pub(super) progress: bool,
    /// Members of `_meta` to pass on.
    pub(super) extra: Option<Raw<'a>>,
}

impl Outgoing<'_> {
    /// The request as one JSON object. The bytes of `params` stay as they are; `_meta` is written behind them.
    pub(super) fn write(&self) -> Vec<u8> {
        let params = self.params.text();
        let mut out = Vec::with_capacity(params.len() + 512);
        out.extend_from_slice(br#"{"jsonrpc":"2.0","id":"#);
        out.extend_from_slice(self.id.to_string().as_bytes());
        out.extend_from_slice(br#","method":"#);
        write_string(&mut out, self.method);
        out.extend_from_slice(br#","params":"#);
        let start = out.len();
        out.extend_from_slice(params.strip_suffix('}').unwrap_or("{").as_bytes());
        let opened = out.len();
        if self.params.members().next().is_some() {
            out.push(b',');
        }
        out.extend_from_slice(br#""_meta":{"#);
        let empty = out.len();
        self.write_meta(&mut out);
        if out.len() == empty {
            // Nothing to say: the object as the caller wrote it.
            out.truncate(opened);
        } else {
            out.push(b'}');
        }
        debug_assert!(out.get(start) == Some(&b'{'), "params must be an object");
        out.extend_from_slice(b"}}");
        out
    }

    fn write_meta(&self, out: &mut Vec<u8>) {
        let mut members = Members { out, first: true };
        if let MetaEra::Modern { capabilities } = self.era {
            members.add(META_PROTOCOL_VERSION, format!("\"{}\"", Version::MODERN.as_str()).as_bytes());
            members.add(META_CLIENT_CAPABILITIES, capabilities.as_bytes());
            members.add(META_CLIENT_INFO, CLIENT_INFO.as_bytes());
        }
        if self.progress {
            members.add("progressToken", self.id.to_string().as_bytes());
        }
        for (key, value) in self.extra.iter().flat_map(|extra| extra.members()) {
            let log_level = matches!(self.era, MetaEra::Modern { .. }) && key == META_LOG_LEVEL;
            if log_level || !(key.starts_with(RESERVED) || key == "progressToken") {
                members.add(&key, value.bytes());
            }
        }
    }
}

struct Members<'o> {
    out: &'o mut Vec<u8>,
    first: bool,
}

impl Members<'_> {
    fn add(&mut self, key: &str, value: &[u8]) {
        if !std::mem::take(&mut self.first) {
            self.out.push(b',');
        }
        write_string(self.out, key);
        self.out.push(b':');
        self.out.extend_from_slice(value);
    }
}

/// A notification to an upstream; `params` is a JSON object of our own making or a proved one.
pub(super) fn notification(method: &str, params: &str) -> Vec<u8> {
    let mut out = br#"{"jsonrpc":"2.0","method":"#.to_vec();
    write_string(&mut out, method);
    out.extend_from_slice(br#","params":"#);
    out.extend_from_slice(params.as_bytes());
    out.push(b'}');
    out
}

/// `notifications/cancelled` for a request of ours.
pub(super) fn cancelled(id: u64) -> Vec<u8> {
    let mut out = Vec::new();
    bailiwick_wire::mcp::frame::write_cancelled(&mut out, id);
    out
}

/// Our answer to a request of a legacy server: its id as it wrote it, and an object of `result` or `error`.
pub(super) fn answer(id: &str, outcome: Result<&str, &str>) -> Vec<u8> {
    let (member, value) = match outcome {
        Ok(result) => ("result", result),
        Err(error) => ("error", error),
    };
    format!(r#"{{"jsonrpc":"2.0","id":{id},"{member}":{value}}}"#).into_bytes()
}

/// What a legacy server is told when it asks for something that is not relayed.
pub(super) const NOT_RELAYED: &str = r#"{"code":-32601,"message":"Method not found"}"#;
/// What a legacy server is told when the client gave no answer.
pub(super) const NO_ANSWER: &str = r#"{"code":-32603,"message":"the client gave no answer"}"#;

/// What goes back to a legacy server once its client has spoken, or has not.
pub(super) fn client_answer(id: &str, outcome: Option<super::ClientAnswer>) -> Vec<u8> {
    match outcome {
        Some(Ok(result)) if result.raw().is_object() => answer(id, Ok(result.raw().text())),
        Some(Err(error)) if error.raw().is_object() => answer(id, Err(error.raw().text())),
        Some(_) | None => answer(id, Err(NO_ANSWER)),
    }
}

/// The members of a capabilities object that may be shown to an upstream, as a JSON object.
pub(super) fn shown_capabilities(declared: Raw<'_>, relay: Relay) -> Cow<'static, str> {
    let mut out = vec![b'{'];
    let mut members = Members { out: &mut out, first: true };
    for (key, value) in declared.members().filter(|(key, value)| relay.declares(key) && value.is_object()) {
        members.add(&key, value.bytes());
    }
    if members.first {
        return Cow::Borrowed("{}");
    }
    out.push(b'}');
    String::from_utf8(out).map_or(Cow::Borrowed("{}"), Cow::Owned)
}

/// The capabilities that a process shared by all clients is told of.
pub(super) fn relay_capabilities(relay: Relay) -> String {
    let each = [(relay.elicitation, r#""elicitation":{"form":{},"url":{}}"#), (relay.sampling, r#""sampling":{}"#), (relay.roots, r#""roots":{}"#)];
    let shown: Vec<&str> = each.iter().filter(|(allowed, _)| *allowed).map(|(_, text)| *text).collect();
    format!("{{{}}}", shown.join(","))
}

/// Parameters of the handshake, without `_meta`.
pub(super) fn initialize_params(version: Version, capabilities: &str) -> String {
    format!(r#"{{"protocolVersion":"{}","capabilities":{capabilities},"clientInfo":{CLIENT_INFO}}}"#, version.as_str())
}

/// What headers mirror of a request's parameters.
#[derive(Debug, Default)]
pub(super) struct Mirrored<'a> {
    name: Option<Cow<'a, str>>,
    uri: Option<Cow<'a, str>>,
    task_id: Option<Cow<'a, str>>,
    arguments: Option<Raw<'a>>,
}

impl<'a> Mirrored<'a> {
    /// Reads them.
    ///
    /// # Errors
    /// `params` is no object or already has a `_meta`: then two would go out.
    pub(super) fn read(params: Raw<'a>) -> Result<Self, UpstreamError> {
        let refuse = |words| Err(UpstreamError::unavailable(words));
        if !params.is_object() {
            return refuse("the parameters are no object");
        }
        let mut mirrored = Self::default();
        for (key, value) in params.members() {
            match &*key {
                "_meta" => return refuse("the parameters bring their own metadata"),
                "name" => mirrored.name = value.string(),
                "uri" => mirrored.uri = value.string(),
                "taskId" => mirrored.task_id = value.string(),
                "arguments" => mirrored.arguments = value.is_object().then_some(value),
                _ => {}
            }
        }
        Ok(mirrored)
    }

    /// Headers of a modern request over HTTP.
    pub(super) fn headers(&self, method: Method, annotated: &[HeaderParam]) -> Vec<(Cow<'static, str>, String)> {
        let target = match method {
            Method::ToolsCall | Method::PromptsGet => self.name.as_deref(),
            Method::ResourcesRead => self.uri.as_deref(),
            Method::TasksGet | Method::TasksUpdate | Method::TasksCancel => self.task_id.as_deref(),
            _ => None,
        };
        bailiwick_wire::mcp::headers::derive(method, target, self.arguments, annotated)
    }
}

/// A message of an upstream, checked as far as one message can be.
#[derive(Debug)]
pub(super) enum Incoming<'a> {
    Response {
        /// `None`: the upstream could not tell which request it answers.
        id: Option<Id<'a>>,
        outcome: Outcome<'a>,
    },
    Request {
        id: Id<'a>,
        method: Cow<'a, str>,
        params: Raw<'a>,
    },
    Notification {
        method: Cow<'a, str>,
        params: Raw<'a>,
    },
}

/// What a response says.
#[derive(Debug)]
pub(super) enum Outcome<'a> {
    Result(Raw<'a>),
    Error { code: i64, message: Cow<'a, str>, data: Option<Raw<'a>> },
}

/// A message that no upstream may send. The words name no byte of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

/// Parses one message: `jsonrpc` is "2.0", one of result and error, each an object, only canonical member names.
pub(super) fn read(bytes: &[u8], frame_bytes_max: usize) -> Result<Incoming<'_>, Malformed> {
    let limits = Limits { bytes: frame_bytes_max, string: frame_bytes_max, ..Limits::REPLY };
    let raw = Raw::parse(bytes, &limits).map_err(|_| Malformed("it is not the JSON that we take"))?;
    if let Some(unattributed) = unattributed_error(raw) {
        return unattributed;
    }
    match Message::from_raw(raw).map_err(|_| Malformed("it is not one JSON-RPC message"))? {
        Message::Response(response) => {
            let outcome = match response.outcome {
                Ok(result) => Outcome::Result(result),
                Err(error) => read_error(error)?,
            };
            Ok(Incoming::Response { id: Some(response.id), outcome })
        }
        Message::Request(request) => Ok(Incoming::Request { id: request.id, method: request.method, params: request.params.raw() }),
        Message::Notification(notification) => Ok(Incoming::Notification { method: notification.method, params: notification.params.raw() }),
    }
}

/// An error with `"id":null` or without id: JSON-RPC 2.0 section 5 has it for requests that could not be read.
fn unattributed_error(raw: Raw<'_>) -> Option<Result<Incoming<'_>, Malformed>> {
    let (mut error, mut version) = (None, None);
    for (key, value) in raw.members() {
        match &*key {
            "id" if value.is_null() => {}
            "error" => error = Some(value),
            "jsonrpc" => version = value.string(),
            _ => return None,
        }
    }
    let error = error.filter(|error| error.is_object() && version.as_deref() == Some("2.0"))?;
    Some(read_error(error).map(|outcome| Incoming::Response { id: None, outcome }))
}

fn read_error(error: Raw<'_>) -> Result<Outcome<'_>, Malformed> {
    let read = bailiwick_wire::mcp::frame::UpstreamError::read(error);
    let read = read.map_err(|_| Malformed("its error has no code and message"))?;
    Ok(Outcome::Error { code: read.code, message: read.message, data: read.data })
}

/// Whether a response's id is the number that we gave.
pub(super) fn is_ours(id: Id<'_>, ours: u64) -> bool {
    number(id) == Some(ours)
}

/// The id as one of our numbers. A string of digits is not one.
pub(super) fn number(id: Id<'_>) -> Option<u64> {
    id.raw().integer().and_then(|number| u64::try_from(number).ok())
}

/// The progress token of `notifications/progress`, as one of our numbers.
pub(super) fn progress_token(params: Raw<'_>) -> Option<u64> {
    params.member("progressToken").and_then(Raw::integer).and_then(|number| u64::try_from(number).ok())
}

/// `params` with the value of `progressToken` replaced by the client's own token, all other bytes as they were.
pub(super) fn with_token(params: Raw<'_>, token: &str, limits: usize) -> Option<RawBuf> {
    let text = params.text();
    let value = params.member("progressToken")?.text();
    // `value` is a part of `text`: its place is the distance of the two.
    let start = (value.as_ptr() as usize).checked_sub(text.as_ptr() as usize)?;
    let (before, after) = (text.get(..start)?, text.get(start.checked_add(value.len())?..)?);
    owned(&format!("{before}{token}{after}"), limits)
}

/// JSON text of our own making as a proved value.
pub(super) fn owned(text: &str, bytes_max: usize) -> Option<RawBuf> {
    let limit = bytes_max.saturating_add(1024);
    let limits = Limits { bytes: limit, string: limit, ..Limits::REPLY };
    Raw::parse(text.as_bytes(), &limits).ok().map(Raw::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Raw<'_> {
        Raw::parse(text.as_bytes(), &Limits::REPLY).unwrap()
    }

    fn outgoing<'a>(params: Raw<'a>, era: MetaEra<'a>) -> Outgoing<'a> {
        Outgoing { id: 7, method: "tools/call", params, era, progress: false, extra: None }
    }

    #[test]
    fn the_bytes_of_the_arguments_go_out_as_they_came() {
        let params = raw("{ \"name\":\"a\", \"arguments\" : {\"n\":12345678901234567890123,\"f\":2.50 ,\"u\":\"\\u0061\"} }");
        let frame = outgoing(params, MetaEra::Modern { capabilities: "{}" }).write();
        let text = std::str::from_utf8(&frame).unwrap();
        assert!(text.contains("\"arguments\" : {\"n\":12345678901234567890123,\"f\":2.50 ,\"u\":\"\\u0061\"} ,\"_meta\":{"), "{text}");
        assert!(matches!(read(&frame, 1 << 20).unwrap(), Incoming::Request { .. }));
    }

    #[test]
    fn a_legacy_request_without_metadata_has_none() {
        let frame = outgoing(raw("{}"), MetaEra::Legacy).write();
        assert_eq!(frame, br#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{}}"#);
    }

    #[test]
    fn reserved_metadata_of_the_caller_is_dropped_and_the_rest_passed_on() {
        let extra = raw(
            r#"{"io.modelcontextprotocol/clientCapabilities":{"roots":{}},"progressToken":"x","traceparent":"00-a","io.modelcontextprotocol/logLevel":"info"}"#,
        );
        let request = Outgoing { extra: Some(extra), progress: true, ..outgoing(raw("{}"), MetaEra::Legacy) };
        let legacy = String::from_utf8(request.write()).unwrap();
        assert!(legacy.ends_with(r#""params":{"_meta":{"progressToken":7,"traceparent":"00-a"}}}"#), "{legacy}");
        let request = Outgoing { era: MetaEra::Modern { capabilities: "{}" }, ..request };
        let modern = String::from_utf8(request.write()).unwrap();
        assert!(modern.contains(r#""io.modelcontextprotocol/logLevel":"info""#), "{modern}");
        assert!(!modern.contains("roots"), "{modern}");
    }

    #[test]
    fn only_what_may_be_relayed_is_declared() {
        let declared = raw(r#"{"roots":{},"sampling":{},"elicitation":{"url":{}},"experimental":{}}"#);
        assert_eq!(shown_capabilities(declared, Relay::default()), "{}");
        let relay = Relay { elicitation: true, ..Relay::default() };
        assert_eq!(shown_capabilities(declared, relay), r#"{"elicitation":{"url":{}}}"#);
    }

    #[test]
    fn frames_that_break_the_protocol_are_refused() {
        for bad in [
            r#"{"id":1,"result":{}}"#,
            r#"{"jsonrpc":"1.0","id":1,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":"m"}}"#,
            r#"{"jsonrpc":"2.0","id":1}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":[]}"#,
            r#"{"jsonrpc":"2.0","id":1,"error":{"message":"m"}}"#,
            r#"{"jsonrpc":"2.0","id":null,"result":{}}"#,
            r#"[{"jsonrpc":"2.0","id":1,"result":{}}]"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{}} {"jsonrpc":"2.0","id":1,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"id":2,"result":{}}"#,
        ] {
            assert!(read(bad.as_bytes(), 1 << 20).is_err(), "{bad}");
        }
        assert!(read(br#"{"jsonrpc":"2.0","id":1,"result":{"a":"0123456789"}}"#, 20).is_err());
    }

    #[test]
    fn an_error_without_id_is_unattributed() {
        for text in
            [r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"m"}}"#, r#"{"jsonrpc":"2.0","error":{"code":-32700,"message":"m"}}"#]
        {
            let read = read(text.as_bytes(), 1 << 20).unwrap();
            assert!(matches!(read, Incoming::Response { id: None, outcome: Outcome::Error { code: -32700, .. } }));
        }
    }

    #[test]
    fn a_string_of_digits_is_not_our_id() {
        let text = r#"{"jsonrpc":"2.0","id":"7","result":{}}"#;
        let Incoming::Response { id: Some(id), .. } = read(text.as_bytes(), 1 << 20).unwrap() else { panic!() };
        assert!(!is_ours(id, 7));
    }

    #[test]
    fn a_progress_token_comes_back_with_its_own_type_and_nothing_else_changes() {
        let params = raw(r#"{"progress": 5.0,"progressToken" : 7, "message":"progressToken"}"#);
        let back = with_token(params, r#""p1""#, 1 << 20).unwrap();
        assert_eq!(back.raw().text(), r#"{"progress": 5.0,"progressToken" : "p1", "message":"progressToken"}"#);
    }
}
