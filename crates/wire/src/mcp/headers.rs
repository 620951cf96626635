//! The headers that mirror a body: checked against what a client sent, derived anew for what an upstream gets.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{Method, Params, Refusal, Version, code};
use crate::json::{Decimal, Kind, Raw};

/// The MCP headers of one HTTP request, as bytes.
#[derive(Debug, Clone, Default)]
pub struct Headers<'a> {
    protocol_version: Slot<'a>,
    method: Slot<'a>,
    name: Slot<'a>,
    session: Slot<'a>,
    params: Vec<(&'a str, &'a [u8])>,
}

#[derive(Debug, Clone, Copy, Default)]
enum Slot<'a> {
    #[default]
    Absent,
    One(&'a [u8]),
    Many,
}

impl<'a> Slot<'a> {
    fn add(&mut self, value: &'a [u8]) {
        *self = match self {
            Self::Absent => Self::One(value),
            Self::One(_) | Self::Many => Self::Many,
        };
    }

    /// The value without space around it. A header that comes twice, or is not visible ASCII, is an error.
    fn text(self) -> Result<Option<&'a str>, ()> {
        match self {
            Self::Absent => Ok(None),
            Self::Many => Err(()),
            Self::One(bytes) => visible(bytes).map(Some).ok_or(()),
        }
    }
}

impl<'a> Headers<'a> {
    /// Picks the MCP headers out of all headers of a request; names in any letter case.
    pub fn collect(all: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut headers = Self::default();
        for (name, value) in all {
            if !name.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("mcp")) {
                continue;
            }
            if name.eq_ignore_ascii_case("mcp-protocol-version") {
                headers.protocol_version.add(value);
            } else if name.eq_ignore_ascii_case("mcp-method") {
                headers.method.add(value);
            } else if name.eq_ignore_ascii_case("mcp-name") {
                headers.name.add(value);
            } else if name.eq_ignore_ascii_case("mcp-session-id") {
                headers.session.add(value);
            } else if let Some(param) = param_name(name) {
                headers.params.push((param, value));
            }
        }
        headers
    }

    /// `MCP-Protocol-Version`; an error if it is repeated or not visible ASCII.
    pub(crate) fn protocol_version(&self) -> Result<Option<&'a str>, ()> {
        self.protocol_version.text()
    }

    /// `Mcp-Session-Id` of a legacy client; an error if it is repeated or not visible ASCII.
    pub(crate) fn session(&self) -> Result<Option<&'a str>, ()> {
        self.session.text()
    }

    /// `Mcp-Session-Id`, if there is exactly one of visible ASCII.
    pub fn session_id(&self) -> Option<&'a str> {
        self.session().ok().flatten()
    }

    /// Names (after `Mcp-Param-`) and values of the parameter headers, as they came.
    pub fn params(&self) -> &[(&'a str, &'a [u8])] {
        &self.params
    }

    /// Checks `Mcp-Method` and `Mcp-Name` of a modern request against its body.
    pub(crate) fn check_body(&self, method: &str, params: &Params<'_>) -> Result<(), Refusal> {
        match self.method.text() {
            Ok(Some(header)) if header == method => {}
            Ok(None) => return Err(mismatch("Mcp-Method header is missing")),
            _ => {
                return Err(mismatch("Mcp-Method header does not match the request body's method"));
            }
        }
        let Some(field) = mirrored(method) else {
            return Ok(());
        };
        let Some(body) = field.of(params) else {
            return Err(Refusal::bad_request(code::INVALID_PARAMS, format!("`params.{}` is missing", field.name())));
        };
        let header = match self.name.text() {
            Ok(Some(header)) => header,
            Ok(None) => return Err(mismatch("Mcp-Name header is missing")),
            Err(()) => return Err(mismatch("Mcp-Name header is repeated or not ASCII")),
        };
        match decode(header) {
            Some(value) if value == body => Ok(()),
            Some(_) => Err(mismatch("Mcp-Name header does not match the request body")),
            None => Err(mismatch("Mcp-Name header is not valid base64")),
        }
    }

    /// Checks every `Mcp-Param-*` header that the tool's schema annotates against `arguments`.
    ///
    /// # Errors
    /// HTTP 400 with `-32020`: a header is missing, differs, is repeated, or stands for a value that is absent.
    pub fn check_params(&self, arguments: Raw<'_>, annotated: &[HeaderParam]) -> Result<(), Refusal> {
        for param in annotated {
            let mut slot = Slot::Absent;
            let same_name = self.params.iter().filter(|(name, _)| name.eq_ignore_ascii_case(&param.header));
            same_name.for_each(|(_, value)| slot.add(value));
            let differs = || mismatch(format!("Mcp-Param-{} header does not match the request body", param.header));
            let header = slot.text().map_err(|()| differs())?;
            match (header, param.value_in(arguments)) {
                (None, None) => {}
                (Some(header), Some(value)) => {
                    let header = decode(header).ok_or_else(differs)?;
                    if !param.kind.equal(&header, value) {
                        return Err(differs());
                    }
                }
                (None, Some(_)) => {
                    return Err(mismatch(format!("Mcp-Param-{} header is missing", param.header)));
                }
                (Some(_), None) => return Err(differs()),
            }
        }
        Ok(())
    }
}

