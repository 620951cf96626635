//! Which era a message belongs to, and the metadata that a modern one must carry.

use std::borrow::Cow;

use super::envelope::{Id, Message, Params, Request};
use super::headers::Headers;
use super::{EXTENSION_TASKS, META_CLIENT_CAPABILITIES, META_CLIENT_INFO, META_LOG_LEVEL, META_PROTOCOL_VERSION, Method, Refusal, Version, code};
use crate::json::{Raw, RawBuf, write_string};

/// The era of one message. Modern: a property of the request. Legacy: of the session.
#[derive(Debug, Clone)]
pub enum Era<'a> {
    Modern(Modern<'a>),
    Legacy(Legacy<'a>),
    /// A notification of a modern client: the revision has none, so it is answered with 202 and nothing is done.
    StrayNotification,
}

/// A modern request whose metadata and headers were checked; its method is one that the revision has.
#[derive(Debug, Clone)]
pub struct Modern<'a> {
    pub method: Method,
    pub capabilities: ClientCapabilities,
    pub meta: Meta<'a>,
}

/// A message of the handshake revisions.
#[derive(Debug, Clone)]
pub struct Legacy<'a> {
    /// From the header; `None` if the client sent none (then the session says it).
    pub version: Option<Version>,
    /// Whether this is the handshake itself.
    pub initialize: bool,
    /// `Mcp-Session-Id`. Never authentication.
    pub session: Option<&'a str>,
}

/// The members of `_meta` that we know. Raw members keep their spelling.
#[derive(Debug, Clone, Default)]
pub struct Meta<'a> {
    pub protocol_version: Option<Raw<'a>>,
    pub client_capabilities: Option<Raw<'a>>,
    /// What the client says it is: for display and statistics only.
    pub client_info: Option<Raw<'a>>,
    pub log_level: Option<Raw<'a>>,
    /// A string or integer, to echo by its type.
    pub progress_token: Option<Id<'a>>,
    /// W3C trace context, each a string of bounded length; anything else is dropped.
    pub traceparent: Option<Raw<'a>>,
    pub tracestate: Option<Raw<'a>>,
    pub baggage: Option<Raw<'a>>,
}

impl<'a> Meta<'a> {
    /// Reads `params._meta`, absent or an object.
    pub fn read(params: &Params<'a>) -> Self {
        let mut meta = Self::default();
        for (key, value) in params.meta.iter().flat_map(|raw| raw.members()) {
            match &*key {
                META_PROTOCOL_VERSION => meta.protocol_version = Some(value),
                META_CLIENT_CAPABILITIES => meta.client_capabilities = Some(value),
                META_CLIENT_INFO => meta.client_info = Some(value),
                META_LOG_LEVEL => meta.log_level = Some(value),
                "progressToken" => meta.progress_token = Id::parse(value),
                "traceparent" => meta.traceparent = short_string(value, 128),
                "tracestate" => meta.tracestate = short_string(value, 1024),
                "baggage" => meta.baggage = short_string(value, 8192),
                _ => {}
            }
        }
        meta
    }
}

/// What a client can do, as declared by this request (modern) or in the handshake (legacy).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClientCapabilities {
    pub elicitation_form: bool,
    pub elicitation_url: bool,
    /// Modern: the tasks extension.
    pub tasks_extension: bool,
    pub sampling: bool,
    pub roots: bool,
}

impl ClientCapabilities {
    /// May a server ask such a client anything at all?
    #[must_use]
    pub const fn answers_questions(self) -> bool {
        self.elicitation_form || self.elicitation_url || self.sampling || self.roots
    }

    /// Reads a capabilities object. What is not an object is not declared; `"elicitation":{}` means forms only.
    pub fn read(raw: Raw<'_>) -> Self {
        let mut capabilities = Self::default();
        for (key, value) in raw.members().filter(|(_, value)| value.is_object()) {
            match &*key {
                "elicitation" => {
                    let declares = |mode| value.member(mode).is_some_and(Raw::is_object);
                    capabilities.elicitation_url = declares("url");
                    capabilities.elicitation_form = declares("form") || !capabilities.elicitation_url;
                }
                "sampling" => capabilities.sampling = true,
                "roots" => capabilities.roots = true,
                "extensions" => {
                    capabilities.tasks_extension = value.member(EXTENSION_TASKS).is_some_and(Raw::is_object);
                }
                _ => {}
            }
        }
        capabilities
    }
}

/// Tells the era of a message and checks all that the era demands of its headers and metadata.
///
/// # Errors
/// The whole answer, id echoed: 400 with `-32600`, `-32602`, `-32020` or `-32022`, or 404 with `-32601`.
pub fn classify<'a>(headers: &Headers<'a>, message: &Message<'a>) -> Result<Era<'a>, Refusal> {
    let era = match message {
        Message::Request(request) => classify_request(headers, request),
        Message::Notification(_) if header_is_modern(headers) => Ok(Era::StrayNotification),
        Message::Notification(notification) if Meta::read(&notification.params).protocol_version.is_some() => Ok(Era::StrayNotification),
        Message::Response(_) if header_is_modern(headers) => {
            Err(Refusal::bad_request(code::INVALID_REQUEST, "a client of this revision sends no responses"))
        }
        Message::Notification(_) | Message::Response(_) => legacy(headers, false).map(Era::Legacy),
    };
    era.map_err(|refusal| refusal.with_id(message.id()))
}