/// A tool parameter that an `x-mcp-header` annotation mirrors into a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderParam {
    /// What follows `Mcp-Param-`.
    pub header: String,
    /// Property names from the arguments down to the value.
    pub path: Vec<String>,
    pub kind: HeaderKind,
}

/// The types that a header can mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderKind {
    String,
    Integer,
    Boolean,
}

impl HeaderKind {
    fn equal(self, header: &str, value: Raw<'_>) -> bool {
        match (self, value.kind()) {
            (Self::String, Kind::String) => value.string().is_some_and(|text| text == header),
            (Self::Boolean, Kind::Boolean) => value.text() == header,
            (Self::Integer, Kind::Number) => {
                let literal = Raw::parse(header.as_bytes(), &crate::json::Limits::REQUEST).ok();
                let number = literal.filter(|raw| raw.text() == header).and_then(Raw::number);
                number.is_some() && number == value.number() && number.as_ref().is_some_and(Decimal::is_whole)
            }
            _ => false,
        }
    }
}

impl HeaderParam {
    /// The value that the header mirrors; `None` if it is absent or null.
    pub fn value_in<'a>(&self, arguments: Raw<'a>) -> Option<Raw<'a>> {
        self.path.iter().try_fold(arguments, |value, name| value.member(name)).filter(|value| !value.is_null())
    }
}

/// Derives the headers of an upstream's modern request from what its rebuilt body says: `target` is the name, URI or task
/// id as the upstream knows it. Names in lower case, values as ASCII.
pub fn derive(method: Method, target: Option<&str>, arguments: Option<Raw<'_>>, annotated: &[HeaderParam]) -> Vec<(Cow<'static, str>, String)> {
    let mut headers =
        vec![(Cow::Borrowed("mcp-protocol-version"), Version::MODERN.as_str().to_owned()), (Cow::Borrowed("mcp-method"), method.as_str().to_owned())];
    if let Some(target) = target.filter(|_| mirrored(method.as_str()).is_some()) {
        headers.push((Cow::Borrowed("mcp-name"), encode(target)));
    }
    let arguments = arguments.unwrap_or(Raw::EMPTY_OBJECT);
    for param in annotated {
        if let Some(value) = param.value_in(arguments) {
            let text = value.string().unwrap_or(Cow::Borrowed(value.text()));
            let name = format!("mcp-param-{}", param.header.to_ascii_lowercase());
            headers.push((Cow::Owned(name), encode(&text)));
        }
    }
    headers
}

/// Which member of `params` the `Mcp-Name` header mirrors.
#[derive(Clone, Copy)]
enum Mirrored {
    Name,
    Uri,
    TaskId,
}

impl Mirrored {
    fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Uri => "uri",
            Self::TaskId => "taskId",
        }
    }

    fn of<'p>(self, params: &'p Params<'_>) -> Option<&'p str> {
        match self {
            Self::Name => params.name.as_deref(),
            Self::Uri => params.uri.as_deref(),
            Self::TaskId => params.task_id.as_deref(),
        }
    }
}

fn mirrored(method: &str) -> Option<Mirrored> {
    match method {
        "tools/call" | "prompts/get" => Some(Mirrored::Name),
        "resources/read" => Some(Mirrored::Uri),
        "tasks/get" | "tasks/update" | "tasks/cancel" => Some(Mirrored::TaskId),
        _ => None,
    }
}

/// A header value that we can carry: `text` itself if it is plain visible ASCII, else `=?base64?<base64 of UTF-8>?=`.
pub fn encode(text: &str) -> String {
    let bytes = text.as_bytes();
    let inner_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let plain = bytes.iter().all(|byte| byte.is_ascii_graphic() || inner_space(byte))
        && !bytes.is_empty()
        && !bytes.first().is_some_and(inner_space)
        && !bytes.last().is_some_and(inner_space)
        && !text.starts_with(ENCODED_START);
    if plain { text.to_owned() } else { format!("{ENCODED_START}{}{ENCODED_END}", STANDARD.encode(text)) }
}

/// What a header value stands for; `None` if it has the encoded form and is not base64 of UTF-8.
pub fn decode(header: &str) -> Option<Cow<'_, str>> {
    let encoded = header.strip_prefix(ENCODED_START).and_then(|rest| rest.strip_suffix(ENCODED_END));
    let Some(encoded) = encoded else { return Some(Cow::Borrowed(header)) };
    let bytes = STANDARD.decode(encoded).ok()?;
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

const ENCODED_START: &str = "=?base64?";
const ENCODED_END: &str = "?=";

fn param_name(name: &str) -> Option<&str> {
    let (start, rest) = name.split_at_checked("mcp-param-".len())?;
    start.eq_ignore_ascii_case("mcp-param-").then_some(rest)
}

fn visible(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?.trim_matches([' ', '\t']);
    text.bytes().all(|byte| byte.is_ascii_graphic() || matches!(byte, b' ' | b'\t')).then_some(text)
}

fn mismatch(message: impl Into<Cow<'static, str>>) -> Refusal {
    Refusal::bad_request(code::HEADER_MISMATCH, message)
}

#[cfg(test)]
mod tests;