fn classify_request<'a>(headers: &Headers<'a>, request: &Request<'a>) -> Result<Era<'a>, Refusal> {
    let meta = Meta::read(&request.params);
    if request.method == Method::Initialize.as_str() {
        if meta.protocol_version.is_some() && header_is_modern(headers) {
            return Err(Refusal::unknown_method(request.id, true));
        }
        return legacy(headers, true).map(Era::Legacy);
    }
    if meta.protocol_version.is_some() || header_is_modern(headers) {
        return modern(headers, request, meta).map(Era::Modern);
    }
    legacy(headers, false).map(Era::Legacy)
}

fn modern<'a>(headers: &Headers<'a>, request: &Request<'a>, meta: Meta<'a>) -> Result<Modern<'a>, Refusal> {
    let bad_meta = || {
        let message = format!("params._meta must carry `{META_PROTOCOL_VERSION}` and `{META_CLIENT_CAPABILITIES}`");
        Refusal::bad_request(code::INVALID_PARAMS, message)
    };
    let version = meta.protocol_version.and_then(Raw::string).ok_or_else(bad_meta)?;
    match headers.protocol_version() {
        Ok(Some(header)) if header == version => {}
        Ok(None) => return Err(mismatch("MCP-Protocol-Version header is missing")),
        _ => {
            return Err(mismatch("MCP-Protocol-Version header does not match the request's metadata"));
        }
    }
    if version != Version::MODERN.as_str() {
        return Err(unsupported(&version));
    }
    let declared = meta.client_capabilities.filter(|raw| raw.is_object()).ok_or_else(bad_meta)?;
    if meta.client_info.is_some_and(|raw| !raw.is_object()) || meta.log_level.is_some_and(|raw| raw.string().is_none()) {
        return Err(Refusal::bad_request(code::INVALID_PARAMS, "a member of params._meta has the wrong type"));
    }
    headers.check_body(&request.method, &request.params)?;
    let method = Method::parse(&request.method).filter(|method| method.is_modern());
    let method = method.ok_or_else(|| Refusal::unknown_method(request.id, true))?;
    Ok(Modern { method, capabilities: ClientCapabilities::read(declared), meta })
}

fn legacy<'a>(headers: &Headers<'a>, initialize: bool) -> Result<Legacy<'a>, Refusal> {
    let bad = |message| Refusal::bad_request(code::INVALID_REQUEST, message);
    let session = headers.session().map_err(|()| bad("Mcp-Session-Id header is not one value of visible ASCII"))?;
    let header = headers.protocol_version().map_err(|()| bad("MCP-Protocol-Version header is not one plain value"))?;
    let version = match header {
        None => None,
        Some(text) => match Version::parse(text).filter(|version| !version.is_modern()) {
            Some(version) => Some(version),
            // The handshake itself negotiates in its body.
            None if initialize => None,
            None => {
                return Err(bad("MCP-Protocol-Version header names no supported version"));
            }
        },
    };
    Ok(Legacy { version, initialize, session })
}

/// Whether the header names the modern revision or a later one.
fn header_is_modern(headers: &Headers<'_>) -> bool {
    headers.protocol_version().is_ok_and(|header| header.is_some_and(|text| is_date(text) && text >= Version::MODERN.as_str()))
}

/// Whether the text has the shape of a revision's name, so that order of text is order of time.
fn is_date(text: &str) -> bool {
    text.len() == 10 && text.bytes().enumerate().all(|(at, byte)| if at == 4 || at == 7 { byte == b'-' } else { byte.is_ascii_digit() })
}

fn short_string(raw: Raw<'_>, limit: usize) -> Option<Raw<'_>> {
    (raw.text().len() <= limit && raw.string().is_some()).then_some(raw)
}

fn mismatch(message: &'static str) -> Refusal {
    Refusal::bad_request(code::HEADER_MISMATCH, message)
}

fn unsupported(requested: &str) -> Refusal {
    let mut data = format!("{{\"supported\":[\"{}\"],\"requested\":", Version::MODERN.as_str()).into_bytes();
    write_string(&mut data, requested);
    data.push(b'}');
    Refusal {
        data: String::from_utf8(data).ok().map(RawBuf::trusted),
        ..Refusal::bad_request(code::UNSUPPORTED_VERSION, "unsupported protocol version")
    }
}

/// The handshake of a legacy client.
#[derive(Debug, Clone)]
pub struct Initialize<'a> {
    pub requested: Cow<'a, str>,
    /// The client's version if we speak it, else the latest legacy one.
    pub negotiated: Version,
    pub capabilities: ClientCapabilities,
    /// What the client says it is.
    pub client_info: Option<Raw<'a>>,
}

impl<'a> Initialize<'a> {
    /// Reads the parameters of an `initialize` request.
    ///
    /// # Errors
    /// `-32602` if `protocolVersion` is no string or `capabilities` no object.
    pub fn read(request: &Request<'a>) -> Result<Self, Refusal> {
        let bad = |message| Refusal::bad_request(code::INVALID_PARAMS, message).with_id(Some(request.id));
        let requested = request.params.get("protocolVersion").and_then(Raw::string);
        let requested = requested.ok_or_else(|| bad("`protocolVersion` must be a string"))?;
        let capabilities = request.params.get("capabilities").unwrap_or(Raw::EMPTY_OBJECT);
        if !capabilities.is_object() {
            return Err(bad("`capabilities` must be an object"));
        }
        let negotiated = Version::parse(&requested).filter(|version| !version.is_modern());
        Ok(Self {
            requested,
            negotiated: negotiated.unwrap_or(Version::LATEST_LEGACY),
            capabilities: ClientCapabilities::read(capabilities),
            client_info: request.params.get("clientInfo").filter(|raw| raw.is_object()),
        })
    }
}

#[cfg(test)]
mod tests;
